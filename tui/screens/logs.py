"""What the daemons write, of all nodes or of some, by time."""

from __future__ import annotations

import threading
from bisect import insort
from collections import deque
from typing import TYPE_CHECKING, ClassVar

from fleet.errors import FleetError
from fleet.logs import Line
from tui.cells import Cell, Tone, matches, toned
from tui.screens.page import Page
from tui.widgets import Sheet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult

    from fleet.model.facts import Down

KEPT = 5000
"""Lines, the newest."""

TAIL = 200
"""Lines of each node to begin with."""

EVERY = 0.2
"""Seconds between two looks at what has come."""

_TONES: tuple[Tone, ...] = ("accent", "calm", "good", "warn", "title")


class LogsPage(Page):
    """A log that goes on; what is in sight at its end stays at its end."""

    TITLE: ClassVar[str] = "Logs"

    def __init__(self, nodes: Sequence[str]) -> None:
        super().__init__()
        self._whose = nodes
        self._come: deque[tuple[str, Line | Down | None]] = deque()
        self._lines: list[tuple[Line, str]] = []
        self._ended: list[str] = []
        self._stop = threading.Event()
        self._pattern = ""

    def chosen(self) -> tuple[str, ...]:
        """Keys are for the one node whose log it is."""
        return tuple(self._whose) if len(self._whose) == 1 else ()

    @property
    def subject(self) -> str:
        """Whose log, and the filter."""
        whose = ", ".join(self._whose) if len(self._whose) < len(self.dashboard.snapshot.nodes) else "all nodes"
        return f"Logs of {whose}" + (f" /{self._pattern}" if self._pattern else "")

    def body(self) -> ComposeResult:
        """A sheet that follows."""
        yield Sheet(wrap=False, follow=True)

    def on_mount(self) -> None:
        """Begin to read."""
        threading.Thread(target=self._read, daemon=True).start()
        self.set_interval(EVERY, self._take)

    def on_unmount(self) -> None:
        """Read no more."""
        self._stop.set()

    def filter(self, pattern: str) -> None:
        """Show only lines that match."""
        self._pattern = pattern
        self.update()

    def _read(self) -> None:
        follow = self.dashboard.outside.logs
        if follow is None:
            return
        try:
            for come in follow(self._whose, self._stop):
                self._come.append(come)
        except FleetError as error:
            self._ended.append(error.message)
        except Exception as error:
            # A thread must not die unheard.
            self._ended.append(f"unexpected {type(error).__name__}: {error}")

    def _take(self) -> None:
        come = False
        while self._come:
            node, said = self._come.popleft()
            come = True
            if isinstance(said, Line):
                insort(self._lines, (said, node), key=lambda entry: entry[0].at)
            else:
                self._ended.append(f"{node}: {said.stage}: {said.reason}" if said else f"{node}: its log has ended")
        if come:
            del self._lines[:-KEPT]
            self.update()

    def refresh_body(self) -> None:
        """What there is."""
        nodes = [node.name for node in self.dashboard.snapshot.nodes]
        tones = {name: _TONES[at % len(_TONES)] for at, name in enumerate(nodes)}
        width = max(map(len, self._whose), default=0)
        shown: list[Cell] = [
            (
                (f"{line.at:%H:%M:%S}  ", "dim"),
                *(((f"{node:<{width}}  ", tones.get(node, "")),) if len(self._whose) > 1 else ()),
                *toned(line.text),
            )
            for line, node in self._lines
            if matches(self._pattern, f"{node} {line.text}")
        ]
        ends = [toned(text, "warn") for text in self._ended]
        self.query_one(Sheet).show([*shown, *ends] or [toned("asking the hosts", "dim")])
