"""The gateway: what is to be done for it on a host, and which builds go through it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from fleet import notes
from fleet.containers.daemon import aside
from fleet.containers.proxy import builder_name, endpoint, gates, proxy_spec
from fleet.gateway_health import arch_of, explained
from fleet.model.facts import ApiFacts, BuilderNode, DaemonFacts, Down, HostFacts, Stage
from fleet.model.platforms import runs_natively
from fleet.planning.actions import (
    GRACE,
    LEAST_GRACE,
    AwaitGateway,
    AwaitReady,
    CreateGateway,
    RemoveGateway,
    StartDaemon,
    StepAside,
)
from fleet.planning.drift import drift
from fleet.planning.lane import Lane, bring, other_authority, outdated

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from fleet.containers.proxy import ProxySpec
    from fleet.model.facts import BuilderFacts, Facts, Image
    from fleet.model.platforms import Platform
    from fleet.model.spec import FleetSpec, GatewaySpec, HostSpec
    from fleet.model.vault import VaultFacts
    from fleet.planning.actions import LaneAction

# --------------------------------------------------------------------------------------------- on its hosts


def with_gateway(lane: Lane, spec: FleetSpec, host: HostSpec, facts: Facts, *, patience: int = GRACE) -> Lane:
    """A host's lane, and after its daemon what is to be done for the gateway there.

    A gateway that cannot be is a warning: builds go to the nodes without it. `patience`: seconds to wait for builds.
    """
    found = facts.nodes[host.name].host
    if lane.blocked or not isinstance(found, HostFacts):
        return lane
    patience = max(patience, LEAST_GRACE)
    wanted = None
    if spec.gateway and host.name in spec.gateway.hosts:
        wanted = _wanted(spec, spec.gateway, host, facts)
    why_not = _obstacle(found, facts.vault, wanted)
    made = found.proxy.containers
    after = outdated(spec.name, made, wanted.image if wanted else None, found.proxy.image)
    if wanted is None:
        return lane if why_not else _more(lane, (*removal(found, patience), *after), ("a gateway is left over",))
    ours = {container.name: container for container in made}
    current, former = ours.get(wanted.name), ours.get(aside(wanted.name))
    why = _reasons(current, wanted, found.proxy.image)
    brought = bring(host, found.arch, found.proxy.image, wanted, facts) if why else ()
    if why_not or isinstance(brought, Down):
        return replace(lane, warning=lane.warning or why_not or (brought if isinstance(brought, Down) else None))
    here = tuple(gate for (name, _), gate in gates(spec).items() if name == host.name)
    ending = (RemoveGateway(former.id, former.name, patience),) if former else ()
    create = (CreateGateway(wanted), StartDaemon(wanted.name), AwaitGateway(wanted.name, here))
    match current:
        case DaemonFacts(state="running") if not why:
            return _more(lane, (*ending, *after), ("a gateway is left over",))
        case DaemonFacts() if not why:
            return _more(lane, (*create[1:], *ending, *after), (f"gateway: {current.detail}",))
        case DaemonFacts(state="running"):
            # Both listen until the former has heard that it is to end.
            gone = RemoveGateway(current.id, aside(wanted.name), patience)
            return _more(lane, (*brought, *ending, StepAside(current.id, wanted.name), *create, gone, *after), why)
        case _:
            drop = (RemoveGateway(current.id, wanted.name, patience),) if current else ()
            return _more(lane, (*brought, *drop, *create, *ending, *after), why)


def removal(found: HostFacts, patience: int = GRACE) -> tuple[LaneAction, ...]:
    """What takes the gateway from a host; images stay."""
    return tuple(RemoveGateway(one.id, one.name, patience) for one in found.proxy.containers)


def _more(lane: Lane, actions: Sequence[LaneAction], why: Sequence[str]) -> Lane:
    return replace(lane, actions=(*lane.actions, *actions), why=(*lane.why, *why)) if actions else lane


def _obstacle(found: HostFacts, vault: VaultFacts, wanted: ProxySpec | None) -> Down | None:
    """What has to be put right by a person before anything can be done for the gateway."""
    if wanted and found.proxy.foreign:
        taken = ", ".join(found.proxy.foreign)
        return Down(Stage.GATEWAY, f"{taken} is not fleet's (it lacks fleet's label)", "rename or remove it")
    return next(filter(None, (other_authority(one, vault) for one in found.proxy.containers)), None)


def _reasons(current: DaemonFacts | None, wanted: ProxySpec, image: Image) -> list[str]:
    """Why there is to be another gateway; none: it is as it is wanted."""
    if current is None:
        return ["there is no gateway"]
    # It may go on knowing a CA that is not in use any more.
    trusted = set(current.settings.get("trust", "").split())
    known = {"trust"} if set(wanted.settings["trust"].split()) <= trusted else set()
    reasons = [f"gateway {reason}" for reason in drift(current, wanted, image, but=known)]
    # `created` was interrupted before its files were complete; the others do not come back by themselves.
    if current.state in {"created", "paused", "dead", "removing"}:
        reasons.append(f"the gateway is {current.state}")
    return reasons


# -------------------------------------------------------------------------------------------- in the builder


@dataclass(frozen=True, slots=True)
class Ways:
    """Which gateways lead to nodes."""

    open: Mapping[str, HostSpec] = field(default_factory=dict)
    """Architecture -> the one to go through."""
    unaware: frozenset[str] = frozenset()
    """Architectures whose gateways would send builds to nodes that are drained."""
    main: str | None = None
    """The architecture of the inventory's first host; None: it is not known now."""
    waiting: bool = False
    """Whether they are to stand by for a while, and own nothing."""


