"""A small world for laws about plans: machines, a buildx and a vault, in which a plan can be carried out by halves."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from certs.authority import describe
from fleet import buildx
from fleet.actions import (
    AwaitReady,
    CreateAuthority,
    CreateDaemon,
    PullImage,
    RemoveDaemon,
    RemoveImage,
    RemoveVolume,
    StartDaemon,
)
from fleet.errors import HostError
from fleet.model import Down, Facts, HostFacts, NodeFacts, Stage
from fleet.observe import Connections, observe_host
from fleet.plan import able_platforms, builder_steps, plan
from fleet.ports import World
from fleet.route import native_platforms
from tests.support.fakes import FakeBuilder, FakeEngine, FakeProber, FakeVault, Machine, connector
from tests.support.values import NOW

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from datetime import datetime

    from fleet.actions import LaneAction
    from fleet.model import FleetSpec, HostSpec, Platform
    from fleet.plan import Plan


@dataclass(slots=True)
class FakeWorld:
    """Everything outside, in memory; time stands still unless a test moves `now`."""

    machines: dict[str, Machine] = field(default_factory=dict)
    builder: FakeBuilder = field(default_factory=FakeBuilder)
    vault: FakeVault = field(default_factory=FakeVault)
    now: datetime = NOW

    @classmethod
    def of(cls, *machines: Machine) -> FakeWorld:
        """A world of these machines."""
        return cls({machine.address: machine for machine in machines})

    def ports(self) -> World:
        """This world as the core is given it."""
        return World(
            connect=connector(self.machines),
            prober=self.prober(),
            builder=self.builder,
            vault=self.vault,
            now=self._clock,
        )

    def prober(self) -> FakeProber:
        """Asks the daemons here."""
        return FakeProber(self.machines, self.vault, self._clock)

    def _clock(self) -> datetime:
        return self.now

    # ------------------------------------------------------------------------------------ observing, planning

    def facts(self, spec: FleetSpec, *, only: Collection[str] = ()) -> Facts:
        """What `observe` would find, in one thread."""
        keys = self.vault.read()
        prober = self.prober()
        with Connections(connector(self.machines)) as connections:
            return Facts(
                nodes={
                    host.name: NodeFacts(
                        host=observe_host(spec, host, connections) if not only or host.name in only else None,
                        api=prober.probe(host, timeout=1) if keys.client else None,
                    )
                    for host in spec.hosts
                },
                builder=self.builder.read(spec.name),
                vault=keys,
            )

    def plan(self, spec: FleetSpec, *, only: Collection[str] = ()) -> Plan:
        """What `fleet plan` would decide now."""
        return plan(spec, self.facts(spec, only=only), self.now, only=only)

    # ---------------------------------------------------------------------------------------- carrying it out

    def apply(self, spec: FleetSpec, *, stop: Mapping[str, int] | None = None) -> dict[str, Down]:
        """Plan and carry it out; the hosts that failed.

        `stop` ends the run early: after so many actions of the vault, of a host's lane or of the builder.
        """
        stop = stop or {}
        facts = self.facts(spec)
        decided = plan(spec, facts, self.now)
        for done, action in enumerate(decided.vault):
            if done == stop.get("vault"):
                return {}
            if isinstance(action, CreateAuthority):
                self.vault.create_authority(action.name, self.now)
            else:
                self.vault.issue_client(action.name, self.now)
        if decided.vault:
            facts = Facts(facts.nodes, facts.builder, self.vault.read())
            decided = plan(spec, facts, self.now)
        failed: dict[str, Down] = {}
        ready: dict[str, tuple[Platform, ...]] = {}
        for name, lane in decided.lanes.items():
            actions = lane.actions[: stop.get(name, len(lane.actions))]
            try:
                self._walk(spec.host(name), actions, facts, ready)
            except HostError as error:
                failed[name] = Down(error.stage, error.message, error.remedy)
        if not any(name in stop for name in decided.lanes):
            self._register(spec, decided, facts, ready, stop.get("builder"))
        return failed

    def _walk(
        self,
        host: HostSpec,
        actions: Iterable[LaneAction],
        facts: Facts,
        ready: dict[str, tuple[Platform, ...]],
    ) -> None:
        engine = FakeEngine(self.machines[host.address])
        for action in actions:
            match action:
                case PullImage(reference):
                    engine.pull(reference, lambda _: None)
                case RemoveDaemon(container, _, grace):
                    engine.remove(container, grace=grace)
                case CreateDaemon(wanted, pulled):
                    credential, trust = self.vault.issue_node(host.name, wanted.names, self.now)
                    files = wanted.files(credential, trust)
                    certificate = describe(credential.certificate)
                    engine.create(wanted, certificate, files, pulled=wanted.image if pulled else None)
                case StartDaemon(name):
                    engine.start(name)
                case AwaitReady():
                    ready[host.name] = self._ready(host, facts)
                case RemoveVolume(name):
                    engine.remove_volume(name)
                case RemoveImage(reference):
                    engine.remove_image(reference)

    def _ready(self, host: HostSpec, facts: Facts) -> tuple[Platform, ...]:
        for container in self.machines[host.address].containers:
            if container.state == "restarting":  # what kept it from coming up is over
                container.state = "running"
        api, found = self.prober().probe(host, timeout=1), facts.nodes[host.name].host
        if isinstance(api, Down):
            raise HostError(api.stage, api.reason, api.remedy)
        native = native_platforms(host, api, found if isinstance(found, HostFacts) else None)
        if not native:
            raise HostError(Stage.NATIVE, "it runs nothing natively")
        return native

    def _register(
        self,
        spec: FleetSpec,
        decided: Plan,
        facts: Facts,
        ready: Mapping[str, tuple[Platform, ...]],
        stop: int | None,
    ) -> None:
        late = [
            host
            for host in spec.hosts
            if host.name not in ready and (decided.lanes[host.name].actions or facts.nodes[host.name].api is None)
        ]
        now = {host.name: replace(facts.nodes[host.name], api=self.prober().probe(host, timeout=1)) for host in late}
        able = able_platforms(spec, replace(facts, nodes={**facts.nodes, **now}), decided.lanes, ready)
        steps, _ = builder_steps(spec, able, facts.builder, facts.vault)
        for step in steps[:stop]:
            self.builder.run(buildx.arguments(spec.name, step))
