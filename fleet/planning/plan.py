"""The only decider: what is wanted, what is found and the time become a plan; nothing is touched here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from fleet import buildx, notes
from fleet.containers.proxy import builder_name, gateway_arch
from fleet.model.facts import ApiFacts, BuilderNode, Down, HostFacts, Image, Stage
from fleet.model.platforms import Platform
from fleet.model.spec import pull_mark
from fleet.model.vault import Rotation
from fleet.planning import gateway
from fleet.planning.actions import (
    GRACE,
    CreateAuthority,
    CreateDaemon,
    ForgetHistory,
    IssueClient,
    RemoveDaemon,
    RemoveImage,
    RemoveVolume,
)
from fleet.planning.lane import Lane, images, lane, other_authority, renewable
from fleet.route import native_platforms, owners

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from fleet.model.facts import BuilderFacts, Facts
    from fleet.model.spec import FleetSpec
    from fleet.model.vault import VaultFacts
    from fleet.planning.actions import LaneAction, VaultAction


NO_WAYS = gateway.Ways()


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be done: the vault first, then the lanes side by side, then the builder."""

    fleet: str
    vault: tuple[VaultAction, ...] = ()
    lanes: Mapping[str, Lane] = field(default_factory=dict)
    builder: tuple[buildx.Step, ...] = ()
    builder_blocked: Down | None = None
    gateway: Down | None = None
    """Why builds will go to nodes without the gateway, although there is to be one."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do; a blocked lane is not something to do."""
        return not (self.vault or self.builder or any(one.actions for one in self.lanes.values()))

    @property
    def signs(self) -> bool:
        """Whether the CA's key is needed for it."""
        return bool(self.vault) or any(isinstance(a, CreateDaemon) for one in self.lanes.values() for a in one.actions)

    @property
    def blocked(self) -> dict[str, Down]:
        """The hosts for which nothing can be done, and why."""
        return {name: one.blocked for name, one in self.lanes.items() if one.blocked}


def plan(
    spec: FleetSpec,
    facts: Facts,
    now: datetime,
    *,
    only: Collection[str] = (),
    restart: Collection[str] = (),
    patience: int = GRACE,
) -> Plan:
    """What `fleet up` would do.

    `only` leaves the other hosts as they are, `restart` replaces daemons in any case; `patience`: seconds to wait for
    builds at most.
    """
    facts = replace(facts, vault=facts.vault.at(now))
    lanes = {}
    for host in spec.hosts:
        if not only or host.name in only:
            own = lane(spec, host, facts, now, restart=host.name in restart, patience=patience)
            lanes[host.name] = gateway.with_gateway(own, spec, host, facts, patience=patience)
    able = able_platforms(spec, facts, lanes, _expected(spec, facts, lanes))
    ways = gateway.expected(spec, facts, lanes)
    steps, blocked = builder_steps(spec, able, facts.builder, facts.vault, ways)
    passed_by = gateway.closed(spec, able, ways, facts)
    # A CA for hosts that cannot be reached would be the one thing that happens, and nobody asked for that.
    idle = facts.vault.authority is None and all(one.blocked for one in lanes.values())
    return Plan(spec.name, () if idle else _vault(spec, facts.vault, now), lanes, steps, blocked, passed_by)


def without_daemon(spec: FleetSpec, facts: Facts) -> tuple[str, ...]:
    """The hosts that have no daemon; one that cannot be looked at has none if the builder has never taken it."""
    registered = {node.name for node in facts.builder.nodes}
    seen = {host.name: facts.nodes[host.name].host for host in spec.hosts}
    return tuple(
        name
        for name, found in seen.items()
        if (not found.daemons if isinstance(found, HostFacts) else found and name not in registered)
    )


