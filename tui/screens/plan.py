"""What `fleet up` would do, and a run while it goes on: host by host, step by step."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from tui.cells import Cell, Column, Tone, toned
from tui.details import plan_lines
from tui.grid import Grid
from tui.screens.page import Page
from tui.widgets import Sheet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult

    from fleet.applying.report import Event

_MARKS: dict[str, tuple[str, Tone]] = {
    "begun": ("▸", "accent"),
    "done": ("✓", "good"),
    "failed": ("✗", "bad"),
}


class PlanPage(Page):
    """Drift, host by host."""

    TITLE: ClassVar[str] = "Plan"

    def body(self) -> ComposeResult:
        """A sheet."""
        yield Sheet()

    def refresh_body(self) -> None:
        """As it is now."""
        self.query_one(Sheet).show(plan_lines(self.dashboard.snapshot))


@dataclass(slots=True)
class Subject:
    """What has happened to one host, the vault or the builder so far."""

    name: str
    marks: list[str] = field(default_factory=list)
    """How each step stands, in order: begun, done or failed."""
    said: str = ""
    since: float = field(default_factory=time.monotonic)

    def take(self, event: Event) -> None:
        """Take up what was told."""
        self.said = event.text
        if event.state == "begun":
            self._end("done")
            self.marks.append("begun")
            self.since = time.monotonic()
        elif event.state in {"done", "failed"}:
            self._end(event.state)

    def _end(self, state: str) -> None:
        if self.marks and self.marks[-1] == "begun":
            self.marks[-1] = state
        elif state == "failed":
            self.marks.append(state)


def _steps(subject: Subject) -> Cell:
    return tuple((f"{sign} ", tone) for sign, tone in (_MARKS[mark] for mark in subject.marks))


def _seconds(subject: Subject) -> Cell:
    under_way = subject.marks[-1:] == ["begun"]
    return toned(f"{time.monotonic() - subject.since:.0f} s" if under_way else "", "dim")


RUN_COLUMNS: tuple[Column[Subject], ...] = (
    Column("WHERE", lambda one: toned(one.name), lambda one: one.name, 8),
    Column("STEPS", _steps, lambda one: len(one.marks), 24),
    Column("FOR", _seconds, lambda one: one.since, 6, right=True),
    Column("NOW", lambda one: toned(one.said), lambda one: one.said, 20, grows=True),
)


class RunPage(Page):
    """Something that changes nodes, while it does."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self._title = title
        self._subjects: dict[str, Subject] = {}
        self._ended: Sequence[str] | None = None

    @property
    def subject(self) -> str:
        """What is done, and whether it still is."""
        return f"{self._title}: {'under way' if self._ended is None else 'ended'}"

    def body(self) -> ComposeResult:
        """The grid of hosts and steps, and how it ended."""
        yield Grid[Subject](
            RUN_COLUMNS, lambda one: one.name, words=lambda one: f"{one.name} {one.said}", empty="asking the hosts"
        )
        yield Sheet(id="ended")

    def take(self, event: Event) -> None:
        """Something has begun or ended."""
        self._subjects.setdefault(event.subject, Subject(event.subject)).take(event)
        if self.is_mounted:
            self.update()

    def end(self, said: Sequence[str]) -> None:
        """It is over."""
        self._ended = said
        if self.is_mounted:
            self.update()

    def refresh_body(self) -> None:
        """As it is now."""
        self.query_one(Grid).show(list(self._subjects.values()))
        lines: list[Cell] = [] if self._ended is None else [toned(line) for line in (*self._ended, "esc: back")]
        self.query_one("#ended", Sheet).show(lines)
