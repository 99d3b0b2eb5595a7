"""An app over canned Snapshots, and a hand on its keys."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from textual.pilot import Pilot

from fleet.applying.history import Entry
from fleet.applying.report import Event, Result
from fleet.builds import BuildRecord, Outcome, Steps
from fleet.logs import Line
from fleet.model.facts import Down, Stage
from fleet.model.snapshot import Snapshot
from fleet.model.spec import FleetSpec
from tests.support.canned import SMALL, Canned
from tests.support.values import NOW
from tui.app import Dashboard
from tui.outside import Outside

WORDS = ("up", "drain", "resume", "restart", "prune")


@dataclass(slots=True)
class Recorded:
    """What was asked of the world."""

    done: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)

    def deed(self, word: str) -> Callable[[Sequence[str], Callable[[Event], None]], Sequence[str]]:
        def do(nodes: Sequence[str], tell: Callable[[Event], None]) -> Sequence[str]:
            self.done.append((word, tuple(nodes)))
            for node in nodes:
                tell(Event(node, f"{word} it"))
                tell(Event(node, "done", "done"))
            return [f"{node}: {word} done" for node in nodes]

        return do


def builds(node: str) -> Iterator[BuildRecord]:
    began = NOW - timedelta(seconds=42)
    yield BuildRecord(
        *(node, f"running-{node}", began), name="acme/shop", platforms=("linux/amd64",), steps=Steps(7, 19, 3)
    )
    yield BuildRecord(
        *(node, f"failed-{node}", NOW - timedelta(minutes=30), NOW - timedelta(minutes=28), Outcome.FAILED),
        reason="process make did not complete successfully: exit code: 2",
        name="acme/api",
        platforms=("linux/amd64", "linux/arm64"),
        steps=Steps(11, 12, 11),
    )


def history(node: str) -> list[Entry]:
    return [Entry(node, NOW - timedelta(days=2), "anna@desk", "up", ("start it",), Result.DONE)]


def logs(nodes: Sequence[str], stop: threading.Event) -> Iterator[tuple[str, Line | Down | None]]:
    for second in range(3):
        for node in nodes:
            yield node, Line(NOW + timedelta(seconds=second), f"level=info msg={node}-{second}")
    yield nodes[0], Down(Stage.SSH, "the connection was lost")
    stop.wait(30)


@dataclass(slots=True)
class Hand:
    """On the keys of a running app."""

    app: Dashboard
    pilot: Pilot[Any]
    world: Recorded

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def type(self, text: str) -> None:
        await self.press("colon")
        await self.type_into(text)
        await self.press("enter")

    async def type_into(self, text: str) -> None:
        await self.press(*("space" if letter == " " else letter for letter in text))

    async def until(self, holds: Callable[[], bool]) -> None:
        for _ in range(500):
            if holds():
                return
            await self.pilot.pause(0.01)
        pytest.fail(f"it never came to that; there is:\n{self.text()}")

    def text(self) -> str:
        """All that is on the screen, line by line."""
        screen = self.app.screen
        return "\n".join(
            "".join(segment.text for segment in line).rstrip() for line in screen._compositor.render_strips(screen.size)
        )

    def notes(self) -> list[str]:
        """What toasts have said."""
        return [f"{note.title}: {note.message}" if note.title else note.message for note in self.app._notifications]


@asynccontextmanager
async def driving(
    *snapshots: Snapshot,
    size: tuple[int, int] = (80, 24),
    spec: FleetSpec = SMALL,
    read_only: bool = False,
    **given: Any,
) -> AsyncIterator[Hand]:
    """`given`: of Outside, in place of a world in which everything can be done."""
    world, feed = Recorded(), Canned(snapshots)
    everything: dict[str, Any] = {
        "deeds": {word: world.deed(word) for word in WORDS},
        "builds": builds,
        "history": history,
        "logs": logs,
        "shell": lambda node: ("true", node),
    }
    app = Dashboard(Outside(spec, feed.open, lambda: NOW, **(everything | given)), read_only=read_only)
    try:
        async with app.run_test(size=size) as pilot:
            hand = Hand(app, pilot, world)
            await hand.until(lambda: not snapshots or app.snapshot is snapshots[-1])
            await pilot.pause()
            yield hand
    finally:
        app.end_watching()
