"""What is built on all nodes and what was built, the newest first, as it happens."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType

from fleet.builds import BuildRecord
from fleet.model.health import Health
from tui.builds import Known, build_columns, build_lines, build_words
from tui.cells import Cell, toned, wrapped
from tui.errands import Reading
from tui.grid import Grid
from tui.screens.page import Page
from tui.widgets import Lines

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from textual.app import ComposeResult

    from fleet.model.facts import Down
    from tui.screens.build import BuildPage

EVERY = 0.2
"""Seconds between two looks at what has come."""

SHOWN = 500


class BuildsPage(Page):
    """A row a build."""

    TITLE: ClassVar[str] = "Builds"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("l", "log", "log"),
        # The app's key for this screen.
        Binding("b", "stay", show=False),
    ]

    def __init__(self, whose: Sequence[str]) -> None:
        """`whose`: the nodes that are asked."""
        super().__init__()
        self._whose = whose
        self._known = Known()
        self._unknown_since: dict[str, datetime] = {}
        """Nodes that do not answer, and when that was noticed."""
        self._reading: Reading[tuple[str, BuildRecord | Down | None]] | None = None

    @property
    def subject(self) -> str:
        """Whose builds, if not all nodes'."""
        return f"{super().subject} of {self._whose[0]}" if len(self._whose) == 1 else super().subject

    def body(self) -> ComposeResult:
        """The table, and one build in full."""
        yield Grid[BuildRecord](
            build_columns(lambda: self.dashboard.now, self._unknown_since.get),
            _key,
            words=build_words,
            empty="asking the nodes",
            opens=self.dashboard.outside.build is not None,
            named=False,
        )
        yield Lines(id="about")

    def on_mount(self) -> None:
        """Listen to the nodes, while the screen is open."""
        if read := self.dashboard.outside.builds:
            self._reading = Reading(partial(read, self._whose))
            self.set_interval(EVERY, self._take)

    def on_unmount(self) -> None:
        """Listen no more."""
        if self._reading:
            self._reading.end()

    def _take(self) -> None:
        come = False
        for node, said in self._reading.take() if self._reading else ():
            self._known.add(node, said, time.monotonic())
            come = True
        if come:
            self.update()

    def refresh_body(self) -> None:
        """Running ones first, then the newest."""
        board, known, grid = self.dashboard, self._known, self.query_one(Grid)
        down = {node.name for node in board.snapshot.nodes if node.health is Health.DOWN}
        silent = [name for name in self._whose if name in known.silent or name in down]
        since = {name: self._unknown_since.get(name, board.now) for name in silent}
        # The columns look into it.
        self._unknown_since.clear()
        self._unknown_since.update(since)
        if (self._reading and self._reading.failed) or known.silent.keys() >= set(self._whose):
            grid.empty = "no node answers"
        elif known.answering | known.silent.keys() >= set(self._whose):
            grid.empty = "no build is known: nodes remember those of the last days"
        else:
            grid.empty = "asking the nodes"
        grid.show(known.rows(time.monotonic(), SHOWN))
        self.on_grid_moved()

    def on_grid_moved(self) -> None:
        """Another build is under the cursor."""
        record: BuildRecord | None = self.query_one(Grid).current
        about = self.query_one("#about", Lines)
        width, room = max(about.size.width, 20), about.size.height
        since = self._unknown_since.get(record.node) if record else None
        lines: list[Cell] = build_lines(record, self.dashboard.now, since) if record else []
        if self._reading and self._reading.failed:
            lines.append(toned(self._reading.failed.replace("\n", "; "), "warn"))
        rows = [part for line in lines for part in wrapped(line, width)]
        silent = [
            toned(f"{name}: its builds are not known: {why.stage}: {why.reason}", "warn")
            for name, why in self._known.silent.items()
        ]
        every = [part for line in silent for part in wrapped(line, width)]
        if silent and len(rows) + len(every) > room:
            # At least one row for them: that something is missing is seen, whatever else there is to say.
            rows = rows[: room - 1]
            fit = min(room - len(rows), len(silent))
            fit -= fit < len(silent)
            left = len(silent) - fit
            one = f"{left} nodes do not answer: their builds are not known"
            more = [toned(f"and {left} more" if fit else one, "warn")] if left else []
            every = [*silent[:fit], *more]
        about.show([*rows, *every])

    def on_grid_opened(self, message: Grid.Opened) -> None:
        """Enter on a build."""
        record: BuildRecord | None = self.query_one(Grid).current
        if record and _key(record) == message.key:
            self._open(record)

    def _open(self, record: BuildRecord) -> BuildPage:
        from tui.screens.build import BuildPage

        page = BuildPage(record)
        self.dashboard.push_screen(page)
        return page

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """What is recorded has no steps."""
        return bool(self.dashboard.outside.build) if action == "log" else super().check_action(action, parameters)

    def action_log(self) -> None:
        """What the build under the cursor writes; behind it are its steps."""
        record: BuildRecord | None = self.query_one(Grid).current
        if record:
            self._open(record).action_log()

    def action_stay(self) -> None:
        """These are the builds."""


def _key(record: BuildRecord) -> str:
    return f"{record.node} {record.ref}"
