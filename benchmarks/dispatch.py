"""Builds over two nodes of one architecture, by `fleet build` and by stock buildx: spread, and with a dead node.

On the lab's amd64 hosts, with a fleet of its own. Prints a table; with --write it also goes into README. Stock buildx
and fleet have the same nodes and limits, and run in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.foundation import README
from fleet.dispatching.spread import order
from tests.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MARK = "<!-- bench:dispatch -->\n"
NAME = "spread"
NODES = ("amd-1", "amd-2")
PORT = 1273
AT_ONCE = 8
MOST = 2
SECONDS = 5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="put the table into README")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, fleet(Path(home)) as bench:
        table = _table(bench, options.rounds)
    print(table)
    if options.write:
        before, _, rest = README.read_text().partition(MARK)
        README.write_text(before + MARK + table + rest[rest.index("<!-- /bench -->") :])


@dataclass(frozen=True, slots=True)
class Bench:
    """A fleet on the lab's two amd64 hosts."""

    lab: Lab
    home: Path
    env: Mapping[str, str]

    def command(self, name: str, context: str) -> tuple[str, ...]:
        """A build that is not cached."""
        typed = {"fleet": ("fleet", "build"), "stock": ("docker", "buildx", "build", "--builder", NAME)}[name]
        salted = ("--build-arg", f"SALT={time.perf_counter()}")
        return (*typed, "--platform", "linux/amd64", "--progress", "quiet", *salted, str(self.home / context))

    def context(self, name: str, *steps: str) -> None:
        """A folder with a Dockerfile of these steps."""
        (self.home / name).mkdir()
        base = os.environ["LAB_BASE_IMAGE"]
        (self.home / name / "Dockerfile").write_text(
            f"FROM {base}\nARG SALT\n" + "".join(f"RUN {step}\n" for step in steps)
        )

    def mend(self) -> None:
        """Both nodes are as they were."""
        for name in NODES:
            self.lab.hosts[name].heal()
            self.lab.hosts[name].ssh(f"docker start fleet.{NAME}.{name}")
        subprocess.run(("fleet", "up"), env=self.env, check=True, capture_output=True)

    def timed(self, *commands: tuple[str, ...]) -> float:
        """Seconds that these take side by side; all have to succeed."""
        began = time.perf_counter()
        started = [subprocess.Popen(argv, env=self.env, stderr=subprocess.PIPE) for argv in commands]
        for process in started:
            _, said = process.communicate()
            assert process.returncode == 0, said.decode()
        return time.perf_counter() - began


@contextmanager
def fleet(home: Path) -> Iterator[Bench]:
    """Deployed in this folder, and gone at the end."""
    lab = Lab.current()
    content = {
        "fleet": NAME,
        "max_builds": MOST,
        "buildkit": {
            "image": os.environ["LAB_BUILDKIT_IMAGE"],
            "config": {
                "registry": {os.environ["LAB_REGISTRY"]: {"http": True}},
                # What stock buildx is held to, which knows nothing of max_builds.
                "worker": {"oci": {"max-parallelism": MOST}},
            },
        },
        "ssh": {
            "user": "build",
            "identity_file": str(lab.home.ssh_key),
            "known_hosts_file": str(lab.home.known_hosts),
        },
        "hosts": {name: {"address": lab.hosts[name].host.address, "port": PORT} for name in NODES},
    }
    # JSON is YAML.
    (home / "inventory.yaml").write_text(json.dumps(content))
    env = os.environ | {
        "FLEET_INVENTORY": str(home / "inventory.yaml"),
        "FLEET_HOME": str(home / "vault"),
        "BUILDX_CONFIG": str(home / "buildx"),
    }
    subprocess.run(("fleet", "up"), env=env, check=True, capture_output=True)
    try:
        yield Bench(lab, home, env)
    finally:
        for name in NODES:
            lab.hosts[name].heal()
        subprocess.run(("fleet", "down", "--volumes", "--yes"), env=env, check=True, capture_output=True)


def _table(bench: Bench, rounds: int) -> str:
    bench.context("long", f"echo $SALT; sleep {SECONDS}")
    bench.context("short", "echo $SALT")
    for name in ("stock", "fleet"):
        bench.timed(bench.command(name, "short"))
    many: dict[str, list[float]] = {"stock": [], "fleet": []}
    for _ in range(rounds):
        for name, seconds in many.items():
            seconds.append(bench.timed(*(bench.command(name, "long") for _ in range(AT_ONCE))))
    stock, ours = (statistics.median(many[name]) for name in ("stock", "fleet"))
    ratio = statistics.median(one / other for one, other in zip(many["fleet"], many["stock"], strict=True))
    first = order(str(bench.home / "short"), dict.fromkeys(NODES, MOST))[0]
    host = bench.lab.hosts[first]

    def stop() -> None:
        host.ssh(f"docker stop -t 1 fleet.{NAME}.{first}")

    dead, silent = (_added(bench, rounds, break_it) for break_it in (stop, host.blackhole))
    return (
        "| what | measured | to reach |\n|---|---|---|\n"
        f"| {AT_ONCE} builds of {SECONDS} s at once on two nodes limited to {MOST} each, against stock buildx "
        f"({stock:.1f} s) | {ours:.1f} s, {ratio:.2f} × | at most 0.55 × |\n"
        f"| added when the project's own node is dead (stock fails after 20 s) | {dead:+.2f} s | at most 1.5 s |\n"
        f"| the same, black-holed (stock fails after 34 s) | {silent:+.2f} s | at most 1.5 s |\n"
    )


def _added(bench: Bench, rounds: int, break_it: Callable[[], None]) -> float:
    """Seconds that a build takes longer when its node is broken."""
    healthy = statistics.median(bench.timed(bench.command("fleet", "short")) for _ in range(rounds))
    break_it()
    broken = statistics.median(bench.timed(bench.command("fleet", "short")) for _ in range(rounds))
    bench.mend()
    return broken - healthy


if __name__ == "__main__":
    main()
