"""`fleet watch` on real hosts: who types `docker buildx build` goes on when an owner dies, or the gateway."""

from __future__ import annotations

import json
import queue
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.e2e.conftest import Operator, objects
from tests.e2e.test_dispatch import on
from tests.e2e.test_gateway import at_once, builds, plain
from tests.support.building import Done, build, in_folder

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab import Lab

PORT = 1289
AMD = ("amd-1", "amd-2")
PORTS = {"amd64": 1293, "arm64": 1294}

WITHIN = 15.0
"""Seconds after which plain builds have to go elsewhere when the owner refuses."""

WITHIN_SILENT = 30.0
"""The same when it does not even do that."""

BACK_WITHIN = 60.0
"""Seconds after which they have to come back: it has to be well for 30 of them."""


class Watching:
    """`fleet watch` of somebody, and the changes that it tells, each with the moment of time.monotonic()."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self._told: queue.Queue[tuple[float, Any]] = queue.Queue()

    def __enter__(self) -> Self:
        self._run = subprocess.Popen(
            ("fleet", "watch", "--json"),
            env=self._operator.env,
            cwd=self._operator.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._run.stderr
        assert "follows the fleet" in self._run.stderr.readline()
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def _read(self) -> None:
        for line in self._run.stdout or ():
            self._told.put((time.monotonic(), json.loads(line)))

    def change(self, *, since: float, within: float) -> Any:
        """The next one, which is not later than so many seconds after `since`."""
        at, change = self._told.get(timeout=max(since + within - time.monotonic(), 0.1))
        assert at - since < within
        return change

    def quiet(self, seconds: float) -> None:
        """Nothing is told for so long."""
        with pytest.raises(queue.Empty):
            pytest.fail(str(self._told.get(timeout=seconds)))

    def __exit__(self, *_: object) -> None:
        self._run.send_signal(signal.SIGTERM)
        said = self._run.communicate(timeout=60)[1]
        assert (self._run.returncode, said) == (0, "")


def moved(change: Any) -> set[tuple[str, str]]:
    return {(move["from"], move["to"]) for move in change["moves"]}


@pytest.fixture(scope="module")
def before(lab: Lab, operator: Operator) -> dict[str, str]:
    """What stands on the hosts before."""
    operator.inventory(AMD)
    return objects(lab, AMD)


@pytest.fixture(scope="module", autouse=True)
def _up(operator: Operator, before: dict[str, str]) -> None:  # noqa: ARG001 - looked at first
    operator.json("up")


DEAF = f"iptables -t raw %s PREROUTING -p tcp --dport {PORT} -j DROP"
"""Nobody hears of the daemon any more: as when the host's link is down, for this fleet alone."""

GONE = {
    "killed": ("docker kill DAEMON", "docker start DAEMON", WITHIN),
    "frozen": ("docker pause DAEMON", "docker unpause DAEMON", WITHIN_SILENT),
    "black-holed": (DEAF % "-I", DEAF % "-D", WITHIN_SILENT),
}


@pytest.fixture
def context(tmp_path: Path) -> Path:
    return in_folder(tmp_path / "context")


@pytest.fixture
def healed(operator: Operator) -> Iterator[None]:
    yield
    for _, mend, _ in GONE.values():
        on(operator, "amd-1", f"{mend} 2> /dev/null || true")
    operator.settled_status()


@pytest.mark.parametrize(("lose", "mend", "within"), GONE.values(), ids=GONE)
@pytest.mark.usefixtures("healed")
def test_plain_builds_go_to_the_other_node_and_come_back(
    operator: Operator, context: Path, lose: str, mend: str, within: float
) -> None:
    base = operator.lab.env()["LAB_BASE_IMAGE"]

    def built() -> list[Done]:
        return [build(context, base, plain(operator, *given)) for given in ((), ("--platform", "linux/amd64"))]

    with Watching(operator) as watching:
        watching.quiet(10)
        on(operator, "amd-1", lose)
        assert moved(watching.change(since=time.monotonic(), within=within)) == {("amd-1", "amd-2")}
        earlier = builds(operator)
        assert [str(one) for one in built() if one.code] == []
        assert builds(operator)["amd-2"] - earlier["amd-2"] == 2
        on(operator, "amd-1", mend)
        assert moved(watching.change(since=time.monotonic(), within=BACK_WITHIN)) == {("amd-2", "amd-1")}
        earlier = builds(operator)
        assert [str(one) for one in built() if one.code] == []
        assert builds(operator) - earlier == {"amd-1": 2}
        assert operator.json("plan", "--exit-code")["empty"]


