"""Logs of several daemons as one: lines out of what Docker sends, put in the order of their times."""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_BEGINNING = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Line:
    """What a daemon wrote, without its end, and when by its host's clock (UTC)."""

    at: datetime
    text: str


def lines(frames: Iterable[tuple[int, bytes]]) -> Iterator[Line]:
    """Lines out of (stream, `TIME TEXT`), of which Docker makes several for a line of more than 16 KiB.

    Raises ValueError for a frame without a time.
    """
    begun: dict[int, tuple[datetime, bytes]] = {}
    for stream, content in frames:
        stamp, _, text = content.partition(b" ")
        at, before = begun.pop(stream) if stream in begun else (datetime.fromisoformat(stamp.decode()), b"")
        if text.endswith(b"\n"):
            yield _line(at, before + text[:-1])
        else:
            begun[stream] = at, before + text
    yield from (_line(*rest) for rest in sorted(begun.values()))


def _line(at: datetime, text: bytes) -> Line:
    return Line(at, text.decode(errors="replace"))


def merged(streams: Mapping[str, Iterable[Line]]) -> Iterator[tuple[str, Line]]:
    """(node, line) of streams that end, by time; each node's lines stay in their own order."""
    ordered = heapq.merge(*(_ordered(node, stream) for node, stream in streams.items()), key=lambda entry: entry[0])
    return ((node, line) for _, node, line in ordered)


def _ordered(node: str, stream: Iterable[Line]) -> Iterator[tuple[datetime, str, Line]]:
    # A clock that is set back must not make a node's lines change places.
    latest = _BEGINNING
    for line in stream:
        latest = max(latest, line.at)
        yield latest, node, line


class Window:
    """The same for streams that do not end: a line is held for a while, in case an earlier one is under way."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._latest: dict[str, datetime] = {}
        self._held: list[tuple[datetime, int, str, Line]] = []
        self._arrivals: deque[tuple[float, datetime]] = deque()
        self._count = 0
        self._ripe = _BEGINNING

    def add(self, node: str, line: Line, now: float) -> None:
        """A line has come; `now` in seconds, as below."""
        at = self._latest[node] = max(self._latest.get(node, _BEGINNING), line.at)
        heapq.heappush(self._held, (at, self._count, node, line))
        self._arrivals.append((now, at))
        self._count += 1

    def due(self, now: float = math.inf) -> Iterator[tuple[str, Line]]:
        """(node, line) of those held long enough, and of all that are earlier; without `now` of all."""
        while self._arrivals and self._arrivals[0][0] + self._seconds <= now:
            self._ripe = max(self._ripe, self._arrivals.popleft()[1])
        while self._held and self._held[0][0] <= self._ripe:
            _, _, node, line = heapq.heappop(self._held)
            yield node, line

    def wait(self, now: float) -> float | None:
        """Seconds until there may be something due; None: nothing is held."""
        return max(self._arrivals[0][0] + self._seconds - now, 0.0) if self._held else None
