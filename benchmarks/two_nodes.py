"""A fleet of its own on the lab's two amd64 hosts, and builds there as people type them: with fleet, and without."""

from __future__ import annotations

import json
import os
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fleet import buildx
from fleet.adapters.builder import BuildxBuilder
from fleet.model.platforms import Platform
from tests.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

NAME = "spread"
NODES = ("amd-1", "amd-2")
PORT = 1273
GATEWAY_PORT = 1274
MOST = 2
"""Builds that a node may have at a time, unless said otherwise."""

WAYS: Mapping[str, tuple[str, ...]] = {
    "stock": ("docker", "buildx", "build", "--builder", "stock"),
    "fleet": ("fleet", "build"),
    "gateway": ("docker", "buildx", "build", "--builder", NAME),
}
"""How a build is typed. The first goes to a builder of the same nodes that buildx was told by hand."""


@dataclass(frozen=True, slots=True)
class Bench:
    """The fleet, and this machine's folders."""

    lab: Lab
    home: Path
    env: Mapping[str, str]

    def command(self, way: str, context: str, *arguments: str, platform: str = "linux/amd64") -> tuple[str, ...]:
        """A build of this folder."""
        quietly = ("--progress", "quiet", "--output", "type=cacheonly")
        return (*WAYS[way], "--platform", platform, *quietly, *arguments, str(self.home / context))

    def anew(self, way: str, context: str) -> tuple[str, ...]:
        """A build that is not cached."""
        return self.command(way, context, "--build-arg", f"SALT={time.perf_counter()}")

    def context(self, name: str, *steps: str) -> Path:
        """A folder with a Dockerfile of these steps."""
        (self.home / name).mkdir()
        first = f"FROM {self.env['LAB_BASE_IMAGE']}\nARG SALT\n"
        (self.home / name / "Dockerfile").write_text(first + "".join(f"{step}\n" for step in steps))
        return self.home / name

    def timed(self, *commands: Sequence[str]) -> float:
        """Seconds that these take side by side; all have to succeed."""
        began = time.perf_counter()
        pipe = subprocess.PIPE
        started = [subprocess.Popen(argv, env=self.env, stdout=subprocess.DEVNULL, stderr=pipe) for argv in commands]
        for process in started:
            _, said = process.communicate()
            assert process.returncode == 0, said.decode()
        return time.perf_counter() - began

    def json(self, *arguments: str) -> Any:
        """What fleet says with --json."""
        argv = ("fleet", *arguments, "--json")
        return json.loads(subprocess.run(argv, env=self.env, check=True, stdout=subprocess.PIPE).stdout)

    def on(self, name: str, command: str) -> None:
        """Run this on a host; DAEMON stands for the container of this fleet's daemon."""
        self.lab.hosts[name].ssh(command.replace("DAEMON", f"fleet.{NAME}.{name}"))

    def mend(self) -> None:
        """All nodes are as they were."""
        for name in NODES:
            self.lab.hosts[name].heal()
            self.on(name, "docker start DAEMON")
        self.up()

    def up(self) -> None:
        """All is as the inventory says; what is too slow at first, on a busy machine, gets a second chance."""
        argv = ("fleet", "up")
        if subprocess.run(argv, env=self.env, check=False, capture_output=True).returncode:
            self.timed(argv)


@contextmanager
def fleet(home: Path, most: int = MOST) -> Iterator[Bench]:
    """Deployed in this folder, with a gateway, and gone at the end."""
    lab = Lab.current()
    env = {**os.environ, **lab.env()}
    content = {
        "fleet": NAME,
        "max_builds": most,
        "buildkit": {
            "image": env["LAB_BUILDKIT_IMAGE"],
            "config": {
                "registry": {env["LAB_REGISTRY"]: {"http": True}},
                # What stock buildx is held to, which knows nothing of max_builds.
                "worker": {"oci": {"max-parallelism": most}},
            },
        },
        "gateway": {"hosts": [NODES[0]], "image": env["LAB_GATEWAY_IMAGE"], "ports": {"amd64": GATEWAY_PORT}},
        "ssh": {
            "user": "build",
            "identity_file": str(lab.home.ssh_key),
            "known_hosts_file": str(lab.home.known_hosts),
        },
        "hosts": {name: {"address": lab.hosts[name].host.address, "port": PORT} for name in NODES},
    }
    # JSON is YAML.
    (home / "inventory.yaml").write_text(json.dumps(content))
    env |= {
        "FLEET_INVENTORY": str(home / "inventory.yaml"),
        "FLEET_HOME": str(home / "vault"),
        "BUILDX_CONFIG": str(home / "buildx"),
    }
    bench = Bench(lab, home, env)
    # A killed run leaves its daemons, and takes their vault with it.
    bench.timed(("fleet", "down", "--any-vault", "--volumes", "--yes"))
    try:
        bench.up()
        registered = BuildxBuilder(home / "buildx").read(NAME).nodes
        by_hand = [
            replace(node, platforms=(Platform("linux", "amd64"),) if node.name == NODES[0] else ())
            for node in registered
            if node.name in NODES
        ]
        for step in buildx.steps((), by_hand):
            bench.timed(("docker", "buildx", *buildx.arguments("stock", step)))
        yield bench
    finally:
        for name in NODES:
            lab.hosts[name].heal()
        bench.timed(("fleet", "down", "--volumes", "--yes"))
