"""The dashboard over real nodes: what happens to them is seen in time, and what is done by key is really done."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fleet.cli.tui import outside, taped
from fleet.cli.world import load_any
from fleet.model.health import Health
from fleet.observing.recording import Recorder, Recording
from tests.e2e.conftest import Operator
from tests.tui.driving import Hand, Recorded
from tui.app import Dashboard

if TYPE_CHECKING:
    from tests.lab import Lab

PORT = 1247
AMD = ("amd-1", "amd-2")
SOON = 3.0
"""Seconds after which it is seen that a daemon has died."""


@pytest.fixture(scope="module", autouse=True)
def _up(operator: Operator) -> None:
    operator.inventory(AMD)
    operator.json("up")


@pytest.fixture(autouse=True)
def _at_home(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in operator.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR")


@asynccontextmanager
async def dashboard(operator: Operator, record: Path | None = None) -> AsyncIterator[Hand]:
    spec = load_any(operator.home / "inventory.yaml")
    put = outside(spec)
    app = Dashboard(taped(put, Recorder(record, spec)) if record else put)
    try:
        async with app.run_test(size=(120, 50)) as pilot:
            hand = Hand(app, pilot, Recorded())
            await until(hand, lambda: healths(hand) == {"amd-1": "ready", "amd-2": "ready"}, 20)
            yield hand
    finally:
        app.end_watching()


def healths(hand: Hand) -> dict[str, Health]:
    return {node.name: node.health for node in hand.app.snapshot.nodes}


async def until(hand: Hand, holds: Callable[[], bool], seconds: float) -> float:
    """Wait for it; the seconds that it took."""
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < seconds, hand.text()
        await hand.pilot.pause(0.05)
    return time.monotonic() - started


def run(test: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(test())


def test_a_daemon_that_is_killed_is_down_with_its_stage_and_comes_back(
    lab: Lab, operator: Operator, tmp_path: Path
) -> None:
    container = f"fleet.{operator.name}.amd-1"

    async def test() -> None:
        async with dashboard(operator, tmp_path / "afternoon.gz") as hand:
            await asyncio.to_thread(lab.hosts["amd-1"].ssh, f"docker kill {container}")
            assert await until(hand, lambda: healths(hand)["amd-1"] is Health.DOWN, 30) < SOON
            await until(hand, lambda: "container: " in hand.text() and "Exited (137)" in hand.text(), SOON)
            assert healths(hand)["amd-2"] is Health.READY
            await asyncio.to_thread(lab.hosts["amd-1"].ssh, f"docker start {container}")
            await until(hand, lambda: healths(hand)["amd-1"] is Health.READY, 30)

    run(test)
    seen = [taken.nodes[0].health for taken in Recording.open(tmp_path / "afternoon.gz").snapshots()]
    changes = [now for before, now in zip([None, *seen], seen, strict=False) if now is not before]
    assert changes[-3:] == [Health.READY, Health.DOWN, Health.READY]


def test_draining_and_resuming_by_key(operator: Operator) -> None:
    async def test() -> None:
        async with dashboard(operator) as hand:
            await hand.press("d")
            assert "drain amd-1?" in hand.text()
            await hand.press("y")
            await until(hand, lambda: healths(hand)["amd-1"] is Health.DRAINED, 30)
            status = await asyncio.to_thread(operator.json, "status")
            assert status["nodes"][0]["health"] == "drained"
            await until(hand, lambda: "amd-1: done" in hand.text(), 30)
            await hand.press("escape", "r", "y")
            await until(hand, lambda: healths(hand)["amd-1"] is Health.READY, 30)
            await until(hand, lambda: "ended" in hand.text(), 30)

    run(test)


def test_the_log_the_history_and_the_builds_of_a_node(operator: Operator) -> None:
    async def test() -> None:
        async with dashboard(operator) as hand:
            await hand.press("l")
            await until(hand, lambda: "level=info" in hand.text(), 20)
            await hand.press("escape", "enter", "G")
            await until(hand, lambda: "fleet up: done" in hand.text(), 20)
            await hand.press("escape", "b")
            # That none is known is said by nodes that have answered, and not before.
            await until(hand, lambda: "asking the nodes" not in hand.text(), 20)
            assert "no build is known" in hand.text() or "✓ done" in hand.text()
            assert "its builds are not known" not in hand.text()

    run(test)


DOCKERFILE = """\
ARG BASE
FROM $BASE
ARG SALT
ARG TOKEN
RUN echo "$SALT for $TOKEN" && sleep 4 && echo $((40 + 2)) apples
"""


def test_a_build_is_seen_to_begin_to_go_on_and_to_end(operator: Operator) -> None:
    (operator.home / "Dockerfile").write_text(DOCKERFILE)
    given = {"BASE": operator.lab.env()["LAB_BASE_IMAGE"], "SALT": str(time.time_ns()), "TOKEN": "s3cret"}
    argv = ("fleet", "build", "--platform", "linux/amd64", "--output", "type=cacheonly", "--progress", "quiet", ".")
    words = [word for key, value in given.items() for word in ("--build-arg", f"{key}={value}")]

    async def test() -> None:
        async with dashboard(operator) as hand:
            await hand.press("b")
            await hand.pilot.pause(1)
            building = asyncio.create_task(asyncio.to_thread(operator.run, *argv, *words))
            await until(hand, lambda: "▸ running" in hand.text(), 20)
            await hand.press("enter")
            await until(hand, lambda: "for $TOKEN" in hand.text(), 20)
            assert "42 apples" not in hand.text()
            assert "following" in hand.text()
            assert (await building).returncode == 0
            assert await until(hand, lambda: "✓ done  on" in hand.text(), 20) < SOON
            assert "42 apples" in hand.text()
            assert "s3cret" not in hand.text()
            await hand.press("escape")
            await until(hand, lambda: "✓ done" in hand.text() and "▸ running" not in hand.text(), 1)
            assert "this machine" in hand.text()

    run(test)


def test_status_goes_on_and_tells_what_changes(lab: Lab, operator: Operator) -> None:
    argv = ("fleet", "status", "--watch", "--json")
    with subprocess.Popen(argv, env=operator.env, cwd=operator.home, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout

        def health() -> str:
            return str(json.loads(watching.stdout.readline())["nodes"][1]["health"])  # type: ignore[union-attr]  # it is a pipe

        assert health() == "ready"
        container = f"fleet.{operator.name}.amd-2"
        lab.hosts["amd-2"].ssh(f"docker pause {container}")
        while health() == "ready":
            pass
        lab.hosts["amd-2"].ssh(f"docker unpause {container}")
        while health() != "ready":
            pass
        watching.send_signal(signal.SIGINT)
        watching.stdout.read()
    assert watching.returncode == 0
