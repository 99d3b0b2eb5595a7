"""Logs: what the daemons write, of all nodes or of some, by time; what is common to all screens that are a log."""

from __future__ import annotations

from bisect import insort
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType

from fleet.logs import Line
from tui.cells import Cell, Tone, matches, toned
from tui.errands import Reading
from tui.log import Log
from tui.screens.page import Page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult

    from fleet.model.facts import Down

KEPT = 5000
"""Lines, the newest."""

EVERY = 0.2
"""Seconds between two looks at what has come."""

_TONES: tuple[Tone, ...] = ("accent", "calm", "good", "warn", "title")


class LogPage(Page):
    """A log that is searched, filtered, wrapped, followed or held; `lines` and `about` are each screen's own."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "prompt('search')", "search", key_display="/"),
        Binding("ampersand", "prompt('filter')", "filter", key_display="&"),
    ]

    def __init__(self, *, follow: bool = True) -> None:
        super().__init__()
        self._follow = follow
        self._pattern = ""
        self._hidden = 0

    @property
    def about(self) -> str:
        """Whose log it is."""
        # Each screen says it; an abstract class would need another metaclass than Textual has.
        raise NotImplementedError

    def lines(self) -> Sequence[tuple[Cell, str]]:
        """All there are, with the words that a filter looks at."""
        raise NotImplementedError

    @property
    def log_widget(self) -> Log:
        """What scrolls."""
        return self.query_one(Log)

    @property
    def state(self) -> str:
        """How it is shown."""
        return self.log_widget.state()

    @property
    def subject(self) -> str:
        """Whose log, what of it, and how it is shown."""
        filtered = f" &{self._pattern} ({self._hidden} hidden)" if self._pattern else ""
        return f"{self.about}{filtered}: {self.state}"

    def body(self) -> ComposeResult:
        """The log."""
        yield Log(follow=self._follow)

    def on_log_changed(self) -> None:
        """How it is shown is said on top."""
        self.update_top()

    def so_far(self, kind: str) -> str:
        """What is searched, or filtered."""
        return self.log_widget.searched if kind == "search" else self._pattern

    def typed(self, kind: str, text: str) -> None:
        """A search, or a filter."""
        if kind == "search":
            self.log_widget.search(text)
        else:
            self.filter(text)

    def filter(self, pattern: str) -> None:
        """Show only lines that match."""
        self._pattern = pattern
        self.update()

    def refresh_body(self) -> None:
        """What there is."""
        every = self.lines()
        shown = (
            [cell for cell, words in every if matches(self._pattern, words)] if self._pattern else [c for c, _ in every]
        )
        self._hidden = len(every) - len(shown)
        self.log_widget.show(shown)

    async def action_back(self) -> None:
        """Take back what was last: the search, the filter, the screen."""
        if self.log_widget.searched:
            self.log_widget.search("")
        elif self._pattern:
            self.filter("")
        else:
            await super().action_back()


class LogsPage(LogPage):
    """What daemons write."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "turn(1)", "one node"),
        Binding("shift+tab", "turn(-1)", "the node before", show=False),
    ]

    def __init__(self, nodes: Sequence[str]) -> None:
        super().__init__()
        self._whose = nodes
        self._only: str | None = None
        """The node whose lines alone are shown; None: all are."""
        self._reading: Reading[tuple[str, Line | Down | None]] | None = None
        self._lines: list[tuple[Line, str, Cell]] = []
        self._ended: list[str] = []

    def chosen(self) -> tuple[str, ...]:
        """Keys are for the one node whose log it is."""
        return tuple(self._whose) if len(self._whose) == 1 else ()

    @property
    def about(self) -> str:
        """Which nodes'."""
        every = len(self._whose) == len(self.dashboard.snapshot.nodes)
        return f"Logs of {self._only or ('all nodes' if every else ', '.join(self._whose))}"

    def on_mount(self) -> None:
        """Begin to read."""
        if follow := self.dashboard.outside.logs:
            self._reading = Reading(partial(follow, self._whose))
            self.set_interval(EVERY, self._take)

    def on_unmount(self) -> None:
        """Read no more."""
        if self._reading:
            self._reading.end()

    def action_turn(self, by: int) -> None:
        """The lines of one node alone, then of the next, then of all again."""
        turns = [None, *self._whose]
        self._only = turns[(turns.index(self._only) + by) % len(turns)]
        self.update()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Of one node there is nothing to choose."""
        return len(self._whose) > 1 if action == "turn" else super().check_action(action, parameters)

    def _take(self) -> None:
        come = False
        tones = {name: _TONES[at % len(_TONES)] for at, name in enumerate(self._whose)}
        width = max(map(len, self._whose), default=0)
        for node, said in self._reading.take() if self._reading else ():
            come = True
            if isinstance(said, Line):
                name: Cell = ((f"{node:<{width}}  ", tones.get(node, "")),) if len(self._whose) > 1 else ()
                cell: Cell = ((f"{said.at:%H:%M:%S}  ", "dim"), *name, *toned(said.text))
                insort(self._lines, (said, node, cell), key=lambda entry: entry[0].at)
            else:
                self._ended.append(f"{node}: {said.stage}: {said.reason}" if said else f"{node}: its log has ended")
        if come:
            del self._lines[:-KEPT]
            self.update()

    def lines(self) -> Sequence[tuple[Cell, str]]:
        """What there is."""
        shown = [
            (cell, f"{node} {line.text}")
            for line, node, cell in self._lines
            if self._only is None or node == self._only
        ]
        ended = [*self._ended, *([self._reading.failed] if self._reading and self._reading.failed else [])]
        shown += [(toned(text, "warn"), text) for text in ended]
        asking = self._reading and not self._reading.ended and not self._lines
        return shown or [(toned("asking the hosts" if asking else "nothing was written", "dim"), "")]
