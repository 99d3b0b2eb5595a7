"""What is built on all nodes and what was built, the newest first, as it happens."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from fleet.builds import BuildRecord
from tui.builds import Known, build_columns, build_lines, build_words
from tui.cells import Cell, toned, wrapped
from tui.errands import Reading
from tui.grid import Grid
from tui.screens.page import Page
from tui.widgets import Lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult

    from fleet.model.facts import Down

EVERY = 0.2
"""Seconds between two looks at what has come."""

SHOWN = 500


class BuildsPage(Page):
    """A row a build."""

    TITLE: ClassVar[str] = "Builds"

    def __init__(self, whose: Sequence[str]) -> None:
        """`whose`: the nodes that are asked."""
        super().__init__()
        self._whose = whose
        self._known = Known()
        self._reading: Reading[tuple[str, BuildRecord | Down | None]] | None = None

    @property
    def subject(self) -> str:
        """Whose builds, if not all nodes'."""
        return f"{super().subject} of {self._whose[0]}" if len(self._whose) == 1 else super().subject

    def body(self) -> ComposeResult:
        """The table, and one build in full."""
        yield Grid[BuildRecord](
            build_columns(lambda: self.dashboard.now),
            _key,
            words=build_words,
            empty="no build is known: nodes remember those of the last days",
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
        self.query_one(Grid).show(self._known.rows(time.monotonic(), SHOWN))
        self.on_grid_moved()

    def on_grid_moved(self) -> None:
        """Another build is under the cursor."""
        record: BuildRecord | None = self.query_one(Grid).current
        lines: list[Cell] = build_lines(record, self.dashboard.now) if record else []
        if self._reading and self._reading.failed:
            lines.append(toned(self._reading.failed, "warn"))
        lines += [
            toned(f"{name}: its builds are not known: {why.stage}: {why.reason}", "warn")
            for name, why in self._known.silent.items()
        ]
        about = self.query_one("#about", Lines)
        about.show([part for line in lines for part in wrapped(line, max(about.size.width, 20))])

    def on_grid_opened(self, message: Grid.Opened) -> None:
        """Enter on a build."""
        record: BuildRecord | None = self.query_one(Grid).current
        if record and _key(record) == message.key:
            from tui.screens.build import BuildPage

            self.dashboard.push_screen(BuildPage(record))


def _key(record: BuildRecord) -> str:
    return f"{record.node} {record.ref}"
