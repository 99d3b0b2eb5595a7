"""One node in full."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from tui.cells import Cell, toned
from tui.details import history_lines, node_lines
from tui.screens.page import Page
from tui.view import rows
from tui.widgets import Sheet

if TYPE_CHECKING:
    from textual.app import ComposeResult


class NodePage(Page):
    """Facts, the staged probe, what it owns and why, drift, and what was done there."""

    TITLE: ClassVar[str] = "Node"
    NODES: ClassVar[bool] = True

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node
        self._history: list[Cell] = []

    def chosen(self) -> tuple[str, ...]:
        """Keys are for this node."""
        return (self._node,)

    @property
    def subject(self) -> str:
        """The node's name, too."""
        return f"Node {self._node}"

    def body(self) -> ComposeResult:
        """A sheet."""
        yield Sheet()

    def on_mount(self) -> None:
        """Its history is asked for once."""
        if read := self.dashboard.outside.history:
            self._history = [(), toned("What was done there", "title"), toned("asking its host", "dim")]
            self.dashboard.ask(lambda: history_lines(read(self._node)), self._show_history)

    def _show_history(self, lines: list[Cell]) -> None:
        self._history = [*self._history[:2], *lines]
        self.update()

    def refresh_body(self) -> None:
        """As it is now."""
        board = self.dashboard
        shown = rows(board.snapshot, board.now, board.trends)
        row = next((row for row in shown if row.node.name == self._node), None)
        if row is None:
            self.query_one(Sheet).show([toned(f"{self._node} is not in the fleet any more", "warn")])
        else:
            self.query_one(Sheet).show([*node_lines(board.outside.spec, board.snapshot, row), *self._history])
