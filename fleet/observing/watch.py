"""Watch a fleet: every daemon and every host by its own clock, over connections that are kept; yields Snapshots."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Self, TypeVar

from fleet.containers.proxy import gates
from fleet.fleet_health import snapshot
from fleet.model.facts import ApiFacts, BuilderFacts, Down, Facts, HostFacts, NodeFacts, Stage
from fleet.model.snapshot import Drift, Sighting, Snapshot
from fleet.model.spec import Connection
from fleet.model.vault import VaultFacts
from fleet.observing.failures import reason
from fleet.observing.observe import PROBE_TIMEOUT, Connections, files, observe_host
from fleet.parallel import Rounds
from fleet.planning.gateway import with_gateway
from fleet.planning.lane import lane

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from fleet.model.spec import FleetSpec, HostSpec
    from fleet.model.vault import ClientFacts
    from fleet.ports import World

T = TypeVar("T")

EVERY = 2.0
"""Seconds between two questions to a daemon."""

HOST_EVERY = 10.0
"""Seconds between two looks at a host whose daemon answers: what is to be seen there changes slowly."""

HOST_EVERY_DOWN = 3.0
"""The same where the daemon does not answer, and the host may say why."""

LOGIN_EVERY = 10.0
"""Seconds until a host is tried again that could not be logged in to: a login is dear."""

OWN_EVERY = 5.0
"""Seconds between two looks at this machine's keys and builder."""

SETTLING = 0.1
"""Seconds for which news is collected, so that many nodes at once make one Snapshot."""

NO_VAULT = VaultFacts(None, None, None, {})

PATIENCE = 1.0
"""Seconds that the end waits for questions under way."""


@dataclass(frozen=True, slots=True)
class _Own:
    """What this machine has, and why some of that could not be read."""

    builder: BuilderFacts
    vault: VaultFacts | None = None
    clients: tuple[ClientFacts, ...] = ()
    files: Mapping[str, str | Down] = field(default_factory=dict)
    """See `Facts.files`."""
    troubles: tuple[Down, ...] = ()


