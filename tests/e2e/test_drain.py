"""Draining on real nodes: what operators, clients, `fleet build` and plain buildx make of it, and what it outlives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import Operator

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab import Lab

PORT = 1275
AMD = ("amd-1", "amd-2")


@pytest.fixture(scope="module", autouse=True)
def _up(operator: Operator) -> None:
    operator.inventory(AMD)
    operator.json("up")


@pytest.fixture(autouse=True)
def _resumed(operator: Operator) -> object:
    yield
    operator.json("resume", *AMD)


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "Dockerfile").write_text("ARG BASE\nFROM $BASE\nARG SALT\nRUN uname -m\n")
    return tmp_path


def health(operator: Operator) -> dict[str, str]:
    return {node["name"]: node["health"] for node in operator.settled_status()["nodes"]}


def owners(operator: Operator) -> set[str]:
    return {node["name"] for node in operator.settled_status()["nodes"] if node["owns"]}


def test_a_drained_node_gives_what_it_owns_to_the_other(operator: Operator) -> None:
    before = owners(operator)
    assert before == {"amd-1"}
    drained = operator.json("drain", "amd-1", "--wait")
    assert {node["name"]: node["health"] for node in drained["nodes"]} == {"amd-1": "drained", "amd-2": "ready"}
    assert owners(operator) == {"amd-2"}
    assert operator.json("plan", "--exit-code")["empty"]
    operator.json("resume", "amd-1")
    assert health(operator) == {"amd-1": "ready", "amd-2": "ready"}


def test_fleet_build_goes_to_the_other_and_refuses_when_there_is_none(operator: Operator, context: Path) -> None:
    operator.json("drain", "amd-1")
    build = ("build", "--platform", "linux/amd64", "--progress", "plain", *context_arguments(operator), str(context))
    operator.fleet(*build)
    operator.json("drain", "amd-2")
    refused = operator.fleet(*build, expect=1)
    assert "no healthy node runs linux/amd64" in refused.stderr
    assert "drained: by " in refused.stderr


def context_arguments(operator: Operator) -> tuple[str, ...]:
    return ("--build-arg", f"BASE={operator.lab.env()['LAB_BASE_IMAGE']}", "--build-arg", "SALT=drain")


def test_a_drain_outlives_the_daemon_and_its_replacement(lab: Lab, operator: Operator) -> None:
    container = f"fleet.{operator.name}.amd-1"
    operator.json("drain", "amd-1")
    lab.hosts["amd-1"].ssh(f"docker restart -t 5 {container}")
    assert operator.settled_status()["nodes"][0]["health"] == "drained"
    lab.hosts["amd-1"].ssh(f"docker rm -f {container}")
    operator.json("up")
    assert health(operator) == {"amd-1": "drained", "amd-2": "ready"}
    assert owners(operator) == {"amd-2"}


def test_a_node_that_is_not_there_cannot_be_drained(operator: Operator) -> None:
    refused = operator.fleet("drain", "amd-9", expect=2)
    assert "no host 'amd-9'" in refused.stderr


def test_a_silent_node_is_named_and_the_others_are_drained(lab: Lab, operator: Operator) -> None:
    container = f"fleet.{operator.name}.amd-1"
    lab.hosts["amd-1"].ssh(f"docker stop -t 1 {container}")
    try:
        partly = operator.fleet("drain", *AMD, expect=3)
        assert "amd-1: TCP: " in partly.stderr or "amd-1: API: " in partly.stderr
    finally:
        operator.json("up")
    assert health(operator)["amd-2"] == "drained"


def test_a_restart_replaces_the_container_and_keeps_the_cache(lab: Lab, operator: Operator) -> None:
    name = f"fleet.{operator.name}.amd-1"

    def ids() -> tuple[str, str]:
        container = lab.hosts["amd-1"].ssh(f"docker inspect -f '{{{{.Id}}}}' {name}")
        return container, lab.hosts["amd-1"].ssh(f"docker volume inspect -f '{{{{.CreatedAt}}}}' {name}")

    before = ids()
    report = operator.json("restart", "amd-1")
    assert [(node["name"], node["result"]) for node in report["nodes"]] == [("amd-1", "done")]
    after = ids()
    assert after[0] != before[0]
    assert after[1] == before[1]
    assert operator.json("plan", "--exit-code")["empty"]
