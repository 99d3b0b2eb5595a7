"""What screens are made of: lines of cells, the line of keys, and a table that draws only what is seen of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget

from tui.cells import Cell, Tone, fitted, wrapped

if TYPE_CHECKING:
    from collections.abc import Sequence


R = TypeVar("R")

TONES: tuple[Tone, ...] = ("dim", "good", "warn", "bad", "calm", "title", "stale", "accent", "match", "current")


class Toned(Widget):
    """Draws cells; what a tone looks like is the style sheet's."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"tone--{tone}" for tone in TONES}

    def tone(self, tone: Tone) -> Style:
        """Its style, to be laid over that of the line."""
        return self.get_component_rich_style(f"tone--{tone}", partial=True) if tone else Style.null()

    def strip(self, cell: Cell, width: int, base: Style) -> Strip:
        """One line, exactly so wide."""
        return Strip(joined([Segment(text, base + self.tone(tone)) for text, tone in fitted(cell, width)]), width)


def joined(segments: Sequence[Segment]) -> list[Segment]:
    """As few as they can be: each costs the terminal an escape sequence.

    Blanks stay apart from a text that follows: pictures lose them at the beginning of a text.
    """
    few: list[Segment] = []
    for segment in filter(lambda one: one.text, segments):
        last = few[-1] if few else None
        if last and last.style == segment.style and (last.text.strip() or segment.text.isspace()):
            few[-1] = Segment(last.text + segment.text, last.style)
        else:
            few.append(segment)
    return few


class Lines(Toned):
    """A few lines that do not scroll."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._lines: Sequence[Cell] = ()

    def show(self, lines: Sequence[Cell]) -> None:
        """Draw these instead."""
        if lines != self._lines:
            self._lines = lines
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """One line of the widget."""
        cell = self._lines[y] if y < len(self._lines) else ()
        return self.strip(cell, self.size.width, self.rich_style)


class Keys(Toned):
    """The keys that do something here, to be read and clicked; made from the bindings."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"keys--key", "keys--word"}

    def on_mount(self) -> None:
        """What has the focus has keys of its own."""
        self.screen.bindings_updated_signal.subscribe(self, lambda _: self.refresh())

    def render_line(self, y: int) -> Strip:
        """One line of the widget."""
        base, width = self.rich_style, self.size.width
        if y:
            return Strip.blank(width, base)
        key, word = (self.get_component_rich_style(f"keys--{part}", partial=True) for part in ("key", "word"))
        segments, used = [], 0
        for node, binding, enabled, _ in self.screen.active_bindings.values():
            shown = self.app.get_key_display(binding)
            taken = len(shown) + len(binding.description) + 3
            if not (binding.show and enabled) or used + taken > width:
                continue
            where = "app" if node is self.app else "screen" if node is self.screen else "focused"
            click = Style.from_meta({"@click": f"{where}.{binding.action}"})
            segments += [
                Segment(f" {shown}", base + key + click),
                Segment(f" {binding.description} ", base + word + click),
            ]
            used += taken
        return Strip(segments).adjust_cell_length(width, base)


class Sheet(ScrollView, Toned, can_focus=True, inherit_bindings=False):
    """Lines that scroll; long ones are wrapped."""

    COMPONENT_CLASSES: ClassVar[set[str]] = Toned.COMPONENT_CLASSES
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "scroll_up", "line up", show=False),
        Binding("down,j", "scroll_down", "line down", show=False),
        Binding("pageup,ctrl+b", "page_up", "page up", show=False),
        Binding("pagedown,ctrl+f", "page_down", "page down", show=False),
        Binding("home,g", "scroll_home", "top", show=False),
        Binding("end,G", "scroll_end", "end", show=False),
        Binding("w", "wrap", "wrap", show=False),
    ]

    def __init__(self, *, wrap: bool = True, **given: Any) -> None:
        super().__init__(**given)
        self._given: Sequence[Cell] = ()
        self._lines: list[Cell] = []
        self._wrap = wrap

    def show(self, lines: Sequence[Cell]) -> None:
        """Draw these instead."""
        if lines != self._given:
            self._given = lines
            self._lay_out()

    def action_wrap(self) -> None:
        """Wrap long lines, or do not."""
        self._wrap = not self._wrap
        self._lay_out()

    def on_resize(self) -> None:
        """Wrap anew."""
        self._lay_out()

    @property
    def follows(self) -> bool:
        """Whether the end stays in sight."""
        return False

    @property
    def _at_end(self) -> bool:
        return self.scroll_offset.y >= len(self._lines) - self.scrollable_content_region.height

    def laid_out(self, lines: Sequence[Cell], width: int) -> list[Cell]:
        """The rows that these lines take."""
        return [part for line in lines for part in wrapped(line, width)] if self._wrap else [*lines]

    def _lay_out(self) -> None:
        follows = self.follows
        self._lines = self.laid_out(self._given, max(self.scrollable_content_region.width, 1))
        self.virtual_size = Size(0, len(self._lines))
        self.refresh()
        if follows:
            self.call_after_refresh(self.scroll_end, animate=False, immediate=True)

    def render_line(self, y: int) -> Strip:
        """One line of those in sight."""
        at = y + self.scroll_offset.y
        cell = self._lines[at] if at < len(self._lines) else ()
        return self.strip(cell, self.scrollable_content_region.width, self.rich_style)
