"""What is built on all nodes and what was built, the newest first."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

from fleet.builds import BuildRecord, Outcome
from fleet.errors import FleetError
from fleet.parallel import Rounds
from tui.cells import UNKNOWN, Cell, Column, Tone, bar, fitted, toned
from tui.grid import Grid
from tui.screens.page import Page
from tui.widgets import Lines

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from textual.app import ComposeResult

EVERY = 2.0
"""Seconds between two questions to a node, while the screen is open."""

SHOWN = 500

_SIGNS: dict[Outcome, tuple[str, Tone]] = {
    Outcome.RUNNING: ("▸", "accent"),
    Outcome.DONE: ("✓", "good"),
    Outcome.FAILED: ("✗", "bad"),
    Outcome.CANCELED: ("○", "calm"),
}


def duration(seconds: float) -> str:
    """In at most two units."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m {rest:02}s" if minutes < 60 else f"{minutes // 60}h {minutes % 60:02}m"


def _result(record: BuildRecord) -> Cell:
    sign, tone = _SIGNS[record.outcome]
    return toned(f"{sign} {record.outcome}", tone)


def _steps(record: BuildRecord) -> Cell:
    steps = record.steps
    if steps is None or not steps.total:
        return UNKNOWN
    tone = _SIGNS[record.outcome][1]
    return (*bar(steps.done / steps.total, 8, tone), (" ", ""), *fitted(((f"{steps.done}/{steps.total}", ""),), 7))


def _cached(record: BuildRecord) -> Cell:
    share = record.steps.cached_share if record.steps else None
    return UNKNOWN if share is None else toned(f"{share:.0%}")


def _words(record: BuildRecord) -> str:
    return f"{record.name or ''} {' '.join(record.platforms)} {record.node} {record.outcome} {record.reason or ''}"


def _platforms(record: BuildRecord) -> Cell:
    return toned(", ".join(record.platforms)) if record.platforms else toned("its own", "dim")


def _or_unknown(text: str | None) -> Cell:
    return toned(text) if text else UNKNOWN


def columns(now: Callable[[], datetime]) -> tuple[Column[BuildRecord], ...]:
    """What is said of a build; how long one runs is asked of the clock as it is drawn."""

    def seconds(record: BuildRecord) -> float:
        return record.seconds(now())

    def share(record: BuildRecord) -> float | None:
        return record.steps.cached_share if record.steps else None

    def began(record: BuildRecord) -> Cell:
        return toned(f"{record.created:%m-%d %H:%M:%S}", "dim")

    return (
        Column("RESULT", _result, lambda record: list(Outcome).index(record.outcome), 10),
        Column("PROJECT", lambda record: _or_unknown(record.name), lambda record: record.name, 16, grows=True),
        Column("PLATFORM", _platforms, lambda record: record.platforms, 14, rank=2),
        Column("NODE", lambda record: toned(record.node), lambda record: record.node, 8),
        Column("STEPS", _steps, lambda record: record.steps.done if record.steps else None, 16, rank=1),
        Column("CACHED", _cached, share, 6, rank=3, right=True),
        Column("TOOK", lambda record: toned(duration(seconds(record))), seconds, 8, right=True),
        Column("BEGAN (UTC)", began, lambda record: record.created, 14, rank=4),
        Column("BY", lambda record: _or_unknown(record.asked_by), lambda record: record.asked_by, 14, rank=5),
    )


class BuildsPage(Page):
    """A row a build."""

    TITLE: ClassVar[str] = "Builds"

    def __init__(self, whose: Sequence[str]) -> None:
        """`whose`: the nodes that are asked."""
        super().__init__()
        self._whose = whose
        self._found: dict[str, tuple[BuildRecord, ...]] = {}
        self._failed: dict[str, str] = {}
        self._rounds: Rounds | None = None

    @property
    def subject(self) -> str:
        """Whose builds, if not all nodes'."""
        return f"{super().subject} of {self._whose[0]}" if len(self._whose) == 1 else super().subject

    def body(self) -> ComposeResult:
        """The table, and one build in full."""
        yield Grid[BuildRecord](
            columns(lambda: self.dashboard.now),
            lambda record: f"{record.node} {record.ref}",
            words=lambda record: (
                f"{record.name or ''} {' '.join(record.platforms)} {record.node} {record.outcome} {record.reason or ''}"
            ),
            empty="no build is known: nodes remember those of the last days",
        )
        yield Lines(id="about")

    def on_mount(self) -> None:
        """Ask each node in its own time, while the screen is open."""
        if self.dashboard.outside.builds:
            self._rounds = Rounds({name: partial(self._ask, name) for name in self._whose})

    def on_unmount(self) -> None:
        """Ask no more."""
        if self._rounds:
            self._rounds.end(patience=0.0)

    def _ask(self, name: str) -> float:
        read = self.dashboard.outside.builds
        try:
            self._found[name] = tuple(read(name)) if read else ()
            self._failed.pop(name, None)
        except FleetError as error:
            self._failed[name] = error.message
        except Exception as error:
            # A thread must not die unheard.
            self._failed[name] = f"unexpected {type(error).__name__}: {error}"
        return EVERY

    def refresh_body(self) -> None:
        """Running ones first, then the newest."""
        every = [record for found in list(self._found.values()) for record in found]
        every.sort(key=lambda record: (record.outcome is not Outcome.RUNNING, -record.created.timestamp()))
        self.query_one(Grid).show(every[:SHOWN])
        self.on_grid_moved()

    def on_grid_moved(self) -> None:
        """Another build is under the cursor."""
        record: BuildRecord | None = self.query_one(Grid).current
        lines: list[Cell] = []
        if record:
            lines.append(
                ((record.name or "a build", "title"), ("  ", ""), *_result(record), (f"  on {record.node}", "dim"))
            )
            lines.append(
                toned(f"{record.created:%Y-%m-%d %H:%M:%S} UTC, {duration(record.seconds(self.dashboard.now))}", "dim")
            )
            if record.reason:
                lines.append(toned(record.reason, "bad"))
            lines.append(toned(f"docker buildx history logs {record.ref}", "dim"))
        lines += [toned(f"{name}: its builds are not known: {why}", "warn") for name, why in self._failed.items()]
        self.query_one("#about", Lines).show(lines)
