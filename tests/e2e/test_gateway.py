"""The gateway on real hosts: plain `docker buildx build` is spread, and goes on when a node dies, or the gateway.

For two architectures at once: arm64/test_two_gateways.
"""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import Operator, objects
from tests.support.building import Done, Kind, build, in_folder
from tests.support.lab import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.lab import Lab

PORT = 1238
AMD = ("amd-1", "amd-2")
PORTS = {"amd64": 1291, "arm64": 1292}
SLOW = "ARG BASE\nFROM $BASE\nARG SALT\nRUN echo $SALT; sleep 3\n"


def gateway(operator: Operator, **changed: Any) -> None:
    """Write the inventory with a gateway."""
    operator.inventory(AMD)
    operator.add_gateway(PORTS, **changed)


@pytest.fixture(scope="module")
def before(lab: Lab, operator: Operator) -> dict[str, str]:
    """What stands on the hosts before."""
    gateway(operator)
    return objects(lab, AMD)


@pytest.fixture(scope="module", autouse=True)
def _up(operator: Operator, before: dict[str, str]) -> None:  # noqa: ARG001 - looked at first
    operator.json("up")


@pytest.fixture(autouse=True)
def _mended(operator: Operator, lab: Lab) -> Iterator[None]:
    yield
    for name in AMD:
        lab.hosts[name].heal()
    gateway(operator)
    operator.json("up", expect=None)


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = in_folder(tmp_path / "context")
    (folder / "Dockerfile").write_text(SLOW)
    return folder


def plain(operator: Operator, *arguments: str) -> Kind:
    """What a person types who knows nothing of fleet."""
    return Kind("plain", ("docker", "buildx", "build", "--builder", operator.name, *arguments), operator.env)


