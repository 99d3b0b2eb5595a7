"""One build: its steps, what the one under the cursor writes, and the whole log."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType

from fleet.builds import Account, BuildRecord, Step, Written
from fleet.model.snapshot import Health
from tui.builds import build_lines, last_lines, log_lines, step_columns, step_words, steps_in_order, telling
from tui.cells import plain, toned, wrapped
from tui.errands import Reading
from tui.grid import Grid
from tui.screens.logs import LogPage
from tui.screens.page import Page
from tui.widgets import Lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult

    from tui.cells import Cell

KEPT = 20_000
"""Lines of a build, the newest."""

EVERY = 0.2
"""Seconds between two looks at what has come."""


class BuildPage(Page):
    """A row a step; the cursor goes with what runs or fails, until it is moved."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("l", "log", "whole log"),
        Binding("f", "follow", "follow"),
    ]

    def __init__(self, record: BuildRecord) -> None:
        super().__init__()
        self._account = Account(record, most=KEPT)
        self._reading: Reading[BuildRecord | Step | Written] | None = None
        self._follows = True
        self._led_to: str | None = None
        """The step that the cursor was led to."""

    @property
    def subject(self) -> str:
        """Which build."""
        record = self._account.record
        return f"Build of {record.name or record.ref} on {record.node}{', following' * self._goes_on}"

    @property
    def _goes_on(self) -> bool:
        return self._follows and self._account.record.completed is None

    def body(self) -> ComposeResult:
        """The build, its steps, and the end of one step's log."""
        yield Lines(id="build")
        yield Grid[Step](
            step_columns(lambda: self.dashboard.now),
            lambda step: step.key,
            words=step_words,
            empty="asking the node",
            opens=True,
            named=False,
        )
        yield Lines(id="written")

    def on_mount(self) -> None:
        """Read it, to its end."""
        if read := self.dashboard.outside.build:
            record = self._account.record
            self._reading = Reading(partial(read, record.node, record.ref))
            self.set_interval(EVERY, self._take)

    def on_unmount(self) -> None:
        """Read no more."""
        if self._reading:
            self._reading.end()

    def _take(self) -> None:
        come = False
        for said in self._reading.take() if self._reading else ():
            self._account.add(said)
            come = True
        if come:
            self.update()

    def refresh_body(self) -> None:
        """As it is now."""
        account, grid = self._account, self.query_one(Grid)
        record = account.record
        now_known = record if record.completed else replace(record, steps=account.counts or record.steps)
        lines = build_lines(now_known, self.dashboard.now)
        if self._reading and self._reading.failed:
            lines.append(toned(self._reading.failed.replace("\n", "; "), "warn"))
        node = next((one for one in self.dashboard.snapshot.nodes if one.name == record.node), None)
        if node and node.health is Health.DOWN and not record.completed:
            lines.append(toned(f"{node.name} is down, this is how it was: {node.reason}", "warn"))
        head = self.query_one("#build", Lines)
        rows = [part for line in lines for part in wrapped(line, max(head.size.width, 20))]
        head.styles.height = min(len(rows), 5) + 1
        head.show(rows)
        grid.show(steps_in_order(account))
        if self._follows and (key := telling(account)) and key != self._led_to:
            self._led_to = key
            grid.go_to(key)
        self._show_written()

    def _show_written(self) -> None:
        step: Step | None = self.query_one(Grid).current
        written = self.query_one("#written", Lines)
        if step is None:
            written.show([])
            return
        room = max(written.size.height, 1)
        width = max(written.size.width, 20)
        lines = [part for line in last_lines(self._account, step.key, room) for part in wrapped(line, width)]
        if step.reason:
            lines += wrapped(toned(step.reason, "bad"), width)
        written.show(lines[-room:] or [toned("it has written nothing", "dim")])

    def on_grid_moved(self) -> None:
        """Another step is under the cursor."""
        current: Step | None = self.query_one(Grid).current
        if self._led_to and current and current.key != self._led_to:
            self._follows = False
            self.update_top()
        self._show_written()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """What has ended is not followed."""
        runs = self._account.record.completed is None
        return runs if action == "follow" else super().check_action(action, parameters)

    def on_grid_opened(self, message: Grid.Opened) -> None:
        """Enter on a step: its part of the log."""
        self.dashboard.push_screen(BuildLogPage(self._account, message.key))

    def action_log(self) -> None:
        """All that its steps have written."""
        self.dashboard.push_screen(BuildLogPage(self._account))

    def action_follow(self) -> None:
        """Go with what runs, or stay."""
        self._follows = not self._follows
        self._led_to = None
        self.update()


class BuildLogPage(LogPage):
    """What the steps of a build have written, step by step."""

    def __init__(self, account: Account, step: str | None = None) -> None:
        """`step`: the one to begin with; else the end is, of a build that runs."""
        super().__init__(follow=step is None)
        self._account, self._step = account, step

    @property
    def about(self) -> str:
        """Whose log it is."""
        record = self._account.record
        return f"Log of {record.name or record.ref} on {record.node}"

    def lines(self) -> Sequence[tuple[Cell, str]]:
        """All there are, with the words that a filter looks at."""
        lines, begin = log_lines(self._account, self.dashboard.now)
        if self._step in begin:
            at, self._step = begin[self._step], None
            self.call_after_refresh(lambda: self.log_widget.go_to_line(at))
        return [(line, plain(line)) for line in lines]
