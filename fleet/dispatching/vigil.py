"""A watch over the nodes that build, beside a buildx that would wait without end for one that is frozen or cut off."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from fleet.dispatching.candidates import SILENT_TIMEOUT
from fleet.errors import FleetError
from fleet.model.facts import Down
from fleet.parallel import Rounds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from fleet.ports import Run

EVERY = 1.0
"""Seconds between two questions to a node."""

TIMEOUT = 1.2
"""Seconds for its answer; the prober then asks once more, over a connection of its own, for half of that."""

LAST_TIMEOUT = 1.0
"""Seconds for the last question, after another node has answered: so it is not this machine that is slow."""


class Vigil:
    """Ends a run when one of its nodes falls silent, or has died before the build got there.

    At once if others can stand in, else after SILENT_TIMEOUT.
    """

    def __init__(
        self,
        run: Run,
        nodes: Iterable[str],
        *,
        ask: Callable[[str, float], object],
        stands_in: Callable[[str], bool],
        waits_for: Callable[[str, Down], None],
    ) -> None:
        """Begin. `ask`: a node, within so many seconds; `waits_for` is told once of a silent node without stand-in."""
        self._run = run
        self._ask, self._stands_in, self._waits_for = ask, stands_in, waits_for
        self._silent: dict[str, Down] = {}
        self._since: dict[str, float] = {}
        self._over = False
        self._heard, self._told = set[str](), set[str]()
        self._rounds = Rounds({name: partial(self._beat, name) for name in nodes})

    def end(self) -> Mapping[str, Down]:
        """Watch no more; the nodes for whose silence the run was ended."""
        self._over = True
        self._rounds.end(patience=0.0)
        return dict(self._silent)

    def _beat(self, name: str) -> float:
        # A node was chosen because it had just answered.
        if name in self._heard:
            # What fails on this machine, such as reading keys that are being renewed, is no verdict on a node.
            with suppress(FleetError):
                self._look(name)
        self._heard.add(name)
        return EVERY

    def _look(self, name: str) -> None:
        gone = self._gone(name, TIMEOUT)
        if gone is None:
            self._since.pop(name, None)
            return
        silent_for = time.monotonic() - self._since.setdefault(name, time.monotonic())
        if self._stands_in(name):
            gone = self._gone(name, LAST_TIMEOUT)
        elif silent_for <= SILENT_TIMEOUT:
            if name not in self._told and not self._over:
                self._told.add(name)
                self._waits_for(name, gone)
            return
        if gone and not self._over:
            self._silent[name] = gone
            self._run.end()

    def _gone(self, name: str, timeout: float) -> Down | None:
        """Why buildx would wait for the node in vain; None: it would not.

        One that refuses has let go of buildx's connection as well, or lets its build end; but until buildx has asked
        for a build there, it may be trying to connect, for 20 s.
        """
        answer = self._ask(name, timeout)
        return answer if isinstance(answer, Down) and (answer.silent or name not in self._run.refs()) else None
