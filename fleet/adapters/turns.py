"""Builds that begin at the same moment take turns at this machine's processors: the first are under way sooner."""

from __future__ import annotations

import fcntl
import os
import time
from typing import IO, TYPE_CHECKING, Self

from fleet.adapters.cache_folder import cache_folder

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE = 1.0
"""Seconds after which a build begins although it is not its turn: whoever has it may be waiting for a node."""

LOOK_EVERY = 0.01
"""Seconds between two looks at whose turn it is."""


class Turn:
    """One of as many as there are processors; a context, which `end` ends sooner, or the end of the process."""

    def __init__(self) -> None:
        """Wait for it, at most PATIENCE seconds."""
        self._held: IO[bytes] | None = None
        folder, deadline = cache_folder() / "turns", time.monotonic() + PATIENCE
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            while not (held := _free(folder)) and time.monotonic() < deadline:
                time.sleep(LOOK_EVERY)
        except OSError:  # a folder that cannot be used
            return
        self._held = held

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Let the next one begin; from any thread, and more than once."""
        held, self._held = self._held, None
        if held:
            held.close()


def _free(folder: Path) -> IO[bytes] | None:
    """The first that nobody has, held."""
    for number in range(os.cpu_count() or 1):
        file = (folder / str(number)).open("wb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            if not isinstance(error, BlockingIOError):
                raise
        else:
            return file
    return None
