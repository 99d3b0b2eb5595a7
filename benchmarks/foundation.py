"""Start-up, status, `up` with nothing to do, and what `fleet build` adds: each beside its yardstick, in one run.

Prints a table; with --write it also goes into README. Machines are noisy, so pairs are run in turn, medians are
quoted, and what counts is the ratio or the difference within this run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.lab import Lab

README = Path(__file__).parent.parent / "README.md"
MARK = "<!-- bench:foundation -->\n"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action="store_true", help="put the table into README")
    options = parser.parse_args()
    _timed("fleet", "up")
    with tempfile.TemporaryDirectory() as context:
        base = f"FROM {os.environ['LAB_BASE_IMAGE']}\nRUN uname -m\n"
        (Path(context) / "Dockerfile").write_text(base)
        table = _table(options.rounds, context)
    print(table)
    if options.write:
        before, _, rest = README.read_text().partition(MARK)
        README.write_text(before + MARK + table + rest[rest.index("<!-- /bench -->") :])


def _table(rounds: int, context: str) -> str:
    build = ("build", "--platform", "linux/amd64", "--progress", "quiet", context)
    rows: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, seconds in {
            "help": _timed("fleet", "--help"),
            "status": _timed("fleet", "status"),
            "up": _timed("fleet", "up"),
            "ssh": _logins(),
            "build": _timed("fleet", *build),
            "buildx": _timed("docker", "buildx", *build[:1], "--builder", "lab", *build[1:]),
        }.items():
            rows.setdefault(name, []).append(seconds)
    rows["black hole"] = _black_holed(rounds)
    median = {name: statistics.median(seconds) for name, seconds in rows.items()}
    ratio = statistics.median(up / ssh for up, ssh in zip(rows["up"], rows["ssh"], strict=True))
    added = statistics.median(ours - stock for ours, stock in zip(rows["build"], rows["buildx"], strict=True))
    return (
        "| what | median | to reach |\n|---|---|---|\n"
        f"| `fleet --help` | {median['help']:.2f} s | under 0.2 s |\n"
        f"| `fleet status`, three healthy nodes, one of them emulated | {median['status']:.2f} s | under 1 s |\n"
        f"| `fleet status` with a black-holed host, longest of {rounds} | {max(rows['black hole']):.2f} s "
        "| at most 1.5 s |\n"
        f"| `fleet up` with nothing to do, against `ssh HOST true` on the same hosts at once ({median['ssh']:.2f} s) "
        f"| {median['up']:.2f} s, {ratio:.2f} × | at most 1.5 × |\n"
        f"| added by `fleet build` to `docker buildx build` of the same, cached ({median['buildx']:.2f} s) "
        f"| {added:+.2f} s | at most 0.3 s |\n"
    )


def _black_holed(rounds: int) -> list[float]:
    host = Lab.current().hosts["amd-2"]
    host.blackhole()
    try:
        return [_timed("fleet", "status", expect=3) for _ in range(rounds)]
    finally:
        host.heal()


def _logins() -> float:
    """OpenSSH logging in to every host of the lab at once."""
    lab = json.loads((Path(os.environ["LAB_HOME"]) / "lab.json").read_text())
    options = ("-F", "none", "-i", lab["identity_file"], "-o", f"UserKnownHostsFile={lab['known_hosts_file']}")
    targets = [f"{host['user']}@{host['address']}" for host in lab["hosts"] if host["standard"]]
    started = time.perf_counter()
    with ThreadPoolExecutor(len(targets)) as pool:
        list(pool.map(lambda target: _timed("ssh", *options, target, "true"), targets))
    return time.perf_counter() - started


def _timed(*command: str, expect: int = 0) -> float:
    started = time.perf_counter()
    status = subprocess.run(command, check=False, capture_output=True).returncode
    seconds = time.perf_counter() - started
    assert status == expect, f"{' '.join(command)} exited {status}"
    return seconds


if __name__ == "__main__":
    main()
