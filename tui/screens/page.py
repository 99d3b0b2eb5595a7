"""What all screens have: the fleet's line on top, the keys at the bottom, and a place to type a filter or a command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual.binding import Binding, BindingType
from textual.message import Message
from textual.screen import Screen
from textual.suggester import Suggester
from textual.widgets import Input

from tui.commands import completed
from tui.grid import Grid
from tui.view import builder_line, headline
from tui.widgets import Keys, Lines, Sheet

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from textual.app import ComposeResult

    from tui.app import Dashboard
    from tui.cells import Cell


class Page(Screen[None], inherit_bindings=False):
    """One of the dashboard's screens; `body` says what is between the line on top and the keys.

    `body` and `refresh_body` are each screen's own. Textual's metaclass leaves no room for ABCMeta to say so.
    """

    TITLE: ClassVar[str] = ""
    NODES: ClassVar[bool] = False
    """Whether it is about nodes that a key could be for."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "back", show=False),
        Binding("colon", "prompt('command')", "cmd", key_display=":"),
        Binding("slash", "prompt('filter')", "filter", key_display="/"),
    ]

    @property
    def dashboard(self) -> Dashboard:
        """The app, as what it is."""
        return cast("Dashboard", self.app)

    def compose(self) -> ComposeResult:
        """The line on top, the body, the keys."""
        yield Lines(id="headline")
        yield from self.body()
        yield Keys(id="keys")

    def body(self) -> ComposeResult:
        """What this screen is about."""
        # Each screen says it; an abstract class would need another metaclass than Textual has.
        raise NotImplementedError

    def refresh_body(self) -> None:
        """Draw the body anew: there is a new Snapshot, or a second has passed."""
        raise NotImplementedError

    def update(self) -> None:
        """Draw everything anew from what the dashboard has now."""
        # A screen that is about to go may have lost its parts before its timers.
        if self.query("#headline"):
            self.refresh_body()
            self.update_top()

    def update_top(self) -> None:
        """Draw the line on top anew."""
        for top in self.query("#headline").results(Lines):
            top.show(self._top(top.size.width))

    def _top(self, width: int) -> list[Cell]:
        board = self.dashboard
        first = headline(board.snapshot, board.now)
        signs: Cell = ((board.sign, "accent"), ("  ", "")) if board.sign else ()
        title: Cell = (*signs, (self.subject, "title"), ("  ", ""))
        problems = board.snapshot.problems
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            remedy: Cell = ((f"  try: {problems[0].remedy}", "dim"),) if problems[0].remedy and width > 100 else ()
            return [first, (*title, ("! ", "warn"), (problems[0].reason + more, "warn"), *remedy)]
        return [first, (*title, *builder_line(board.snapshot))]

    @property
    def subject(self) -> str:
        """What the second line says this is, with the filter if there is one."""
        return self.TITLE + self.filtered

    @property
    def filtered(self) -> str:
        """The filter in words; empty: there is none."""
        return next((f" /{grid.pattern} ({grid.hidden} hidden)" for grid in self.query(Grid) if grid.pattern), "")

    def on_mount(self) -> None:
        """The first drawing has it all."""
        self.update()

    def on_screen_resume(self) -> None:
        """Back on top: what was missed is drawn."""
        self.call_after_refresh(self.update)

    def on_resize(self) -> None:
        """Room for more, or for less."""
        self.call_after_refresh(self.update)

    def chosen(self) -> tuple[str, ...]:
        """The nodes that a key is for: what is marked, or what this screen is about."""
        return ()

    def filter(self, pattern: str) -> None:
        """Show only what matches."""
        for grid in self.query(Grid):
            grid.filter(pattern)
        self.update()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only what has rows can be filtered."""
        filters = action == "prompt" and parameters == ("filter",)
        return not filters or bool(self.query(Grid)) or type(self).filter is not Page.filter

    # ------------------------------------------------------------------------------------------------- prompt

    async def action_prompt(self, kind: str) -> None:
        """Let a filter or a command be typed."""
        if not self.query(Prompt):
            prompt = Prompt(kind, self.so_far(kind), self.dashboard.completer())
            await self.mount(prompt)
            prompt.focus()

    def so_far(self, kind: str) -> str:
        """What was typed of this kind before."""
        return next((grid.pattern for grid in self.query(Grid)), "") if kind == "filter" else ""

    async def on_prompt_left(self, message: Prompt.Left) -> None:
        """It was typed, or not."""
        await message.prompt.remove()
        self.focus_first()
        if message.prompt.kind != "command":
            self.typed(message.prompt.kind, message.text or "")
        elif message.text:
            self.dashboard.obey(message.text)

    def on_input_changed(self, message: Prompt.Changed) -> None:
        """A filter works while it is typed."""
        if isinstance(message.input, Prompt) and message.input.kind != "command":
            self.typed(message.input.kind, message.value)

    def typed(self, kind: str, text: str) -> None:  # noqa: ARG002 - the one kind here
        """Something that is no command is typed."""
        self.filter(text)

    def focus_first(self) -> None:
        """What scrolls has the keys."""
        for widget in (*self.query(Grid), *self.query(Sheet)):
            widget.focus()
            return

    async def action_back(self) -> None:
        """Take back what was last: marks, the filter, the screen."""
        for grid in self.query(cast("type[Grid[Any]]", Grid)):
            if grid.clear_marks():
                return
            if grid.pattern:
                self.filter("")
                return
        self.dashboard.back()


_HINTS = {
    "filter": "filter; !text turns it round",
    "search": "search; then n and N",
    "command": "a screen, or a command; tab completes",
}


class Prompt(Input):
    """One line for a filter or a command, above the keys."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "never mind", show=False),
        Binding("tab", "cursor_right", "complete", show=False),
    ]

    class Left(Message):
        """Its text; None: never mind."""

        def __init__(self, prompt: Prompt, text: str | None) -> None:
            super().__init__()
            self.prompt, self.text = prompt, text

    def __init__(self, kind: str, text: str, suggester: Suggester) -> None:
        """`kind`: one of _HINTS."""
        super().__init__(
            text,
            placeholder=_HINTS[kind],
            suggester=suggester if kind == "command" else None,
            id="prompt",
            compact=True,
        )
        self.kind = kind
        self.cursor_blink = False

    def on_input_submitted(self) -> None:
        """Enter."""
        self.post_message(self.Left(self, self.value.strip()))

    def action_leave(self) -> None:
        """Escape."""
        self.post_message(self.Left(self, None))


class Completer(Suggester):
    """Completes what is typed after `:`."""

    def __init__(self, available: Collection[str], nodes: Sequence[str]) -> None:
        super().__init__(use_cache=False, case_sensitive=True)
        self._available, self._nodes = available, nodes

    async def get_suggestion(self, value: str) -> str | None:
        """The whole of it; None: nothing fits."""
        return completed(value, self._available, self._nodes)
