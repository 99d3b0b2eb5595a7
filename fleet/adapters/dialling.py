"""TCP connections to sshd that are begun before the slow import of what is spoken over them.

A server does its part of a login's start meanwhile; on a slow host that is a quarter of the login.
"""

from __future__ import annotations

import re
import socket
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

TIMEOUT = 10.0
"""Seconds after which a connection that does not come about is given up."""

_ELSEWHERE = re.compile(r"^\s*(host ?name|port|proxy\w+|match|include)\b", re.IGNORECASE | re.MULTILINE)
"""What in ~/.ssh/config may make a host be reached at another place than its address."""


class Dialling:
    """Connections under way; each is for whoever takes it first."""

    def __init__(self, places: Iterable[tuple[str, int]], config_file: Path) -> None:
        """Begin them all, unless `config_file` may lead elsewhere; a place is an address and a port."""
        self._open: dict[tuple[str, int], socket.socket] = {}
        with suppress(OSError, ValueError):
            if config_file.is_file() and _ELSEWHERE.search(config_file.read_text()):
                return
            for place in places:
                threading.Thread(target=partial(self._dial, place), daemon=True).start()

    def take(self, address: str, port: int) -> socket.socket | None:
        """The connection to that place if there is one already; None: dial, and be told why that fails."""
        return self._open.pop((address, port), None)

    def _dial(self, place: tuple[str, int]) -> None:
        with suppress(OSError):
            self._open[place] = socket.create_connection(place, TIMEOUT)
