"""What tables and lines are made of: texts with a tone, laid out in columns; no terminal is needed for it."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from rich.cells import cell_len, chop_cells, set_cell_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

R = TypeVar("R")

Tone = Literal["", "dim", "good", "warn", "bad", "calm", "title", "stale", "accent", "match", "current"]
"""What a colour is to say; it never says it alone."""

Span = tuple[str, Tone]
Cell = tuple[Span, ...]

UNKNOWN: Cell = (("–", "dim"),)
"""Not known: neither zero nor empty."""

GAP = 2
"""Cells between two columns."""

INDENT = 2
"""Cells before the second and later lines of what is wrapped."""

_WORDS = re.compile(r"\S+ *| +")
_SPARKS = " ▁▂▃▄▅▆▇█"


def plain(cell: Cell) -> str:
    """Its text alone."""
    return "".join(text for text, _ in cell)


def length(cell: Cell) -> int:
    """How many terminal cells it takes: wide characters take two."""
    return sum(cell_len(text) for text, _ in cell)


def fitted(cell: Cell, width: int, *, right: bool = False) -> Cell:
    """Exactly `width` cells wide: filled up with blanks, or cut with an ellipsis."""
    left = width - length(cell)
    if left >= 0:
        blank: Cell = ((" " * left, ""),)
        return (*blank, *cell) if right else (*cell, *blank)
    shown: list[Span] = []
    room = width - 1
    for text, tone in cell:
        if (taken := cell_len(text)) <= room:
            shown.append((text, tone))
            room -= taken
        else:
            shown.append((set_cell_size(text, room) + "…", tone))
            break
    return tuple(shown) if width > 0 else ()


def toned(text: str, tone: Tone = "") -> Cell:
    """One text in one tone; a text of a stranger moves no cursor."""
    return ((printable(text), tone),)


def printable(text: str) -> str:
    """The same without what a terminal would obey."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "�" for letter in text)


def wrapped(cell: Cell, width: int) -> list[Cell]:
    """The same in lines that are no wider, broken at blanks where there are any; the second and later are indented."""
    room = max(width - INDENT, 2)
    lines: list[list[Span]] = [[]]
    used = 0
    for text, tone in cell:
        for word in _WORDS.findall(text):
            for piece in chop_cells(word, room) if cell_len(word) > room else (word,):
                if used and used + cell_len(piece.rstrip(" ")) > width:
                    lines.append([(" " * INDENT, "")])
                    used = INDENT
                lines[-1].append((piece, tone))
                used += cell_len(piece)
    return [tuple(line) for line in lines]


def highlighted(cell: Cell, pattern: re.Pattern[str], tone: Tone) -> Cell:
    """The same, what matches in another tone; a match may go over several texts."""
    found = [match.span() for match in pattern.finditer(plain(cell)) if match.end() > match.start()]
    spans: list[Span] = []
    at = 0
    for text, before in cell:
        edges = {at, at + len(text), *(edge for span in found for edge in span if at < edge < at + len(text))}
        cuts = sorted(edges)
        for begin, end in itertools.pairwise(cuts):
            inside = any(left <= begin < right for left, right in found)
            spans.append((text[begin - at : end - at], tone if inside else before))
        at += len(text)
    return tuple(spans)


def bar(share: float, width: int, tone: Tone) -> Cell:
    """A share of 1 as a bar of `width` cells; what is not nothing is seen."""
    full = min(max(round(share * width), 1 if share > 0 else 0), width)
    return (("━" * full, tone), ("─" * (width - full), "dim"))


def sparkline(values: Sequence[float | None], width: int, most: float, tone: Tone = "") -> Cell:
    """The last `width` values, the newest on the right, `most` being a full cell; what is unknown is a gap."""
    shown = [
        " " if value is None else _SPARKS[1 + min(round(value / (most or 1) * 7), 7)]
        for value in (values[-width:] if width else ())
    ]
    return ((" " * (width - len(shown)), ""), ("".join(shown), tone))


def age(then: datetime | None, now: datetime) -> str:
    """How long ago, in one unit; never is a dash."""
    if then is None:
        return "–"
    seconds = max((now - then).total_seconds(), 0.0)
    for unit, length_of_it, most in (("s", 1, 100), ("m", 60, 5940), ("h", 3600, 172800)):
        if seconds < most:
            return f"{seconds / length_of_it:.0f}{unit}"
    return f"{seconds / 86400:.0f}d"


@dataclass(frozen=True, slots=True)
class Column(Generic[R]):
    """One column of a table."""

    title: str
    cell: Callable[[R], Cell]
    order: Callable[[R], Any]
    """By what it is sorted; None comes last, either way."""
    width: int
    rank: int = 0
    """Where there is no room for all, the columns of the highest rank are left out first; 0: never."""
    right: bool = False
    grows: bool = False
    """Takes what room is left."""


def layout(columns: Sequence[Column[R]], width: int, first: int) -> list[tuple[Column[R], int]]:
    """The columns for which there is room, and how wide each is; the first one is `first` cells wide."""
    widths = {column.title: column.width for column in columns} | {columns[0].title: first}
    shown = list(columns)
    while sum(widths[column.title] + GAP for column in shown) - GAP > width:
        least = max(shown, key=lambda column: column.rank)
        if least.rank == 0:
            break
        shown.remove(least)
    left = width - sum(widths[column.title] + GAP for column in shown) + GAP
    return [(column, widths[column.title] + (max(left, 0) if column.grows else 0)) for column in shown]


def ordered(rows: Iterable[R], column: Column[R], *, descending: bool) -> list[R]:
    """Sorted by a column, stably; unknown comes last."""
    known: list[tuple[Any, R]] = []
    unknown: list[tuple[Any, R]] = []
    for row in rows:
        (unknown if (value := column.order(row)) is None else known).append((value, row))
    known.sort(key=lambda pair: pair[0], reverse=descending)
    return [row for _, row in known] + [row for _, row in unknown]


def matches(pattern: str, words: str) -> bool:
    """Whether a row of these words passes the filter; `!` before it turns it round, capitals count as small."""
    wanted = pattern.strip().casefold()
    if wanted.startswith("!"):
        return not wanted[1:] or wanted[1:] not in words.casefold()
    return wanted in words.casefold()