def expected(spec: FleetSpec, facts: Facts, lanes: Mapping[str, Lane]) -> Ways:
    """What leads to nodes now, or will once the lanes are done."""
    new = made_new(lanes)
    coming = {key for key in gates(spec) if key[0] in new}
    if any(isinstance(action, AwaitReady) for lane in lanes.values() for action in lane.actions):
        # It listens, and the nodes behind it will be there.
        coming |= {key for key, said in facts.gates.items() if isinstance(said, Down) and said.stage is not Stage.TCP}
    return ways(spec, facts, coming, new=new)


def made_new(lanes: Mapping[str, Lane]) -> frozenset[str]:
    """The hosts whose lanes make a gateway what it is wanted to be."""
    return frozenset(
        name for name, lane in lanes.items() if any(isinstance(action, AwaitGateway) for action in lane.actions)
    )


def ways(spec: FleetSpec, facts: Facts, coming: Collection[tuple[str, str]] = (), *, new: Collection[str] = ()) -> Ways:
    """What leads to nodes now; those that are `coming` will.

    While a node of an architecture is drained, a gateway is none that still sends builds there; what is `new` does not.
    """
    chosen: dict[str, HostSpec] = {}
    unaware = set()
    drained = {arch_of(facts.nodes[name]) for name in _drained(spec, facts)}
    for (name, arch), gate in gates(spec).items():
        if (name, arch) in coming or isinstance(facts.gates.get((name, arch)), ApiFacts):
            if arch in drained and name not in new and not _knows(spec, facts, name):
                unaware.add(arch)
            else:
                chosen.setdefault(arch, gate)
    return Ways(chosen, frozenset(unaware - chosen.keys()), arch_of(facts.nodes[spec.hosts[0].name]))


def _knows(spec: FleetSpec, facts: Facts, name: str) -> bool:
    """Whether the gateway on that host was made in view of who is drained now."""
    found = facts.nodes[name].host
    if not (spec.gateway and isinstance(found, HostFacts)):
        return False
    wanted = _wanted(spec, spec.gateway, spec.host(name), facts)
    current = next((one for one in found.proxy.containers if one.name == wanted.name), None)
    return current is not None and not _reasons(current, wanted, found.proxy.image)


