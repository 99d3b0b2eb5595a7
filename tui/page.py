"""What draws on a browser's page, as textual-serve passes it on."""

from __future__ import annotations

from textual.drivers.web_driver import WebDriver
from textual.messages import ExitApp


class PageDriver(WebDriver):
    """Textual's, which would go on for nobody when what serves the page has been killed."""

    def run_input_thread(self) -> None:
        """To the end of what is typed, which is the app's."""
        super().run_input_thread()
        self._app.post_message(ExitApp())
