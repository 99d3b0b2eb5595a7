"""What lies over a screen: a question before something is changed, and the keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Static

from tui.cells import Cell, toned, wrapped
from tui.widgets import Lines, Sheet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult
    from textual.screen import Screen

WIDTH = 64
"""Cells in which a question is wrapped."""


class Choice(Static, can_focus=True):
    """One answer."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter,space", "choose", "choose", show=False)]

    class Chosen(Message):
        """It is this one."""

        def __init__(self, choice: Choice) -> None:
            super().__init__()
            self.choice = choice

    def action_choose(self) -> None:
        """By key."""
        self.post_message(self.Chosen(self))

    def on_click(self) -> None:
        """By mouse."""
        self.action_choose()


class Ask(ModalScreen[bool]):
    """Whether to do something that changes nodes; not doing it is what has the focus."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "yes"),
        Binding("n,escape,q", "answer(False)", "no"),
        Binding("left,right,tab", "app.focus_next", "the other answer", show=False),
    ]

    def __init__(self, question: str, sentences: Sequence[str]) -> None:
        """`sentences`: what it will disturb."""
        super().__init__()
        self._question, self._sentences = question, sentences

    def compose(self) -> ComposeResult:
        """Question, sentences, answers."""
        with Vertical(id="box"):
            yield Lines(id="asked")
            with Horizontal(id="answers"):
                yield Choice("n no", id="no")
                yield Choice("y yes", id="yes")

    def on_mount(self) -> None:
        """Wrap it to the room there is."""
        width = min(WIDTH, max(self.app.size.width - 10, 20))
        lines: list[Cell] = [*wrapped(toned(self._question, "title"), width), ()]
        for sentence in self._sentences:
            lines += wrapped(toned(sentence), width)
        asked = self.query_one("#asked", Lines)
        asked.styles.height = len(lines)
        asked.show(lines)
        self.query_one("#no").focus()

    def on_choice_chosen(self, message: Choice.Chosen) -> None:
        """An answer was chosen."""
        self.dismiss(message.choice.id == "yes")

    def action_answer(self, yes: bool) -> None:  # noqa: FBT001 - Textual calls actions by position
        """An answer by its letter."""
        self.dismiss(yes)


class Help(ModalScreen[None]):
    """All keys of the screen beneath, made from its bindings."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark,enter", "dismiss", "close")]

    def __init__(self, beneath: Screen[object]) -> None:
        super().__init__()
        groups: dict[str, dict[str, list[str]]] = {"everywhere": {}, "on this screen": {}}
        for node, binding, enabled, _ in beneath.active_bindings.values():
            if enabled and binding.description and not binding.system:
                words = groups["everywhere" if node is beneath.app else "on this screen"]
                words.setdefault(binding.description, []).append(beneath.app.get_key_display(binding))
        self._keys: list[Cell] = []
        for where, words in groups.items():
            self._keys += ((), toned(where, "title")) if self._keys else (toned(where, "title"),)
            self._keys += (((f"{' '.join(keys):>12}  ", "accent"), (word, "")) for word, keys in words.items())

    def compose(self) -> ComposeResult:
        """The keys."""
        with Vertical(id="box"):
            yield Sheet(id="keylist")

    def on_mount(self) -> None:
        """As high as they are, where there is room."""
        sheet = self.query_one("#keylist", Sheet)
        sheet.styles.height = min(len(self._keys), max(self.app.size.height - 6, 3))
        sheet.show(self._keys)