def _wanted(spec: FleetSpec, gateway: GatewaySpec, host: HostSpec, facts: Facts) -> ProxySpec:
    return proxy_spec(spec, gateway, host, facts.vault, _drained(spec, facts))


def _drained(spec: FleetSpec, facts: Facts) -> frozenset[str]:
    drains = {host.name: notes.drain(facts.nodes[host.name].api) for host in spec.hosts}
    return frozenset(name for name, drain in drains.items() if drain and not drain.passing)


def leading_to(spec: FleetSpec, names: Collection[str]) -> frozenset[str]:
    """The endpoints in the builder of gateways on the hosts of these names."""
    return frozenset(endpoint(gate) for (name, _), gate in gates(spec).items() if name in names)


def needed(spec: FleetSpec, able: Mapping[str, Sequence[Platform]]) -> frozenset[str]:
    """The architectures with a port, of which there are nodes at work."""
    return frozenset(arch for platforms in able.values() if spec.gateway and (arch := _arch(spec.gateway, platforms)))


def builder_nodes(
    spec: FleetSpec,
    able: Mapping[str, Sequence[Platform]],
    ways: Ways,
    builder: BuilderFacts,
    vault: VaultFacts,
) -> dict[str, BuilderNode]:
    """The builder's nodes that are gateways, by the first host behind each.

    Each has what all able nodes behind it run. While there are nodes that cannot be asked, nothing is added to that.
    """
    if not spec.gateway:
        return {}
    registered = {node.name: node for node in builder.nodes}
    behind: dict[str, list[str]] = {}
    for host in spec.hosts:
        if (found := _arch(spec.gateway, able.get(host.name, ()))) and found in ways.open:
            behind.setdefault(found, []).append(host.name)
    nodes: dict[str, BuilderNode] = {}
    for arch, names in behind.items():
        first, *others = (able[name] for name in names)
        common = [platform for platform in first if all(platform in other for other in others)]
        known = registered.get(builder_name(arch))
        if known and known.platforms and any(host.name not in able for host in spec.hosts):
            common = [platform for platform in common if platform in known.platforms]
        gate = ways.open[arch]
        common = [] if ways.waiting else common
        options = {**vault.driver_options, "servername": gate.servername or ""}
        nodes[names[0]] = BuilderNode(builder_name(arch), endpoint(gate), tuple(common), options)
    return nodes


def _arch(gateway: GatewaySpec, platforms: Sequence[Platform]) -> str | None:
    """The architecture at whose port a node that runs these platforms is found."""
    if not platforms:
        return None
    if (own := platforms[0].arch) in gateway.ports:
        return own
    return next((arch for arch in gateway.ports if runs_natively(arch, platforms[0])), None)


def closed(
    spec: FleetSpec,
    able: Mapping[str, Sequence[Platform]],
    ways: Ways,
    facts: Facts,
) -> Down | None:
    """Why builds go to nodes without the gateway; None: they do not, or there is none."""
    here = needed(spec, able)
    if passed_by := here & ways.unaware:
        who = ", ".join(sorted(_drained(spec, facts)))
        why = f"it still sends builds to {who}: those for {', '.join(sorted(passed_by))} go to the nodes without it"
        return Down(Stage.GATEWAY, why, "fleet up")
    for arch in sorted(here - ways.open.keys()):
        tried = {
            name: explained(why)
            for (name, there), why in facts.gates.items()
            if there == arch and isinstance(why, Down)
        }
        reasons = "; ".join(f"{name}: {why.reason}" for name, why in tried.items()) or "it is not there yet"
        remedy = next((why.remedy for why in tried.values() if why.remedy), "fleet status")
        return Down(Stage.GATEWAY, f"builds for {arch} go to the nodes without it: {reasons}", remedy)
    return None