def test_who_has_joined_follows_drains_and_no_build_under_way_is_lost(
    operator: Operator, context: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    operator.fleet("certs", "issue", "ci", "--output", "bundle", "--force")
    member = operator.elsewhere(tmp_path_factory.mktemp("member"))
    shutil.copy(operator.home / "bundle", member.home / "bundle")
    member.fleet("join", "bundle")
    (context / "Dockerfile").write_text("ARG BASE\nFROM $BASE\nARG SALT\nRUN echo $SALT; sleep 20\n")
    base, done, earlier = operator.lab.env()["LAB_BASE_IMAGE"], list[Done](), builds(operator)
    long = threading.Thread(target=lambda: done.extend(at_once(2, lambda: build(context, base, plain(member)))))
    with Watching(member) as watching:
        watching.quiet(10)
        long.start()
        operator.under_way(2)
        operator.json("drain", "amd-1")
        try:
            change = watching.change(since=time.monotonic(), within=WITHIN)
            assert moved(change) == {("amd-1", "amd-2")}
            assert change["why"][0].startswith("amd-1: drained: by ")
            assert not done
            long.join()
            assert [str(one) for one in done if one.code] == []
            assert builds(operator) - earlier == {"amd-1": 2}
        finally:
            operator.json("resume", "amd-1")
        assert moved(watching.change(since=time.monotonic(), within=BACK_WITHIN)) == {("amd-2", "amd-1")}
    member.fleet("leave", operator.name)
    assert not member.vault.exists()


def test_without_a_gateway_until_it_is_back(operator: Operator, context: Path) -> None:
    base, gateway = operator.lab.env()["LAB_BASE_IMAGE"], f"fleet.{operator.name}.gateway"
    long = in_folder(context / "long")
    (long / "Dockerfile").write_text("ARG BASE\nFROM $BASE\nARG SALT\nRUN echo $SALT; sleep 60\n")
    cut = list[Done]()
    under_way = threading.Thread(target=lambda: cut.append(build(long, base, plain(operator))))
    with Watching(operator) as watching:
        watching.quiet(5)
        # It is told of the gateway by the inventory, and of the builder by what is registered there.
        operator.add_gateway(PORTS)
        operator.json("up")
        under_way.start()
        watching.quiet(10)
        on(operator, "amd-1", f"docker kill {gateway}")
        change = watching.change(since=time.monotonic(), within=WITHIN)
        assert moved(change) == {("gateway.amd64", "amd-1")}
        under_way.join(5)
        assert [one.code for one in cut] == [1]
        done = at_once(2, lambda: build(context, base, plain(operator)))
        assert [str(one) for one in done if one.code] == []
        on(operator, "amd-1", f"docker start {gateway}")
        assert moved(watching.change(since=time.monotonic(), within=BACK_WITHIN)) == {("amd-1", "gateway.amd64")}
        earlier = builds(operator)
        done = at_once(2, lambda: build(context, base, plain(operator)))
        assert [str(one) for one in done if one.code] == []
        assert (builds(operator) - earlier).total() == 2
        assert operator.json("plan", "--exit-code")["empty"]


def test_there_is_one_for_a_fleet(operator: Operator) -> None:
    with Watching(operator):
        refused = operator.fleet("watch", expect=1)
        assert f"another fleet watch follows {operator.name}: fleet watch --json (process " in refused.stderr
        assert "ctrl-C" not in refused.stderr


def test_down_leaves_nothing(lab: Lab, operator: Operator, before: dict[str, str]) -> None:
    operator.fleet("down", "--volumes", "--yes")
    assert objects(lab, AMD) == before
