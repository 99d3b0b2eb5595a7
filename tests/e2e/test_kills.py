"""`fleet up` killed at every boundary of its actions: the next run ends as if nothing had happened."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Mapping
from typing import Any

import pytest

from tests.e2e.conftest import Operator

PORT = 1283
AMD = ("amd-1", "amd-2")


def change(operator: Operator, parallelism: int) -> str:
    """Want another setting of BuildKit, which makes no difference here, on the node that owns the platforms; which."""
    [owner] = [name for name, platforms in builder(operator) if platforms]
    path = operator.home / "inventory.yaml"
    wanted = json.loads(path.read_text())
    wanted["hosts"][owner]["buildkit"] = {"config": {"worker": {"oci": {"max-parallelism": parallelism}}}}
    path.write_text(json.dumps(wanted))
    return owner


def told(stderr: str) -> list[str]:
    """What `-v` has told, in order, without the times."""
    return [said for line in stderr.splitlines() if (said := line.partition(" s  ")[2])]


def stands(operator: Operator) -> dict[str, str]:
    """The fleet's containers and volumes on each host, and when these were made."""
    name = f"fleet.{operator.name}"
    ask = (
        f"docker ps -a --filter name={name} --format '{{{{.Names}}}} {{{{.State}}}}'; "
        f"docker volume ls -q --filter name={name} | xargs docker volume inspect -f '{{{{.Name}}}} {{{{.CreatedAt}}}}'"
    )
    return {host: operator.lab.hosts[host].ssh(ask) for host in AMD}


def builder(operator: Operator) -> list[tuple[str, str]]:
    """The nodes that buildx has, and what they own."""
    stored: dict[str, Any] = json.loads((operator.home / "buildx/instances" / operator.name).read_text())
    return [
        (node["Name"], ", ".join(sorted({entry["architecture"] for entry in node["Platforms"] or ()})))
        for node in stored["Nodes"]
    ]


@pytest.mark.timeout(600)
def test_killed_at_every_boundary_the_next_run_ends_in_the_wanted_state(operator: Operator) -> None:
    operator.inventory(AMD)
    operator.fleet("up")
    whole, owner = stands(operator), change(operator, 31)
    boundaries = told(operator.fleet("up", "-v").stderr)
    assert [line.partition(": ")[0] for line in boundaries].count(owner) >= 9, boundaries
    assert stands(operator) == whole
    for number, boundary in enumerate(boundaries):
        former, owner = owner, change(operator, 32 + number)
        swapped = {former: owner, owner: former} if former != owner else {}
        boundaries = [_renamed(line, swapped) for line in boundaries]
        killed = operator.at("up", lines=boundaries[: number + 1], do=subprocess.Popen.kill)
        left = ", ".join(line for line in stands(operator)[owner].splitlines() if "running" in line or "aside" in line)
        began = time.monotonic()
        report = operator.json("up")
        print(f"| {boundary} | {left} | {time.monotonic() - began:.1f} s |")  # noqa: T201 - the table to quote
        assert killed.returncode == -9, boundary
        assert report["remains"] is None, boundary
        assert stands(operator) == whole, boundary
        assert [name for name, _ in builder(operator)] == list(AMD), boundary
        assert operator.json("plan", "--exit-code")["empty"], boundary
    left_word = [entry for entry in operator.json("history")["entries"] if entry["result"] == "unfinished"]
    # Every one that was killed after its first step, and none of those that were not killed.
    assert len(boundaries) - 6 <= len(left_word) <= len(boundaries), left_word
    health = {node["name"]: node["health"] for node in operator.settled_status()["nodes"]}
    assert health == dict.fromkeys(AMD, "ready")


def _renamed(line: str, names: Mapping[str, str]) -> str:
    return re.sub("|".join(AMD), lambda found: names.get(found[0], found[0]), line)
