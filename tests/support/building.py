"""Builds in a loop, side by side, to see that none fails while something else goes on."""

from __future__ import annotations

import itertools
import os
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Self

PAUSE = 2.0
"""Seconds between two builds of a lane: on a small machine builds without a pause would be all that it does."""

DOCKERFILE = "ARG BASE\nFROM $BASE\nARG SALT\nRUN echo $SALT > /salt\n"


@dataclass(frozen=True, slots=True)
class Kind:
    """A build as somebody types it, but for the changing part."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    pause: float = PAUSE
    """Seconds to wait after it."""


@dataclass(frozen=True, slots=True)
class Done:
    """One build that has ended; times in seconds since the loops began."""

    kind: str
    code: int
    begun: float
    ended: float
    said: str

    def __str__(self) -> str:
        return f"{self.kind}: exit {self.code}, {self.begun:.2f} to {self.ended:.2f} s ({self.began_at})\n{self.said}"

    @property
    def began_at(self) -> str:
        """For comparison with logs of other machines."""
        return time.strftime("%H:%M:%S", time.gmtime(time.time() - time.monotonic() + self.begun))


@dataclass(slots=True)
class Loops:
    """Builds of these kinds, one after the other in each lane, until the end of the `with`."""

    context: Path
    base: str
    lanes: Sequence[Sequence[Kind]]
    done: list[Done] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._go_round, args=(lane,)) for lane in self.lanes]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def failed(self) -> list[Done]:
        """Those that did."""
        return [one for one in self.done if one.code]

    @property
    def counts(self) -> dict[str, int]:
        """Kind -> builds that have ended."""
        kinds = [kind.name for lane in self.lanes for kind in lane]
        return {name: sum(one.kind == name for one in self.done) for name in kinds}

    def _go_round(self, lane: Sequence[Kind]) -> None:
        for kind in itertools.cycle(lane):
            if self._over.is_set():
                return
            self.done.append(build(self.context, self.base, kind))
            self._over.wait(kind.pause)


_NUMBERS = itertools.count()


def in_folder(folder: Path) -> Path:
    """The context of all these builds, in a folder of its own."""
    folder.mkdir()
    (folder / "Dockerfile").write_text(DOCKERFILE)
    return folder


def build(context: Path, base: str, kind: Kind) -> Done:
    """One build that is not cached; the context is made by `in_folder`."""
    salt = f"SALT={os.getpid()}-{next(_NUMBERS)}"
    begun = time.monotonic()
    ended = subprocess.run(
        (
            *(*kind.command, "--build-arg", f"BASE={base}", "--build-arg", salt),
            *("--progress", "plain", "--output", "type=cacheonly", str(context)),
        ),
        env=kind.env,
        capture_output=True,
        text=True,
        check=False,
    )
    return Done(kind.name, ended.returncode, begun, time.monotonic(), ended.stderr)