def at_once(count: int, run: Callable[[], Done]) -> list[Done]:
    done: list[Done] = []
    threads = [threading.Thread(target=lambda: done.append(run())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done


def builds(operator: Operator) -> Counter[str]:
    """How many builds each node remembers."""
    return Counter(one["node"] for one in operator.json("builds", expect=None)["builds"])


def owners(operator: Operator) -> set[str]:
    """Who has amd64 in the builder of this machine, by the status."""
    status = operator.settled_status()
    nodes = {node["name"] for node in status["nodes"] if "linux/amd64" in node["owns"]}
    return nodes | {f"gateway on {gate['host']}" for gate in status["gateway"] if "linux/amd64" in gate["owns"]}


def container(operator: Operator) -> str:
    return f"fleet.{operator.name}.gateway"


@pytest.mark.parametrize("arguments", [(), ("--platform", "linux/amd64")], ids=["no platform", "amd64"])
def test_four_builds_at_once_are_spread_evenly(operator: Operator, context: Path, arguments: tuple[str, ...]) -> None:
    earlier, base = builds(operator), operator.lab.env()["LAB_BASE_IMAGE"]
    done = at_once(4, lambda: build(context, base, plain(operator, *arguments)))
    assert [one for one in done if one.code] == []
    assert builds(operator) - earlier == {"amd-1": 2, "amd-2": 2}


def test_a_plan_is_empty_and_the_status_shows_it(operator: Operator) -> None:
    assert operator.json("plan", "--exit-code")["empty"]
    [gate] = operator.settled_status()["gateway"]  # nobody here is arm64
    assert (gate["host"], gate["arch"], gate["health"], gate["reason"]) == ("amd-1", "amd64", "ready", None)
    assert owners(operator) == {"gateway on amd-1"}


@pytest.mark.parametrize("arguments", [("kill",), ("pause",)], ids=["killed", "frozen"])
def test_the_next_build_loses_nothing_when_a_node_dies(
    lab: Lab, operator: Operator, context: Path, arguments: tuple[str, ...]
) -> None:
    base = operator.lab.env()["LAB_BASE_IMAGE"]
    node = f"fleet.{operator.name}.amd-2"
    lab.hosts["amd-2"].ssh(f"docker {arguments[0]} {node}")
    done = [build(context, base, plain(operator)) for _ in range(2)]
    assert [one for one in done if one.code] == []
    # A frozen node takes a connection and is silent: until that is noticed, buildx waits.
    assert max(one.ended - one.begun for one in done) < (8 if arguments == ("kill",) else 18)
    lab.hosts["amd-2"].ssh(f"docker unpause {node} || docker start {node}")


def test_a_node_that_freezes_under_a_build_ends_it(lab: Lab, operator: Operator, context: Path) -> None:
    """Plain buildx would wait without end."""
    (context / "Dockerfile").write_text(SLOW.replace("sleep 3", "sleep 40"))
    base = operator.lab.env()["LAB_BASE_IMAGE"]
    nodes = {name: f"fleet.{operator.name}.{name}" for name in AMD}
    done: list[Done] = []
    thread = threading.Thread(target=lambda: done.append(build(context, base, plain(operator))))
    thread.start()
    operator.under_way()
    frozen = time.monotonic()
    for name, node in nodes.items():
        lab.hosts[name].ssh(f"docker pause {node}")
    thread.join(25)
    for name, node in nodes.items():
        lab.hosts[name].ssh(f"docker unpause {node}")
    thread.join()
    assert done[0].code
    assert done[0].ended - frozen < 17


def test_a_change_of_it_cuts_no_build(lab: Lab, operator: Operator, context: Path) -> None:
    base = operator.lab.env()["LAB_BASE_IMAGE"]
    done: list[Done] = []
    thread = threading.Thread(target=lambda: done.extend(at_once(3, lambda: build(context, base, plain(operator)))))
    thread.start()
    operator.under_way()
    gateway(operator, balance="source")
    report = operator.json("up")
    thread.join()
    assert report["remains"] is None
    assert [one for one in done if one.code] == []
    assert lab.hosts["amd-1"].ssh(f"docker ps -a --filter name={container(operator)} --format '{{{{.Names}}}}'") == (
        f"{container(operator)}\n"
    )


def test_daemons_are_replaced_under_builds_that_go_through_it(operator: Operator, context: Path) -> None:
    base, stop, done = operator.lab.env()["LAB_BASE_IMAGE"], threading.Event(), list[Done]()

    def loop() -> None:
        while not stop.is_set():
            done.append(build(context, base, plain(operator)))

    threads = [threading.Thread(target=loop) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        operator.json("restart", *AMD)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert done
    assert [str(one) for one in done if one.code] == []
    assert owners(operator) == {"gateway on amd-1"}


def test_a_gateway_that_is_killed_under_a_build_ends_it_and_up_lets_the_next_one_through(
    lab: Lab, operator: Operator, context: Path
) -> None:
    """Its connections end with it; buildx says so at once, and never tries again."""
    (context / "Dockerfile").write_text(SLOW.replace("sleep 3", "sleep 60"))
    base, done = operator.lab.env()["LAB_BASE_IMAGE"], list[Done]()
    thread = threading.Thread(target=lambda: done.append(build(context, base, plain(operator))))
    thread.start()
    operator.under_way()
    killed = time.monotonic()
    lab.hosts["amd-1"].ssh(f"docker kill {container(operator)}")
    thread.join()
    # A reset, where it had something to read.
    assert re.search(r"error reading from server: (EOF|.*connection reset)", done[0].said), done[0]
    assert done[0].code == 1
    assert done[0].ended - killed < 10
    operator.json("up")
    assert owners(operator) == {"gateway on amd-1"}
    (context / "Dockerfile").write_text(SLOW)
    assert build(context, base, plain(operator)).code == 0


def test_a_dead_gateway_is_mended_by_up(lab: Lab, operator: Operator, context: Path) -> None:
    lab.hosts["amd-1"].ssh(f"docker kill {container(operator)} && docker wait {container(operator)}")

    def explained() -> bool | None:
        # On a machine that is busy the login may not be in time to say why the port is closed.
        gate = operator.json("status", expect=3)["gateway"][0]
        assert gate["health"] == "down"
        return gate["reason"].startswith(f"container: {container(operator)}: Exited") or None

    eventually(explained)
    operator.json("up")
    assert owners(operator) == {"gateway on amd-1"}
    assert build(context, operator.lab.env()["LAB_BASE_IMAGE"], plain(operator)).code == 0


def test_builds_go_without_a_gateway_that_cannot_be_reached(lab: Lab, operator: Operator, context: Path) -> None:
    """The ports are the host's own, which its firewall may close."""
    rule = f"INPUT -p tcp --dport {PORTS['amd64']} -j REJECT --reject-with tcp-reset"
    lab.hosts["amd-1"].ssh(f"iptables -I {rule}")
    try:
        report = operator.json("up")
        assert report["builder"]["warning"]["stage"] == "gateway"
        assert "builds for amd64 go to the nodes without it" in report["builder"]["warning"]["reason"]
        assert owners(operator) == {"amd-1"}
        assert operator.json("plan", "--exit-code")["empty"]
        assert build(context, operator.lab.env()["LAB_BASE_IMAGE"], plain(operator)).code == 0
    finally:
        lab.hosts["amd-1"].ssh(f"iptables -D {rule}")
    operator.json("up")
    assert owners(operator) == {"gateway on amd-1"}


def test_a_drained_node_is_passed_by_and_then_taken_out(operator: Operator, context: Path) -> None:
    operator.json("drain", "amd-1")
    assert owners(operator) == {"amd-2"}
    operator.json("up")
    assert owners(operator) == {"gateway on amd-1"}
    assert operator.json("plan", "--exit-code")["empty"]
    earlier, base = builds(operator), operator.lab.env()["LAB_BASE_IMAGE"]
    done = at_once(3, lambda: build(context, base, plain(operator)))
    assert [str(one) for one in done if one.code] == []
    assert builds(operator) - earlier == {"amd-2": 3}
    operator.json("resume", "amd-1")
    operator.json("up")
    done = at_once(2, lambda: build(context, base, plain(operator)))
    assert builds(operator) - earlier == {"amd-1": 1, "amd-2": 4}


def test_fleet_build_does_not_go_through_it(lab: Lab, operator: Operator, context: Path) -> None:
    lab.hosts["amd-1"].ssh(f"docker kill {container(operator)}")
    command = ("fleet", "build", "--platform", "linux/amd64")
    assert build(context, operator.lab.env()["LAB_BASE_IMAGE"], Kind("fleet", command, operator.env)).code == 0


def test_who_joins_goes_through_it(operator: Operator, context: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    operator.fleet("certs", "issue", "ci", "--output", "bundle", "--force")
    member = operator.elsewhere(tmp_path_factory.mktemp("member"))
    shutil.copy(operator.home / "bundle", member.home / "bundle")
    status = member.json("join", "bundle")
    assert [(gate["host"], gate["health"]) for gate in status["gateway"]] == [("amd-1", "ready")]
    assert owners(member) == {"gateway on amd-1"}
    earlier, base = builds(operator), operator.lab.env()["LAB_BASE_IMAGE"]
    done = at_once(2, lambda: build(context, base, plain(member)))
    assert [str(one) for one in done if one.code] == []
    assert builds(operator) - earlier == {"amd-1": 1, "amd-2": 1}
    member.fleet("leave", operator.name)


def test_down_leaves_nothing(lab: Lab, operator: Operator, before: dict[str, str]) -> None:
    operator.fleet("down", "--volumes", "--yes")
    assert objects(lab, AMD) == before
