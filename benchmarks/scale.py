"""`fleet plan` of a thousand simulated hosts: the time and the memory of deciding, without a network.

Each case is a process of its own, so that what it needs of memory is its own; imports and the facts are not part of
the time, but of the memory. Prints a table; with --write it also goes into README.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.cli.output import plan_json
from fleet.model.facts import Down, Image, NodeFacts, Stage
from fleet.planning.plan import plan
from tests.support.values import NOW, builder, facts, fleet, found, host, node, running

if TYPE_CHECKING:
    from fleet.model.facts import Facts
    from fleet.model.spec import FleetSpec

README = Path(__file__).parent.parent / "README.md"
MARK = "<!-- bench:scale -->\n"
CASES = {
    "fresh": "nothing is there yet",
    "settled": "nothing to do",
    "upgrade": "another image everywhere",
}
REFUSED = Down(Stage.TCP, "it refused the connection")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="put the table into README")
    parser.add_argument("--case", choices=CASES, help="one case, in this process")
    options = parser.parse_args()
    if options.case:
        _measure(options.case, options.hosts)
        return
    lines = ["| `plan` of so many hosts | time, slowest | memory | to reach |", "|---|---|---|---|"]
    for case, words in CASES.items():
        runs = [_run(case, options.hosts) for _ in range(options.rounds)]
        seconds, megabytes = (max(column) for column in zip(*runs, strict=True))
        lines.append(f"| {options.hosts:,}, {words} | {seconds:.2f} s | {megabytes:.0f} MB | under 1 s and 200 MB |")
    table = "\n".join(lines) + "\n"
    print(table)
    if options.write:
        before, _, rest = README.read_text().partition(MARK)
        README.write_text(before + MARK + table + rest[rest.index("<!-- /bench -->") :])


def _run(case: str, hosts: int) -> tuple[float, float]:
    program = (sys.executable, "-m", "benchmarks.scale", "--case", case, "--hosts", str(hosts))
    seconds, megabytes = subprocess.run(program, check=True, capture_output=True, text=True).stdout.split()
    return float(seconds), float(megabytes)


def _measure(case: str, hosts: int) -> None:
    """Print the seconds and the megabytes that deciding takes, the words for people included."""
    spec, seen = _world(case, hosts)
    started = time.perf_counter()
    decided = plan_json(plan(spec, seen, NOW))
    seconds = time.perf_counter() - started
    assert decided["empty"] == (case == "settled")
    assert not any(one["blocked"] for one in decided["nodes"])
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)


def _world(case: str, hosts: int) -> tuple[FleetSpec, Facts]:
    machines = {f"node-{number}": ("x86_64", "aarch64")[number % 2] for number in range(hosts)}
    spec = fleet(*(host(name) for name in machines))
    if case == "fresh":
        lacking = {machine: found(machine, image=Image.ABSENT) for machine in set(machines.values())}
        return spec, facts({name: NodeFacts(lacking[machine], REFUSED) for name, machine in machines.items()})
    nodes = {name: running(spec, name, machine) for name, machine in machines.items()}
    settled = facts(nodes, registered=builder(*(node(name, *_pinned(name)) for name in machines)))
    if case == "upgrade":
        spec = replace(spec, buildkit=replace(spec.buildkit, image="moby/buildkit:v0.33.0"))
    return spec, settled


def _pinned(name: str) -> tuple[str, ...]:
    """The first of each architecture is the owner of it, the others stand by."""
    amd = ("linux/amd64", "linux/amd64/v2", "linux/amd64/v3", "linux/386")
    arm = ("linux/arm64", "linux/arm/v7", "linux/arm/v6")
    return {"node-0": amd, "node-1": arm}.get(name, ())


if __name__ == "__main__":
    main()
