"""A gateway for each of two architectures: plain `docker buildx build` of both goes through both, and is native."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e.conftest import Operator
from tests.e2e.test_gateway import builds, plain
from tests.support.building import build, in_folder

if TYPE_CHECKING:
    from pathlib import Path

PORT = 1273
NODES = ("amd-1", "arm-1")
PORTS = {"amd64": 1271, "arm64": 1272}


def test_each_architecture_has_its_port(operator: Operator, tmp_path: Path) -> None:
    context = in_folder(tmp_path / "context")
    (context / "Dockerfile").write_text("ARG BASE\nFROM $BASE\nARG SALT\nRUN echo $SALT on $(uname -m)\n")
    # The second comes to one that stands.
    for nodes in (NODES[:1], NODES):
        operator.inventory(nodes)
        operator.add_gateway(PORTS)
        operator.json("up")
    gates = operator.settled_status()["gateway"]
    assert [(gate["arch"], gate["health"]) for gate in gates] == [("amd64", "ready"), ("arm64", "ready")]
    assert [[platform for platform in gate["owns"] if platform == f"linux/{gate['arch']}"] for gate in gates] == [
        ["linux/amd64"],
        ["linux/arm64"],
    ]
    done = build(
        context, operator.lab.env()["LAB_BASE_IMAGE"], plain(operator, "--platform", "linux/amd64,linux/arm64")
    )
    assert done.code == 0, done
    assert {" on x86_64", " on aarch64"} <= {
        line[line.rfind(" on ") :] for line in done.said.splitlines() if " on " in line
    }
    assert builds(operator) == dict.fromkeys(NODES, 1)
    operator.json("down", "--host", "arm-1", "--volumes", "--yes")
    operator.inventory(NODES[:1])
    operator.add_gateway(PORTS)
    operator.json("up")
    [gate] = operator.settled_status()["gateway"]
    assert (gate["arch"], gate["health"]) == ("amd64", "ready")