class Watch:
    """A fleet that is looked at until the end; what is known can be had at any moment, without waiting.

    A context: leaving it ends every connection. No question to a node ever raises: what went wrong is its reason.
    """

    def __init__(self, spec: FleetSpec, world: World, *, every: float = EVERY) -> None:
        """`every`: seconds between two questions to a daemon."""
        self.spec = spec
        self._world, self._every = world, every
        self._connections = Connections(world.connect)
        self._sightings = {host.name: Sighting(NodeFacts()) for host in spec.hosts}
        self._drifts: dict[str, tuple[tuple[object, ...], Drift]] = {}
        self._gates: dict[tuple[str, str], ApiFacts | Down] = {}
        self._own = _Own(BuilderFacts())
        self._guard = threading.Lock()
        self._news = threading.Event()
        self._ended = threading.Event()
        self._rounds: tuple[Rounds, ...] = ()

    def __enter__(self) -> Self:
        hosts = {host.name: host for host in self.spec.hosts}
        self._look_at_own()
        # Hosts that hang must not take the threads from the daemons' probes.
        self._rounds = (
            Rounds({name: partial(self._probe, host) for name, host in hosts.items()}),
            Rounds(
                {
                    name: partial(self._look, host)
                    for name, host in hosts.items()
                    if host.connection is not Connection.NONE
                }
            ),
            Rounds({self.spec.name: self._look_at_own}),
            Rounds({gate.name: partial(self._pass, key, gate) for key, gate in gates(self.spec).items()}),
        )
        return self

    def stop(self) -> None:
        """Let `snapshots` end; called from any thread."""
        self._ended.set()
        self._news.set()

    def __exit__(self, *_: object) -> None:
        self.stop()
        deadline = time.monotonic() + PATIENCE
        for rounds in self._rounds:
            rounds.end(patience=max(deadline - time.monotonic(), 0.0))
        self._connections.__exit__()
        self._world.prober.close()

    def snapshots(self) -> Iterator[Snapshot]:
        """One at once, then one each `every` seconds, sooner when somebody begins or ceases to answer."""
        while not self._ended.is_set():
            yield self.snapshot()
            if self._news.wait(self._every):
                self._ended.wait(SETTLING)
                self._news.clear()

    def snapshot(self) -> Snapshot:
        """How it is, as far as is known now."""
        now, own = self._world.now(), self._own
        with self._guard:
            sightings, facts = dict(self._sightings), self._facts(own)
        taken = snapshot(self.spec, facts, now)
        return replace(
            taken,
            problems=(*own.troubles, *taken.problems),
            sightings={
                host.name: replace(sightings[host.name], drift=self._drift(host, facts, now))
                for host in self.spec.hosts
            },
            vault=own.vault,
            clients=own.clients,
        )

    def facts(self) -> Facts:
        """What is known now; None: not yet. Each answer of a node or gateway is an object of its own."""
        with self._guard:
            return self._facts(self._own)

    def _facts(self, own: _Own) -> Facts:
        nodes = {name: seen.facts for name, seen in self._sightings.items()}
        return Facts(nodes, own.builder, own.vault or NO_VAULT, gates=dict(self._gates), files=own.files)

    def hurry(self) -> None:
        """Ask everybody now."""
        for rounds in self._rounds:
            rounds.hurry((*self._sightings, self.spec.name))

    # ------------------------------------------------------------------------------------------------ asking

    def _probe(self, host: HostSpec) -> float:
        before = self._sightings[host.name].facts.api
        said = _safely(Stage.API, partial(self._ask, host))
        self._saw(host, lambda seen, now: replace(seen, facts=replace(seen.facts, api=said), heard=now))
        if type(before) is not type(said):
            self._news.set()
            if isinstance(said, Down) and self._rounds:
                # The host knows why.
                self._rounds[1].hurry((host.name,))
        return self._every

    def _ask(self, host: HostSpec) -> ApiFacts | Down | None:
        return self._world.prober.probe(host, timeout=PROBE_TIMEOUT) if self._world.vault.has_client() else None

    def _pass(self, key: tuple[str, str], gate: HostSpec) -> float:
        """Ask whatever answers behind a gateway."""
        said = _safely(Stage.API, partial(self._ask, gate))
        with self._guard:
            if said:
                self._gates[key] = said
            else:
                # What it once said tells nothing of now.
                self._gates.pop(key, None)
        return self._every

    def _look(self, host: HostSpec) -> float:
        found = _safely(Stage.SSH, lambda: observe_host(self.spec, host, self._connections))
        before = self._sightings[host.name].facts
        self._saw(host, lambda seen, now: replace(seen, facts=replace(seen.facts, host=found), looked=now))
        if type(before.host) is not type(found):
            self._news.set()
        if isinstance(found, Down) and found.stage is Stage.SSH:
            self._connections.drop(host)
            return LOGIN_EVERY
        return HOST_EVERY if isinstance(before.api, ApiFacts) else HOST_EVERY_DOWN

    def _look_at_own(self) -> float:
        before, vault, troubles = self._own, self._world.vault, []

        def read(ask: Callable[[], T], otherwise: T) -> T:
            found = _safely(Stage.BUILDER, ask)
            if isinstance(found, Down):
                troubles.append(found)
                return otherwise
            return found

        found = _Own(
            read(lambda: self._world.builder.read(self.spec.name), before.builder),
            read(vault.read, before.vault),
            () if self.spec.joined else read(vault.clients, before.clients),
            read(lambda: files(self.spec, self._world), before.files),
        )
        found = replace(found, troubles=tuple(troubles))
        if found != self._own:
            self._own = found
            self._news.set()
        return OWN_EVERY

    def _saw(self, host: HostSpec, change: Callable[[Sighting, datetime], Sighting]) -> None:
        now = self._world.now()
        with self._guard:
            self._sightings[host.name] = change(self._sightings[host.name], now)

    def _drift(self, host: HostSpec, facts: Facts, now: datetime) -> Drift | None:
        node = facts.nodes[host.name]
        if facts.vault is NO_VAULT or not isinstance(node.host, HostFacts):
            return None
        # A host is looked at often enough for time to count, too.
        cause = (node.host, self._own, type(node.api), getattr(node.api, "notes", None))
        known = self._drifts.get(host.name)
        if (
            known is None
            or any(one is not other for one, other in zip(cause[:3], known[0][:3], strict=True))
            or (cause[3] != known[0][3])
        ):
            decided = with_gateway(lane(self.spec, host, facts, now), self.spec, host, facts)
            drift = Drift(tuple(map(str, decided.actions)), decided.why, decided.blocked)
            known = self._drifts[host.name] = (cause, drift)
        return known[1]


def _safely(stage: Stage, ask: Callable[[], T]) -> T | Down:
    try:
        return ask()
    except Exception as error:
        return reason(stage, error)