def plan_down(
    spec: FleetSpec, facts: Facts, *, volumes: bool, any_vault: bool = False, only: Collection[str] = ()
) -> Plan:
    """What `fleet down` would do: every container of this fleet's label goes, the volumes only when asked for.

    `any_vault`: also where the daemons were made with another vault, which may be another operator's. `only`: these
    hosts leave the fleet, the others stay.
    """
    lanes = {}
    for host in spec.hosts:
        if only and host.name not in only:
            continue
        found = facts.nodes[host.name].host
        if isinstance(found, HostFacts):
            daemons = (*found.proxy.containers, *found.daemons)
            conflicts = [other_authority(daemon, facts.vault) for daemon in daemons]
            if not any_vault and (conflict := next(filter(None, conflicts), None)):
                remedy = "use that vault (FLEET_HOME), or remove them all the same: fleet down --any-vault"
                lanes[host.name] = Lane(blocked=replace(conflict, remedy=remedy))
                continue
            left = images(daemons) | ({spec.buildkit.image} if found.image is Image.PULLED else set())
            left |= {spec.gateway.image} if spec.gateway and found.proxy.image is Image.PULLED else set()
            actions: tuple[LaneAction, ...] = gateway.removal(found)
            actions += tuple(RemoveDaemon(daemon.id, daemon.name) for daemon in found.daemons)
            if volumes:
                actions += tuple(RemoveVolume(name) for name in found.volumes)
                actions += tuple(RemoveImage(image, pull_mark(spec.name, image)) for image in sorted(left))
                # Otherwise this would be noted there.
                actions += (ForgetHistory(spec.name),) if actions or found.history else ()
            lanes[host.name] = Lane(actions)
        else:
            lanes[host.name] = Lane(blocked=found)
    blocked = (
        builder_problem(spec.name, facts.builder, facts.vault.driver_options) if facts.builder.registered else None
    )
    steps: tuple[buildx.Step, ...] = ()
    if facts.builder.registered and not blocked:
        leaving = {*only, *gateway.leading_to(spec, only)}
        nodes = buildx.settled(facts.builder.nodes)
        staying = [node for node in nodes if only and not {node.name, node.endpoint} & leaving]
        steps = (buildx.RemoveBuilder(),)
        if staying:
            steps = (*buildx.finish(facts.builder.nodes), *buildx.steps(nodes, staying))
    return Plan(spec.name, lanes=lanes, builder=steps, builder_blocked=blocked)


def builder_steps(
    spec: FleetSpec,
    ready: Mapping[str, tuple[Platform, ...]],
    builder: BuilderFacts,
    vault: VaultFacts,
    ways: gateway.Ways = NO_WAYS,
    preferred: Mapping[Platform, str] | None = None,
) -> tuple[tuple[buildx.Step, ...], Down | None]:
    """The steps that make the builder hold the `ready` nodes, each pinned to what it owns, or why there are none.

    A node that is not heard of stays registered, with the platforms that no ready node runs: it may work again in a
    minute, and without an owner buildx would send its platforms to node 0. One with nothing native leaves. What all
    nodes behind a gateway run is its own. `preferred`: who is to own a platform if it is ready, and then to be the
    first as well; today's owner unless that is said.
    """
    if blocked := builder_problem(spec.name, builder, vault.driver_options):
        return (), blocked
    unfinished = buildx.finish(builder.nodes)
    builder = replace(builder, nodes=buildx.settled(builder.nodes))
    through = gateway.builder_nodes(spec, ready, ways, builder, vault)
    taken = {platform for node in through.values() for platform in node.platforms}
    today = {platform: node.name for node in builder.nodes for platform in node.platforms}
    owned = owners(
        {
            name: tuple(platform for platform in platforms if platform not in taken)
            for name, platforms in ready.items()
            if platforms
        },
        today if preferred is None else preferred,
    )
    taken |= {platform for platforms in owned.values() for platform in platforms}
    known = {*ready, *(node.name for node in through.values())}
    silent = {
        node.name: replace(node, platforms=tuple(platform for platform in node.platforms if platform not in taken))
        for node in builder.nodes
        if node.name not in known
    }
    # While somebody is not heard of, a gateway may still lead to them.
    unheard = any(host.name not in ready for host in spec.hosts)
    wanted = [node for node in silent.values() if spec.gateway and unheard and gateway_arch(node) and node.platforms]
    for host in spec.hosts:
        wanted += [through[host.name]] if host.name in through else []
        if host.name in owned or host.name in silent:
            pinned = owned[host.name] if host.name in owned else silent[host.name].platforms
            wanted.append(BuilderNode(host.name, f"tcp://{host.endpoint}", pinned, vault.driver_options))
    if not wanted:
        return unfinished, None
    steps = buildx.steps(builder.nodes, wanted, default=builder.default)
    if ways.waiting:
        return unfinished + steps, None
    # A build without a platform goes to the first node: that is to be a gateway, or else one that can build, and not
    # one of another architecture.
    mains = [ways.main] if ways.main else filter(None, map(_arch, (*builder.nodes, *wanted)))
    bases = (Platform("linux", main).normalised() for main in mains)
    front = next((node for base in bases for node in wanted if base in node.platforms), None)
    leads = buildx.after(builder.nodes, steps)[0]
    unfit = gateway_arch(leads) or leads.name not in ready
    if front and front.name != leads.name and (gateway_arch(front) or unfit or preferred is not None):
        steps = buildx.led(builder.nodes, wanted, front, default=builder.default)
    return unfinished + steps, None


