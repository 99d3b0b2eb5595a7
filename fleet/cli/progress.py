"""Live progress on stderr: a line a host on a terminal, every step as a line with -v, nothing otherwise."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from fleet.applying.report import Event


class Progress(Protocol):
    """Where a run is."""

    def waiting(self, text: str) -> None:
        """The whole run waits for this."""
        ...

    def event(self, event: Event) -> None:
        """A step of one subject; called from any thread."""
        ...


@contextmanager
def progress(*, verbose: bool) -> Iterator[Progress]:
    """The progress that fits stderr; what it drew is gone when it ends. An interrupt gets a note of where that was."""
    shown = _Lines() if verbose else _Board() if sys.stderr.isatty() else _Silent()
    try:
        with shown.drawn() if isinstance(shown, _Board) else nullcontext():
            yield shown
    except KeyboardInterrupt as interrupt:
        if shown.last:
            interrupt.add_note(shown.last)
        raise


class _Silent:
    last = ""
    """What was told last."""

    def waiting(self, text: str) -> None:
        self.last = text

    def event(self, event: Event) -> None:
        self.last = f"{event.subject}: {event.text}"


class _Lines(_Silent):
    def __init__(self) -> None:
        self._started = time.monotonic()

    def waiting(self, text: str) -> None:
        super().waiting(text)
        self._print("fleet", text)

    def event(self, event: Event) -> None:
        super().event(event)
        self._print(event.subject, event.text)

    def _print(self, subject: str, text: str) -> None:
        click.echo(f"{time.monotonic() - self._started:6.1f} s  {subject}: {text}", err=True)


class _Board(_Silent):
    """One line a subject: what it does now, and for how long."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._title = ""
        self._started = time.monotonic()
        self._rows: dict[str, tuple[Event, float]] = {}

    def waiting(self, text: str) -> None:
        super().waiting(text)
        with self._guard:
            self._title, self._started, self._rows = text, time.monotonic(), {}

    def event(self, event: Event) -> None:
        super().event(event)
        with self._guard:
            self._title = ""
            self._rows[event.subject] = (event, time.monotonic())

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """Draw it for a while."""
        from rich.console import Console
        from rich.live import Live

        with Live(get_renderable=self.table, console=Console(stderr=True), transient=True, refresh_per_second=8):
            yield

    def table(self) -> Table:
        """What Live draws."""
        from rich.table import Table
        from rich.text import Text

        now = time.monotonic()
        table = Table.grid(padding=(0, 2))
        with self._guard:
            if self._title:
                table.add_row("…", self._title, f"{now - self._started:.0f} s")
            for subject, (event, since) in self._rows.items():
                glyph, style = {"done": ("✓", "green"), "failed": ("✗", "red")}.get(event.state, ("…", ""))
                seconds = "" if event.state in {"done", "failed"} else f"{now - since:.0f} s"
                text = Text(event.text, overflow="ellipsis", no_wrap=True)
                table.add_row(Text(f"{glyph} {subject}", style=style), text, seconds)
        return table
