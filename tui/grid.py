"""A table that draws only what is seen of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui.cells import GAP, Cell, Column, fitted, layout, matches, ordered
from tui.widgets import Toned, joined

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from textual import events

R = TypeVar("R")

GUTTER = 2
"""Cells before each row: where the cursor is, and what is marked."""

CURSOR, MARK = "›", "◆"

LONGEST_NAME = 28


class Grid(ScrollView, Toned, Generic[R], can_focus=True, inherit_bindings=False):
    """A table with a cursor, marks, a filter and an order; of a thousand rows those in sight are drawn."""

    COMPONENT_CLASSES: ClassVar[set[str]] = Toned.COMPONENT_CLASSES | {
        "grid--header",
        "grid--sorted",
        "grid--cursor",
        "grid--marked",
        "grid--empty",
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "open"),
        Binding("up,k", "move(-1)", "row above", show=False),
        Binding("down,j", "move(1)", "row below", show=False),
        Binding("pageup,ctrl+b", "page(-1)", "page up", show=False),
        Binding("pagedown,ctrl+f", "page(1)", "page down", show=False),
        Binding("home,g", "move(-1000000)", "first row", show=False),
        Binding("end,G", "move(1000000)", "last row", show=False),
        Binding("space", "mark", "mark", show=False),
        Binding("left", "sort(-1)", "sort by the column before", show=False),
        Binding("right", "sort(1)", "sort by the next column", show=False),
        Binding("minus", "turn", "turn the order round", show=False),
    ]

    class Opened(Message):
        """Enter, or a double click, on a row."""

        def __init__(self, key: str) -> None:
            super().__init__()
            self.key = key

    class Moved(Message):
        """The cursor is on another row."""

    def __init__(
        self,
        columns: Sequence[Column[R]],
        key: Callable[[R], str],
        *,
        words: Callable[[R], str],
        empty: str,
        opens: bool = False,
        marks: bool = False,
        named: bool = True,
        **given: Any,
    ) -> None:
        """`key`: what a row is known by; `words`: what the filter looks at; `empty`: said when there are no rows.

        `opens`: a row can be opened; `marks`: several can be marked. `named`: the first column is the key, and as wide
        as the longest.
        """
        super().__init__(**given)
        self._columns, self._key, self._words = tuple(columns), key, words
        self.empty = empty
        self._can = {"open": opens, "mark": marks}
        self._named = named
        self._given: Sequence[R] = ()
        self._rows: list[R] = []
        self._cursor = 0
        self._first = columns[0].width
        self._room: tuple[int, int] | None = None
        self._laid_out: list[tuple[Column[R], int]] = []
        self._drawn: dict[tuple[int, str], Strip] = {}
        self._sorted: int | None = None
        self._descending = False
        self.marked: frozenset[str] = frozenset()
        self.pattern = ""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002 - Textual's
        """There is no key for what means nothing here."""
        return self._can.get(action, True)

    # ---------------------------------------------------------------------------------------------- contents

    def show(self, rows: Sequence[R]) -> None:
        """These rows; cursor and marks stay with what they were on."""
        self._given = rows
        known = {self._key(row) for row in rows}
        self.marked &= known
        self._arrange()

    def filter(self, pattern: str) -> None:
        """Show only what matches; see `matches`."""
        self.pattern = pattern
        self._arrange()

    @property
    def current(self) -> R | None:
        """The row under the cursor; None: there is none."""
        return self._rows[self._cursor] if self._cursor < len(self._rows) else None

    @property
    def hidden(self) -> int:
        """How many rows the filter hides."""
        return len(self._given) - len(self._rows)

    def chosen(self) -> tuple[str, ...]:
        """The keys of what is marked, in their order; of the row under the cursor when nothing is."""
        if self.marked:
            return tuple(key for key in map(self._key, self._given) if key in self.marked)
        return () if self.current is None else (self._key(self.current),)

    def _arrange(self) -> None:
        on = None if self.current is None else self._key(self.current)
        rows = [row for row in self._given if not self.pattern or matches(self.pattern, self._words(row))]
        if self._sorted is not None:
            rows = ordered(rows, self._columns[self._sorted], descending=self._descending)
        before, self._rows = len(self._rows), rows
        self._drawn.clear()
        longest = max((cell_len(self._key(row)) for row in self._given), default=0) if self._named else 0
        self._first = min(max(self._columns[0].width, longest), LONGEST_NAME)
        keys = {self._key(row): at for at, row in enumerate(rows)}
        self._cursor = min(keys.get(on or "", self._cursor), max(len(rows) - 1, 0))
        self.virtual_size = Size(0, len(rows) + 1)
        # What is empty below stays as it is: most of the screen of a small fleet.
        self.refresh(Region(0, 0, self.size.width, min(max(before, len(rows), 1) + 1, self.size.height)))
        if (None if self.current is None else self._key(self.current)) != on:
            self.post_message(self.Moved())

    # ----------------------------------------------------------------------------------------------- drawing

    def _layout(self) -> list[tuple[Column[R], int]]:
        room = self.scrollable_content_region.width - GUTTER, self._first
        if room != self._room:
            self._room, self._laid_out = room, layout(self._columns, *room)
            self._drawn.clear()
        return self._laid_out

    def render_line(self, y: int) -> Strip:
        """One line: the titles, which stay, or a row."""
        width = self.scrollable_content_region.width
        if y == 0:
            return self._titles(width)
        at = y - 1 + self.scroll_offset.y
        if at >= len(self._rows):
            said = self.empty if not self._given else f"nothing matches {self.pattern!r}"
            empty: Cell = ((f"  {said}", "dim"),) if y == 1 and not self._rows else ()
            return self.strip(empty, width, self.rich_style)
        self._layout()
        # Scrolling moves rows that are the same: drawing them is what a key would wait for.
        marked = self._key(self._rows[at]) in self.marked
        drawn = at, (CURSOR if at == self._cursor else " ") + (MARK if marked else " ")
        if drawn not in self._drawn:
            self._drawn[drawn] = self._row(*drawn, width)
        return self._drawn[drawn]

    def notify_style_update(self) -> None:
        """Another theme."""
        super().notify_style_update()
        self._drawn.clear()

    def _row(self, at: int, gutter: str, width: int) -> Strip:
        row, base = self._rows[at], self.rich_style
        if MARK in gutter:
            base += self.get_component_rich_style("grid--marked", partial=True)
        if CURSOR in gutter:
            base += self.get_component_rich_style("grid--cursor", partial=True)
        # Reversed, a tone's colour would be a blot.
        draw = (lambda _: Style.null()) if base.reverse else self.tone
        segments = [Segment(gutter, base)]
        for column, space in self._layout():
            cell = fitted(column.cell(row), space, right=column.right)
            segments += (Segment(text, base + draw(tone)) for text, tone in (*cell, (" " * GAP, "")))
        return Strip(joined(segments)).adjust_cell_length(width, base)

    def _titles(self, width: int) -> Strip:
        base = self.rich_style + self.get_component_rich_style("grid--header", partial=True)
        by = base + self.get_component_rich_style("grid--sorted", partial=True)
        segments = [Segment(" " * GUTTER, base)]
        for column, space in self._layout():
            sorted_by = self._sorted is not None and self._columns[self._sorted] is column
            title = column.title + (("▼" if self._descending else "▲") if sorted_by else "")
            cell = fitted(((title, ""),), space, right=column.right)
            segments += (Segment(text, by if sorted_by else base) for text, _ in cell)
            segments.append(Segment(" " * GAP, base))
        return Strip(joined(segments)).adjust_cell_length(width, base)

    def on_resize(self) -> None:
        """Room for other columns."""
        self.virtual_size = Size(0, len(self._rows) + 1)
        self._follow()

    # ------------------------------------------------------------------------------------------------ moving

    def action_move(self, by: int) -> None:
        """Move the cursor so many rows."""
        self._go(self._cursor + by)

    def action_page(self, by: int) -> None:
        """Move the cursor so many pages."""
        self._go(self._cursor + by * max(self.size.height - 2, 1))

    def action_open(self) -> None:
        """Open what is under the cursor."""
        if self.current is not None:
            self.post_message(self.Opened(self._key(self.current)))

    def action_mark(self) -> None:
        """Mark the row, or take the mark away, and go to the next."""
        if self.current is not None:
            self.marked ^= {self._key(self.current)}
            self._go(self._cursor + 1)

    def action_sort(self, by: int) -> None:
        """Sort by a neighbouring column of those in sight; before the first is the order in which rows were given."""
        shown: list[int | None] = [None, *(self._columns.index(column) for column, _ in self._layout())]
        at = shown.index(self._sorted) if self._sorted in shown else 0
        self._sorted = shown[(at + by) % len(shown)]
        self._arrange()

    def action_turn(self) -> None:
        """Turn the order round."""
        self._descending = not self._descending
        self._arrange()

    def clear_marks(self) -> bool:
        """Take all marks away; whether there were any."""
        had, self.marked = bool(self.marked), frozenset()
        self.refresh()
        return had

    def on_click(self, event: events.Click) -> None:
        """A title sorts, a row takes the cursor, twice opens it."""
        if event.y == 0:
            left = GUTTER
            for column, space in self._layout():
                if left <= event.x < left + space + GAP:
                    at = self._columns.index(column)
                    self._descending = self._sorted == at and not self._descending
                    self._sorted = at
                    self._arrange()
                left += space + GAP
        elif (at := event.y - 1 + self.scroll_offset.y) < len(self._rows):
            self._go(at)
            if event.chain == 2 and self._can["open"]:
                self.action_open()

    def go_to(self, key: str) -> None:
        """Put the cursor on that row, if there is one."""
        for at, row in enumerate(self._rows):
            if self._key(row) == key and at != self._cursor:
                self._go(at)

    def _go(self, to: int) -> None:
        before, self._cursor = self._cursor, min(max(to, 0), max(len(self._rows) - 1, 0))
        self._follow()
        for at in (before, self._cursor):
            self.refresh_line(at + 1)
        self.post_message(self.Moved())

    def _follow(self) -> None:
        self.scroll_to_region(
            Region(0, self._cursor, 1, 2), animate=False, force=True, immediate=True, origin_visible=False
        )