def _arch(node: BuilderNode) -> str | None:
    """The architecture that a node of the builder builds for; None: it stands by."""
    return gateway_arch(node) or (node.platforms[0].arch if node.platforms else None)


def _vault(spec: FleetSpec, vault: VaultFacts, now: datetime) -> tuple[VaultAction, ...]:
    actions: list[VaultAction] = []
    if vault.authority is None:
        actions.append(CreateAuthority(spec.name))
    if spec.tls.client is None and vault.can_sign:
        client = vault.client
        # Nobody trusts what the former CA has issued, once the exchange has come that far.
        cut_off = vault.rotation is Rotation.SWITCHED and vault.client_authority == vault.leaving_fingerprint
        if client is None or cut_off or renewable(client, spec, vault, now):
            actions.append(IssueClient("operator"))
    return tuple(actions)


def able_platforms(
    spec: FleetSpec, facts: Facts, lanes: Collection[str], ready: Mapping[str, tuple[Platform, ...]]
) -> dict[str, tuple[Platform, ...]]:
    """What each node can build: as `ready` has it, else as its daemon says; silent nodes are left out.

    A daemon that answers goes on building, even when its host cannot be logged in to or its lane has failed. An owner
    without a lane stays the owner. A drained node is as good as silent, unless its lane lets builds come again.
    """
    registered = {node.name: node.platforms for node in facts.builder.nodes}
    able: dict[str, tuple[Platform, ...]] = {}
    for host in spec.hosts:
        node = facts.nodes[host.name]
        if host.name in ready:
            able[host.name] = ready[host.name]
        elif host.name not in lanes:
            able |= {host.name: pinned} if (pinned := registered.get(host.name)) else {}
        elif isinstance(node.api, ApiFacts) and ((drain := notes.drain(node.api)) is None or drain.passing):
            found = node.host if isinstance(node.host, HostFacts) else None
            able[host.name] = native_platforms(host, node.api, found)
    return able


def _expected(spec: FleetSpec, facts: Facts, lanes: Mapping[str, Lane]) -> dict[str, tuple[Platform, ...]]:
    """What nodes that do not answer yet will build once their lanes are done; what no worker has said is its base."""
    registered = {node.name: node.platforms for node in facts.builder.nodes}
    return {
        host.name: registered.get(host.name)
        or registered.get(builder_name(found.arch))
        or host.platforms
        or (Platform("linux", found.arch).normalised(),)
        for host in spec.hosts
        if host.name in lanes
        and not lanes[host.name].blocked
        and isinstance(found := facts.nodes[host.name].host, HostFacts)
        and not isinstance(facts.nodes[host.name].api, ApiFacts)
    }


def builder_problem(fleet: str, builder: BuilderFacts, driver_options: Mapping[str, str]) -> Down | None:
    """Why the builder of the fleet's name cannot be worked with; None: there is none, or it is of these keys."""
    if builder.unusable:
        return builder.unusable
    ours = driver_options["cacert"]
    if not builder.registered or (
        builder.driver == "remote" and all(node.options.get("cacert") == ours for node in builder.nodes)
    ):
        return None
    return Down(
        Stage.BUILDER,
        f"buildx has a builder {fleet} here that this vault did not make",
        f"docker buildx rm {fleet}, rename the fleet, or set FLEET_HOME to the vault that made it",
    )
