"""The fleet at a glance: a row a node, and what there is to say of the one under the cursor."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from tui.cells import wrapped
from tui.grid import Grid
from tui.screens.page import Page
from tui.view import NODE_COLUMNS, NodeRow, about, rows
from tui.widgets import Lines

if TYPE_CHECKING:
    from textual.app import ComposeResult


class FleetPage(Page):
    """The first screen."""

    TITLE: ClassVar[str] = "Fleet"
    NODES: ClassVar[bool] = True

    def body(self) -> ComposeResult:
        """The table, and the lines about one node."""
        yield Grid[NodeRow](
            NODE_COLUMNS,
            lambda row: row.node.name,
            words=lambda row: row.words,
            empty="this fleet has no nodes: add hosts to the inventory, then fleet up",
            opens=True,
            marks=True,
            id="nodes",
        )
        yield Lines(id="about")

    def refresh_body(self) -> None:
        """The rows, and the node under the cursor."""
        board = self.dashboard
        self._grid.show(rows(board.snapshot, board.now, board.trends))
        self._show_about()

    @property
    def _grid(self) -> Grid[NodeRow]:
        return self.query_one("#nodes", Grid)

    def chosen(self) -> tuple[str, ...]:
        """The marked nodes, or the one under the cursor."""
        return self._grid.chosen()

    def on_grid_moved(self) -> None:
        """Another node is under the cursor."""
        self._show_about()

    def on_grid_opened(self, message: Grid.Opened) -> None:
        """Enter on a node."""
        self.dashboard.open_node(message.key)

    def _show_about(self) -> None:
        row = self._grid.current
        lines = self.query_one("#about", Lines)
        width = max(lines.size.width, 20)
        lines.show([part for line in (about(row) if row else []) for part in wrapped(line, width)])
