"""What this machine's own `fleet build`s have on which node, before the nodes themselves can say so.

Each is a file that its process holds a lock on: the kernel lets go of it when the process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path


class Reservations:
    """The reservations of one fleet on this machine, as files in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: list[tuple[Path, int]] = []

    @contextmanager
    def choosing(self) -> Iterator[Mapping[str, int]]:
        """Hold what others wait for to choose, from counting to reserving; the counts. Clears up after the dead."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self._folder / ".choosing", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for path in self._files():
                if not _is_held(path):
                    path.unlink(missing_ok=True)
            yield self.counts()
        finally:
            os.close(lock)

    def counts(self) -> Mapping[str, int]:
        """Node -> builds of this machine there, this process's own too."""
        return Counter(path.name.partition("@")[0] for path in self._files() if _is_held(path))

    def reserve(self, nodes: Iterable[str]) -> None:
        """Take a place on each of these nodes, in place of what was held; within `choosing`."""
        self.release()
        for node in nodes:
            path = self._folder / f"{node}@{os.getpid()}.{os.urandom(4).hex()}"
            held = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            fcntl.flock(held, fcntl.LOCK_EX)
            self._held.append((path, held))

    def release(self) -> None:
        """Give back what is held."""
        while self._held:
            path, held = self._held.pop()
            path.unlink(missing_ok=True)
            os.close(held)

    def _files(self) -> list[Path]:
        try:
            return [path for path in self._folder.iterdir() if not path.name.startswith(".")]
        except FileNotFoundError:
            return []


def _is_held(path: Path) -> bool:
    try:
        seen = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that those who only look are not taken for holders.
        fcntl.flock(seen, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(seen)
