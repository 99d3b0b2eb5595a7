"""One build: its steps, what the one under the cursor writes, and the whole log."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType

from fleet.builds import Account, BuildRecord, Step, Written
from fleet.model.health import Health
from tui.builds import (
    build_lines,
    last_lines,
    log_line,
    log_lines,
    step_columns,
    step_words,
    steps_in_order,
    telling,
    unknown_since,
)
from tui.cells import plain, toned, wrapped
from tui.errands import Reading
from tui.grid import Grid
from tui.screens.logs import LogPage
from tui.screens.page import Page
from tui.widgets import Lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from textual.app import ComposeResult

    from fleet.model.health import NodeHealth
    from fleet.parallel import Stop
    from tui.cells import Cell

KEPT = 20_000
"""Lines of a build, the newest."""

EVERY = 0.2
"""Seconds between two looks at what has come."""


AGAIN = 5.0
"""Seconds after which a build is read anew of which the node has told no further."""


class Following:
    """One build as it is read; of one that is told no further all is read anew once its node answers."""

    def __init__(self, record: BuildRecord) -> None:
        self.account = Account(record, most=KEPT)
        self.why = ""
        """Why it is told no further; empty: it is."""
        self.since: datetime | None = None
        """Since when nothing is known of it; None: it is known how it stands."""
        self.ended = False
        """Whether no more will come."""
        self._coming = self.account
        self._reading: Reading[BuildRecord | Step | Written] | None = None
        self._again: Callable[[], None] | None = None
        self._due = 0.0

    def begin(self, read: Callable[[str, str, Stop], Iterable[BuildRecord | Step | Written]]) -> None:
        """Read it, to its end."""
        record = self.account.record
        self._reading = Reading(partial(read, record.node, record.ref))
        self._again = partial(self.begin, read)
        self._due = time.monotonic() + AGAIN

    def end(self) -> None:
        """Read no more."""
        if self._reading:
            self._reading.end()

    def take(self, now: datetime, *, down: bool) -> bool:
        """Take up what has come; whether there is anything new. `down`: its node does not answer others either."""
        if (reading := self._reading) is None:
            return False
        before, ended, come = (self.why, self.since, self.ended), reading.ended, False
        for said in reading.take():
            self._coming.add(said)
            come = True
        if self._coming.steps or (ended and not reading.failed):
            self.account = self._coming
        runs = self.account.record.completed is None
        if ended and (reading.failed or runs):
            self.why = reading.failed or "the node tells no further of it"
        elif come:
            self.why = ""
        self.since = self.since or now if runs and (self.why or down) else None
        self.ended = ended and not self.why
        if ended and self.why and not down and time.monotonic() >= self._due and self._again:
            self._coming = Account(self.account.record, most=KEPT)
            self._again()
        return come or before != (self.why, self.since, self.ended)


class BuildPage(Page):
    """A row a step; the cursor goes with what runs or fails, until it is moved."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("l", "log", "whole log"),
        Binding("f", "follow", "follow"),
    ]

    def __init__(self, record: BuildRecord) -> None:
        super().__init__()
        self._build = Following(record)
        self._follows = True
        self._led_to: str | None = None
        """The step that the cursor was led to."""

    @property
    def subject(self) -> str:
        """Which build."""
        record, since = self._build.account.record, self._build.since
        state = f", {unknown_since(since)}" if since else ", following" * self._goes_on
        return f"Build of {record.name or record.ref} on {record.node}{state}{self.filtered}"

    @property
    def _goes_on(self) -> bool:
        return self._follows and self._build.account.record.completed is None

    @property
    def _down(self) -> NodeHealth | None:
        name = self._build.account.record.node
        nodes = self.dashboard.snapshot.nodes
        return next((one for one in nodes if one.name == name and one.health is Health.DOWN), None)

    def body(self) -> ComposeResult:
        """The build, its steps, and the end of one step's log."""
        yield Lines(id="build")
        yield Grid[Step](
            step_columns(lambda: self.dashboard.now, lambda: self._build.since),
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
            self._build.begin(read)
            self.set_interval(EVERY, self._take)

    def on_unmount(self) -> None:
        """Read no more."""
        self._build.end()

    def _take(self) -> None:
        if self._build.take(self.dashboard.now, down=self._down is not None):
            self.update()

    def refresh_body(self) -> None:
        """As it is now."""
        account, grid = self._build.account, self.query_one(Grid)
        record = account.record
        now_known = record if record.completed else replace(record, steps=account.counts or record.steps)
        lines = build_lines(now_known, self.dashboard.now, self._build.since)
        if self._build.why:
            lines.append(toned(self._build.why.replace("\n", "; "), "warn"))
        if (node := self._down) and not record.completed:
            lines.append(toned(f"{node.name} is down, this is how it was: {node.reason}", "warn"))
        head = self.query_one("#build", Lines)
        rows = [part for line in lines for part in wrapped(line, max(head.size.width, 20))]
        head.styles.height = min(len(rows), 5) + 1
        head.show(rows)
        unknown = self._build.why or self._build.since
        grid.empty = "nothing is known of its steps" if unknown else "asking the node"
        grid.empty = "it has no steps" if self._build.ended else grid.empty
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
        lines = [part for line in last_lines(self._build.account, step.key, room) for part in wrapped(line, width)]
        if step.reason:
            lines += wrapped(toned(step.reason, "bad"), width)
        none = "it has written nothing"
        if step.key in self._build.account.shortened:
            none = f"what it wrote is not kept: only the last {KEPT} lines of a build are"
        elif self._build.since:
            none += " as far as is known"
        written.show(lines[-room:] or [toned(none, "dim")])

    def on_grid_moved(self) -> None:
        """Another step is under the cursor."""
        current: Step | None = self.query_one(Grid).current
        if self._led_to and current and current.key != self._led_to:
            self._follows = False
            self.update_top()
        self._show_written()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """What has ended is not followed."""
        runs = self._build.account.record.completed is None
        return runs if action == "follow" else super().check_action(action, parameters)

    def on_grid_opened(self, message: Grid.Opened) -> None:
        """Enter on a step: its part of the log."""
        self.dashboard.push_screen(BuildLogPage(self._build, message.key))

    def action_log(self) -> None:
        """All that its steps have written."""
        self.dashboard.push_screen(BuildLogPage(self._build))

    def action_follow(self) -> None:
        """Go with what runs, or stay."""
        self._follows = not self._follows
        self._led_to = None
        self.update()


class BuildLogPage(LogPage):
    """What the steps of a build have written, step by step."""

    def __init__(self, build: Following, step: str | None = None) -> None:
        """`step`: the one to begin with; else the end is, of a build that runs."""
        super().__init__(follow=step is None)
        self._build, self._step = build, step
        self._cell = lru_cache(maxsize=KEPT)(log_line)

    @property
    def about(self) -> str:
        """Whose log it is."""
        record = self._build.account.record
        return f"Log of {record.name or record.ref} on {record.node}"

    @property
    def state(self) -> str:
        """Nothing is followed of which nothing is known."""
        since = self._build.since
        return self.log_widget.state(unknown_since(since) if since else "following")

    def lines(self) -> Sequence[tuple[Cell, str]]:
        """All there are, with the words that a filter looks at."""
        build = self._build
        lines, begin = log_lines(build.account, build.since or self.dashboard.now, self._cell)
        if self._step in begin:
            at, self._step = begin[self._step], None
            self.call_after_refresh(lambda: self.log_widget.go_to_line(at))
        if build.why:
            lines.append(toned(build.why.replace("\n", "; "), "warn"))
        elif not lines:
            lines.append(toned("it has written nothing" if build.ended else "asking the node", "dim"))
        return [(line, plain(line)) for line in lines]
