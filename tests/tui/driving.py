"""An app over canned Snapshots, and a hand on its keys."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from textual.pilot import Pilot

from fleet.applying.history import Entry
from fleet.applying.report import Event, Result
from fleet.builds import BuildRecord, Outcome, Step, Steps, StepState, Written
from fleet.logs import Line
from fleet.model.facts import Down, Stage
from fleet.model.snapshot import Snapshot
from fleet.model.spec import FleetSpec
from fleet.parallel import Stop
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


def records(node: str) -> tuple[BuildRecord, ...]:
    began = NOW - timedelta(seconds=42)
    return (
        BuildRecord(
            *(node, f"running-{node}", began), name="acme/shop", platforms=("linux/amd64",), steps=Steps(7, 19, 3)
        ),
        BuildRecord(
            *(node, f"failed-{node}", NOW - timedelta(minutes=30), NOW - timedelta(minutes=28), Outcome.FAILED),
            reason="process make did not complete successfully: exit code: 2",
            name="acme/api",
            platforms=("linux/amd64", "linux/arm64"),
            steps=Steps(11, 12, 11),
        ),
    )


def builds(nodes: Sequence[str], stop: Stop) -> Iterator[tuple[str, BuildRecord | Down | None]]:
    for node in nodes:
        yield node, None
        for record in records(node):
            yield node, record
    stop.wait(30)


def step(
    key: str,
    name: str,
    state: StepState,
    began: int | None = None,
    ended: int | None = None,
    reason: str | None = None,
) -> Step:
    """Moments are seconds of the build."""
    first, last = (None if at is None else NOW + timedelta(seconds=at - 42) for at in (began, ended))
    return Step(key, name, state, first, last, reason)


def written(key: str, second: int, *texts: str) -> list[Written]:
    return [Written(key, Line(NOW + timedelta(seconds=second - 42), text)) for text in texts]


FIRST_STEPS: tuple[Step | Written, ...] = (
    step("load", "[internal] load build definition from Dockerfile", StepState.DONE, 0, 0),
    step("base", "[base 1/5] FROM docker.io/library/golang:1.25", StepState.CACHED, 1, 1),
    step("copy", "[base 2/5] COPY go.mod go.sum ./", StepState.CACHED, 1, 1),
    step("get", "[base 3/5] RUN go mod download", StepState.DONE, 2, 9),
    *written("get", 4, "go: downloading github.com/acme/lib v1.2.3", "go: downloading golang.org/x/sys v0.30.0"),
)


def build(node: str, ref: str, stop: Stop) -> Iterator[BuildRecord | Step | Written]:
    record = next(one for one in records(node) if one.ref == ref)
    yield record
    yield from FIRST_STEPS
    name = "[base 4/5] RUN make VERSION=$VERSION all"
    yield step("make", name, StepState.RUNNING, 10)
    yield from written("make", 12, *(f"CC   src/part{number:02}.c" for number in range(30)))
    if record.completed:
        yield from written("make", 40, "src/part29.c:17:5: error: expected ';' before 'return'", "make: *** Error 2")
        yield step("make", name, StepState.FAILED, 10, 41, reason="process make did not complete: exit code: 2")
        yield step("copy2", "[final 2/2] COPY --from=base /app /app", StepState.CANCELED, 41, 41)
        return
    yield step("test", "[test 1/1] RUN go test ./...", StepState.RUNNING, 20)
    yield from written("test", 21, "ok  acme/shop/cart 0.412s", "ok  acme/shop/pay 1.020s")
    yield step("last", "[final 2/2] COPY --from=base /app /app", StepState.WAITING)
    stop.wait(30)


def history(node: str) -> list[Entry]:
    return [Entry(node, NOW - timedelta(days=2), "anna@desk", "up", ("start it",), Result.DONE)]


def logs(nodes: Sequence[str], stop: Stop) -> Iterator[tuple[str, Line | Down | None]]:
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
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if holds():
                return
            await self.pilot.pause(0.01)
        pytest.fail(f"it never came to that; there is:\n{self.text()}")

    async def shows(self, text: str) -> None:
        await self.until(lambda: text in self.text())

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
        "build": build,
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
