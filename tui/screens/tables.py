"""Screens that are one table: certificates, routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fleet.certificates import Entry
from tui.cells import toned
from tui.grid import Grid
from tui.listings import ROUTE_COLUMNS, Route, certificate_columns, certificates, route_lines, routes
from tui.screens.page import Page
from tui.widgets import Lines

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from tui.cells import Cell


class RoutesPage(Page):
    """Which node builds which platform, and why the others do not."""

    TITLE: ClassVar[str] = "Routes"

    def body(self) -> ComposeResult:
        """The table, and one platform in full."""
        yield Grid[Route](
            ROUTE_COLUMNS,
            lambda route: str(route.platform),
            words=lambda route: route.words,
            empty="no node has been heard yet",
        )
        yield Lines(id="about")

    def refresh_body(self) -> None:
        """As it is now."""
        self.query_one(Grid).show(routes(self.dashboard.snapshot))
        self.on_grid_moved()

    def on_grid_moved(self) -> None:
        """Another platform is under the cursor."""
        route = self.query_one(Grid).current
        self.query_one("#about", Lines).show(route_lines(route) if route else [])


class CertificatesPage(Page):
    """How long each certificate lasts."""

    TITLE: ClassVar[str] = "Certificates"

    def body(self) -> ComposeResult:
        """The table, and one of them in full."""
        yield Grid[Entry](
            certificate_columns(self.dashboard.now),
            _key,
            words=lambda entry: f"{entry.name} {entry.role} {entry.state} {entry.in_use}",
            empty="nothing is known of certificates yet",
        )
        yield Lines(id="about")

    def refresh_body(self) -> None:
        """As they are now."""
        board = self.dashboard
        self.query_one(Grid).show(certificates(board.outside.spec, board.snapshot, board.now))
        self.on_grid_moved()

    def on_grid_moved(self) -> None:
        """Another one is under the cursor."""
        entry: Entry | None = self.query_one(Grid).current
        if entry is None:
            return
        lines: list[Cell] = [((f"{entry.role} {entry.name}", "title"), ("  ", ""), (entry.in_use, "dim"))]
        if found := entry.certificate:
            lines += [
                toned(f"serial {found.serial}"),
                toned(f"good for {', '.join(found.names) or 'no name'}"),
                toned(f"until {found.expires:%Y-%m-%d %H:%M} UTC"),
            ]
        self.query_one("#about", Lines).show(lines)


def _key(entry: Entry) -> str:
    return f"{entry.name} {entry.role} {entry.certificate.serial if entry.certificate else ''}"
