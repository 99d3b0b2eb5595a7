"""How often a project finds its cache on the node where it builds: on two nodes, and on one, which has it always."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.two_nodes import NODES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.two_nodes import Bench

PROJECTS = 20
REBUILDS = 3
AT_ONCE = 2
"""Builds at a time."""

STEPS = ("COPY dependencies /", "RUN cat /dependencies > /installed", "RUN cp /installed /checked", "COPY source /")
"""Between rebuilds the source changes, as it does."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Of builds, as their nodes count."""

    cached: int
    done: int

    @property
    def share(self) -> float:
        """In percent."""
        return 100 * self.cached / self.done


def rows(bench: Bench) -> Iterator[str]:
    """Of the table."""
    two = _rebuilt(bench, "on-two")
    spec = json.loads((bench.home / "inventory.yaml").read_text())
    spec["hosts"] = {NODES[0]: spec["hosts"][NODES[0]]}
    (bench.home / "one.yaml").write_text(json.dumps(spec))
    one = _rebuilt(replace(bench, env={**bench.env, "FLEET_INVENTORY": str(bench.home / "one.yaml")}), "on-one")
    what = f"steps cached, {PROJECTS} projects built and then {REBUILDS} times with another source, {AT_ONCE} at a time"
    yield (
        f"| {what}; on one node {one.share:.1f} % | on two {two.share:.1f} %, {two.share - one.share:+.1f} points "
        "| within 2 points |"
    )


def _rebuilt(bench: Bench, name: str) -> Steps:
    folders = [_project(bench, f"{name}-{number}") for number in range(PROJECTS)]
    rounds = list[list[Steps]]()
    for number in range(1 + REBUILDS):
        for folder in folders:
            (folder / "source").write_text(f"{folder} {number}")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            rounds.append(list(pool.map(partial(_built, bench), folders)))
    again = [steps for found in rounds[1:] for steps in found]
    return Steps(sum(steps.cached for steps in again), sum(steps.done for steps in again))


def _project(bench: Bench, name: str) -> Path:
    folder = bench.context(name, *STEPS)
    (folder / "dependencies").write_text(str(folder))
    return folder


def _built(bench: Bench, folder: Path) -> Steps:
    [build] = bench.json(*bench.command("fleet", folder.name)[1:])["builds"]
    return Steps(build["steps"]["cached"], build["steps"]["done"])
