"""A log: lines that scroll, follow what comes, and are searched."""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import TYPE_CHECKING, Any, ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message

from tui.cells import highlighted, length, plain, wrapped
from tui.widgets import Sheet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tui.cells import Cell


class Log(Sheet):
    """What is new comes into sight as long as the end is, unless it is held."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "search(1)", "next match", show=False),
        Binding("N", "search(-1)", "match before", show=False),
        Binding("f", "hold", "follow"),
        Binding("w", "wrap", "wrap"),
    ]

    class Changed(Message):
        """Another part of it is in sight, or it is shown in another way."""

    def __init__(self, *, follow: bool = True, **given: Any) -> None:
        super().__init__(wrap=False, **given)
        self._held = not follow
        self.searched = ""
        """What is searched for; empty: nothing."""
        self._pattern: re.Pattern[str] | None = None
        self._found: list[int] = []
        """Lines that match."""
        self._current = 0
        self._starts: list[int] = []
        """The row at which each line begins."""
        self._wrapped: tuple[int, dict[Cell, list[Cell]]] = 0, {}
        """For a width, the rows of each line that is wider: most lines stay, and wrapping is what takes long."""

    def state(self, following: str = "following") -> str:
        """How it is shown, in words."""
        parts = [following if self.follows else "held"] + ["wrapped"] * self._wrap
        if self._pattern:
            of = f"{self._current + 1} of {len(self._found)} lines" if self._found else "not found"
            parts.append(f"/{self.searched}: {of}")
        return ", ".join(parts)

    @property
    def follows(self) -> bool:
        """Whether what is new will be in sight."""
        return not self._held and self._at_end

    def show(self, lines: Sequence[Cell]) -> None:
        """Draw these instead; unless it follows, the line on top stays there, whatever went or came above it.

        A line is the same where it is the same object.
        """
        before, top = self._given, self._line_at(self.scroll_offset.y)
        held = bool(before) and not self.follows
        within = self.scroll_offset.y - self._starts[top] if held else 0
        super().show(lines)
        if held and self._given is not before and self._starts:
            at = {id(line): at for at, line in enumerate(lines)}
            # What has no line of its own any more gives its place to the next that has.
            stays = next(
                (max(at[id(line)] - below, 0) for below, line in enumerate(before[top:]) if id(line) in at), top
            )
            row = self._starts[min(stays, len(self._starts) - 1)] + within
            self.scroll_to(y=row, animate=False, force=True, immediate=True)

    def action_hold(self) -> None:
        """Follow what comes, or do not."""
        self._held = self.follows
        if not self._held:
            self.scroll_end(animate=False, immediate=True)
        self.post_message(self.Changed())

    def action_scroll_end(self) -> None:
        """Follow, too."""
        self._held = False
        super().action_scroll_end()

    def action_wrap(self) -> None:
        """Wrap long lines, or do not; what is on top stays there."""
        top = self._line_at(self.scroll_offset.y)
        stays = self.follows
        super().action_wrap()
        if not stays and self._starts:
            self.scroll_to(y=self._starts[top], animate=False, force=True, immediate=True)
        self.post_message(self.Changed())

    def search(self, text: str) -> None:
        """Mark lines with this text, capitals as small, and go to the first in sight, or the nearest; empty: none."""
        self.searched = text
        self._pattern = re.compile(re.escape(text), re.IGNORECASE) if text else None
        self._lay_out()
        top = self._line_at(self.scroll_offset.y)
        at = bisect_right(self._found, top - 1)
        self._go_to(min(at, len(self._found) - 1))

    def action_search(self, by: int) -> None:
        """To another line that matches; after the last comes the first."""
        if self._found:
            self._go_to((self._current + by) % len(self._found))

    def go_to_line(self, line: int) -> None:
        """Have a line in sight, near the top."""
        if line < len(self._starts):
            room = self.scrollable_content_region.height
            self.scroll_to(y=max(self._starts[line] - room // 4, 0), animate=False, force=True, immediate=True)

    def _go_to(self, match: int) -> None:
        self._current = max(match, 0)
        if self._found:
            row = self._starts[self._found[self._current]]
            if not self.scroll_offset.y <= row < self.scroll_offset.y + self.scrollable_content_region.height:
                self.go_to_line(self._found[self._current])
            self._lay_out()
        self.post_message(self.Changed())

    def _line_at(self, row: int) -> int:
        return max(bisect_right(self._starts, row) - 1, 0)

    def laid_out(self, lines: Sequence[Cell], width: int) -> list[Cell]:
        """Rows, with matches marked."""
        pattern = self._pattern
        self._found = [at for at, line in enumerate(lines) if pattern.search(plain(line))] if pattern else []
        # A search goes on over what comes, and over what goes at the other end.
        self._current = min(self._current, max(len(self._found) - 1, 0))
        found, current = set(self._found), self._found[self._current] if self._found else None
        known = self._wrapped[1] if self._wrapped[0] == width else {}
        kept: dict[Cell, list[Cell]] = {}
        rows: list[Cell] = []
        self._starts = []
        for at, given in enumerate(lines):
            self._starts.append(len(rows))
            line = given
            if pattern and at in found:
                line = highlighted(given, pattern, "current" if at == current else "match")
            if not self._wrap or length(line) <= width:
                rows.append(line)
                continue
            kept[line] = known.get(line) or wrapped(line, width)
            rows += kept[line]
        self._wrapped = width, kept
        return rows

    def watch_scroll_y(self, old: float, new: float) -> None:
        """Tell of it: whether it follows is seen."""
        super().watch_scroll_y(old, new)
        self.post_message(self.Changed())
