"""Note on hosts what was done there, and ask them what they have noted: the acting part of `fleet.applying.history`."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from fleet.applying import history
from fleet.applying.history import Entry, History
from fleet.errors import HostError
from fleet.model.facts import Down, Stage
from fleet.parallel import Gathering, gather

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from fleet.applying.report import Result
    from fleet.model.spec import HostSpec
    from fleet.observing.observe import Connections
    from fleet.ports import World

TIMEOUT = 10.0
"""Seconds that a host has for it: a run is not kept by its own record."""


@dataclass(frozen=True, slots=True)
class Recorder:
    """Notes what one command does on hosts, over the connections that it has."""

    fleet: str
    command: str
    world: World
    connections: Connections
    _under_way: dict[str, Gathering[str, Down | None]] = field(default_factory=dict)

    def note(
        self, host: HostSpec, began: datetime, actions: Sequence[str], result: Result, where: str = ""
    ) -> Down | None:
        """Note it, with the action at which it failed or stopped; why that was not possible."""
        entry = Entry(
            host.name,
            began,
            self.world.operator,
            self.command,
            tuple(actions),
            result,
            where,
            self.world.version(),
        )
        try:
            done = self.connections.get(host).run(history.append(self.fleet, entry), timeout=TIMEOUT)
        except HostError as error:
            return Down(error.stage, f"what was done there is not in its history: {error.message}", error.remedy)
        if done.status:
            said = (done.stderr.strip().splitlines() or ["no output"])[-1]
            return Down(
                Stage.SSH,
                f"what was done there is not in its history: {said}",
                "can its login write ~/.local/state/fleet?",
            )
        return None

    def begin(self, host: HostSpec, began: datetime, actions: Sequence[str], result: Result, where: str = "") -> None:
        """The same beside what else is to be done; `settle` and `missing` wait for it."""
        self._under_way[host.name] = Gathering({host.name: partial(self.note, host, began, actions, result, where)})

    def settle(self, host: HostSpec) -> None:
        """Wait until what was begun has been noted there, or could not be."""
        if noting := self._under_way.get(host.name):
            noting.results()

    def missing(self) -> dict[str, Down]:
        """The hosts that could not note it, and why."""
        noted = {name: one.results()[name] for name, one in self._under_way.items()}
        return {name: why for name, why in noted.items() if why}


def histories(fleet: str, hosts: Sequence[HostSpec], connections: Connections) -> dict[str, History | Down]:
    """What each of these hosts has noted, or why it cannot be asked."""

    def ask(host: HostSpec) -> History | Down:
        try:
            done = connections.get(host).run(history.read(fleet))
        except HostError as error:
            return Down(error.stage, error.message, error.remedy)
        if done.status:
            said = (done.stderr.strip().splitlines() or ["no output"])[-1]
            return Down(Stage.SSH, f"its history cannot be read: {said}", "log in by hand and see")
        return history.parse(done.stdout)

    return gather({host.name: partial(ask, host) for host in hosts})
