"""What waits for the world, in threads of its own; what comes of it is shown where screens may be touched."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

from textual.app import App
from textual.message import Message

from fleet.errors import FleetError
from fleet.parallel import Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from fleet.model.snapshot import Snapshot
    from tui.outside import Watching

T = TypeVar("T")

PATIENCE = 2.0
"""Seconds that the end waits for the watching to end."""


class Later(Message):
    """Something to be called where screens may be touched."""

    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__()
        self.call = call


class Errands(App[None]):
    """An app that never waits itself."""

    def later(self, call: Callable[[T], None], value: T) -> None:
        """Show something, while there are screens; called from any thread."""
        # What works in a thread goes on when the screens have just ended.
        with suppress(RuntimeError):
            self.post_message(Later(lambda: call(value)))

    def on_later(self, message: Later) -> None:
        """What a thread has to show."""
        message.call()

    def ask(
        self, call: Callable[[], T], show: Callable[[T], None], failed: Callable[[str], None] | None = None
    ) -> threading.Thread:
        """Call it in a thread of its own, and show what comes of it; what fails is told."""

        def work() -> None:
            try:
                result = call()
            except Exception as error:
                self.later(failed or self.complain, told(error))
            else:
                self.later(show, result)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread

    def complain(self, text: str) -> None:
        """A note that something failed."""
        self.notify(text, severity="error", timeout=15, markup=False)


def told(error: Exception) -> str:
    """In words; a mistake of ours must not end a thread unheard."""
    if not isinstance(error, FleetError):
        return f"unexpected {type(error).__name__}: {error}"
    return f"{error.message}\ntry: {error.remedy}" if error.remedy else error.message


class Reading(Generic[T]):
    """Reads what goes on and on, in a thread; what has come is taken where screens may be touched."""

    def __init__(self, read: Callable[[Stop], Iterable[T]]) -> None:
        self._read = read
        self._come: deque[T] = deque()
        self._stop = Stop()
        self.failed: str | None = None
        """Why it ended, if not by itself."""
        self.ended = False
        threading.Thread(target=self._work, daemon=True).start()

    def take(self) -> Iterator[T]:
        """What has come since."""
        while self._come:
            yield self._come.popleft()

    def end(self) -> None:
        """Read no more."""
        self._stop.set()

    def _work(self) -> None:
        try:
            for said in self._read(self._stop):
                self._come.append(said)
        except Exception as error:
            self.failed = told(error)
        self.ended = True


class Feed:
    """Reads Snapshots as they come, until the end."""

    def __init__(
        self,
        watch: Callable[[], AbstractContextManager[Watching]],
        show: Callable[[Snapshot], object],
        broken: Callable[[str], object],
    ) -> None:
        """`broken`: it has ended by itself, and why. Both are called from a thread."""
        self._watch, self._show, self._broken = watch, show, broken
        self._watching: Watching | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def begin(self) -> None:
        """Open it and read."""
        self._thread.start()

    def hurry(self) -> None:
        """Have everybody asked now."""
        if self._watching:
            self._watching.hurry()

    def end(self) -> bool:
        """Leave nothing behind; whether that was possible in time."""
        self._ending.set()
        if self._watching:
            self._watching.stop()
        if self._thread.ident is not None:
            self._thread.join(PATIENCE)
        return not self._thread.is_alive()

    def _read(self) -> None:
        try:
            with self._watch() as watching:
                self._watching = watching
                for taken in watching.snapshots():
                    if self._ending.is_set():
                        return
                    self._show(taken)
        except Exception as error:
            # The screens stay, and say why nothing moves any more.
            self._broken(told(error))
