"""The only decider: what is wanted, what is found and the time become a plan; nothing is touched here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from certs.authority import RENEWAL_WINDOW
from fleet import buildkitd, buildx
from fleet.actions import (
    AwaitReady,
    CreateAuthority,
    CreateDaemon,
    IssueClient,
    PullImage,
    RemoveDaemon,
    RemoveImage,
    RemoveVolume,
    StartDaemon,
)
from fleet.daemon import DaemonSpec
from fleet.health import foreign, not_native
from fleet.model import (
    ApiFacts,
    BuilderNode,
    Connection,
    Down,
    HostFacts,
    Platform,
    Stage,
    runs_natively,
)
from fleet.route import native_platforms, owners

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from fleet.actions import LaneAction, VaultAction
    from fleet.model import BuilderFacts, CertificateFacts, DaemonFacts, Facts, FleetSpec, HostSpec, VaultFacts


@dataclass(frozen=True, slots=True)
class Lane:
    """One host's actions in order, and why; `blocked`: nothing can be done there, for that reason."""

    actions: tuple[LaneAction, ...] = ()
    why: tuple[str, ...] = ()
    blocked: Down | None = None
    warning: Down | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be done: the vault first, then the lanes side by side, then the builder."""

    fleet: str
    vault: tuple[VaultAction, ...] = ()
    lanes: Mapping[str, Lane] = field(default_factory=dict)
    builder: tuple[buildx.Step, ...] = ()
    builder_blocked: Down | None = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do; a blocked lane is not something to do."""
        return not (self.vault or self.builder or any(lane.actions for lane in self.lanes.values()))

    @property
    def blocked(self) -> dict[str, Down]:
        """The hosts for which nothing can be done, and why."""
        return {name: lane.blocked for name, lane in self.lanes.items() if lane.blocked}


def plan(spec: FleetSpec, facts: Facts, now: datetime, *, only: Collection[str] = ()) -> Plan:
    """What `fleet up` would do; `only` leaves the other hosts as they are."""
    lanes = {host.name: _lane(spec, host, facts, now) for host in spec.hosts if not only or host.name in only}
    able = able_platforms(spec, facts, lanes, _expected(spec, facts, lanes))
    steps, blocked = builder_steps(spec, able, facts.builder, facts.vault)
    # A CA for hosts that cannot be reached would be the one thing that happens, and nobody asked for that.
    idle = facts.vault.authority is None and all(lane.blocked for lane in lanes.values())
    return Plan(spec.name, () if idle else _vault(spec, facts.vault, now), lanes, steps, blocked)


def plan_down(spec: FleetSpec, facts: Facts, *, volumes: bool) -> Plan:
    """What `fleet down` would do: every container of this fleet's label goes, the volumes only when asked for."""
    lanes = {}
    for host in spec.hosts:
        found = facts.nodes[host.name].host
        if isinstance(found, HostFacts):
            daemons = found.daemons
            pulled = {daemon.pulled for daemon in daemons if daemon.pulled} if volumes else set()
            lanes[host.name] = Lane(
                tuple(RemoveDaemon(daemon.id, daemon.name) for daemon in daemons)
                + tuple(RemoveVolume(name) for name in found.volumes if volumes)
                + tuple(RemoveImage(reference) for reference in sorted(pulled))
            )
        else:
            lanes[host.name] = Lane(blocked=found)
    blocked = _foreign_builder(spec, facts.builder, facts.vault)
    remove = (buildx.RemoveBuilder(),) if facts.builder.registered and not blocked else ()
    return Plan(spec.name, lanes=lanes, builder=remove, builder_blocked=blocked)


def builder_steps(
    spec: FleetSpec,
    ready: Mapping[str, tuple[Platform, ...]],
    builder: BuilderFacts,
    vault: VaultFacts,
) -> tuple[tuple[buildx.Step, ...], Down | None]:
    """The steps that make the builder hold the `ready` nodes, each pinned to what it owns, or why there are none.

    With no node ready the builder is left as it is: removing it would take away what may work again in a minute.
    """
    if blocked := _foreign_builder(spec, builder, vault):
        return (), blocked
    if not ready:
        return (), None
    current = {platform: node.name for node in builder.nodes for platform in node.platforms}
    owned = owners(ready, current)
    wanted = [
        BuilderNode(host.name, f"tcp://{host.endpoint}", owned[host.name], vault.driver_options)
        for host in spec.hosts
        if host.name in ready
    ]
    return buildx.steps(builder.nodes, wanted), None


def daemon_spec(spec: FleetSpec, host: HostSpec, arch: str, vault: VaultFacts) -> DaemonSpec:
    """The container that `host` is to have.

    Its certificate is good for its address, its name, and the one name that all nodes of its architecture share,
    so that a TCP proxy can stand before them.
    """
    return DaemonSpec(
        fleet=spec.name,
        node=host.name,
        image=spec.buildkit.image,
        port=host.port,
        bind="127.0.0.1" if host.connection is Connection.LOCAL else "",
        config=buildkitd.render(spec.buildkit.config),
        names=(host.address, host.name, f"{arch}.{spec.name}.fleet.internal"),
        authority=vault.authority_fingerprint or "",
    )


def _vault(spec: FleetSpec, vault: VaultFacts, now: datetime) -> tuple[VaultAction, ...]:
    actions: list[VaultAction] = []
    if vault.authority is None:
        actions.append(CreateAuthority(spec.name))
    if vault.client is None or _renewable(vault.client, vault, now):
        actions.append(IssueClient("operator"))
    return tuple(actions)


def _lane(spec: FleetSpec, host: HostSpec, facts: Facts, now: datetime) -> Lane:
    found, api = facts.nodes[host.name].host, facts.nodes[host.name].api
    if not isinstance(found, HostFacts):
        return Lane(blocked=found or Down(Stage.SSH, "it was not asked"))
    if facts.vault.authority and facts.vault.authority.expires <= now:
        return Lane(
            blocked=Down(
                Stage.TLS,
                f"the fleet's certificate authority expired on {facts.vault.authority.expires:%Y-%m-%d}",
                "start anew: fleet down, move the vault away, fleet up",
            )
        )
    if found.foreign:
        return Lane(blocked=foreign(host, found))
    if impossible := [platform for platform in host.platforms if not runs_natively(found.arch, platform)]:
        return Lane(
            blocked=Down(
                Stage.NATIVE,
                f"the inventory wants {', '.join(map(str, impossible))} of it, but uname -m says {found.machine}",
                "correct the host's platforms, or its address",
            )
        )
    wanted = daemon_spec(spec, host, found.arch, facts.vault)
    ours = {daemon.name: daemon for daemon in found.daemons}
    daemon = ours.pop(wanted.name, None)
    names = {host.name for host in spec.hosts}
    strangers = tuple(
        RemoveDaemon(other.id, other.name)
        for other in ours.values()
        if other.node not in names and other.settings.get("authority") == wanted.settings["authority"]
    )
    if daemon and (conflict := _other_authority(daemon, wanted)):
        return Lane(blocked=conflict)
    why = _replacement_reasons(daemon, wanted, facts.vault, now)
    if why:
        pull = () if found.image_present else (PullImage(wanted.image),)
        remove = (RemoveDaemon(daemon.id, daemon.name),) if daemon else ()
        pulled = bool(pull) or bool(daemon and daemon.pulled == wanted.image)
        create = (CreateDaemon(wanted, pulled), StartDaemon(wanted.name), AwaitReady(host.name))
        return Lane((*pull, *strangers, *remove, *create), why)
    if daemon and daemon.state == "exited":
        return Lane((*strangers, StartDaemon(daemon.name), AwaitReady(host.name)), (f"stopped: {daemon.detail}",))
    if not isinstance(api, ApiFacts):
        reason = f"{api.stage}: {api.reason}" if api else "it has not been asked over mutual TLS yet"
        return Lane((*strangers, AwaitReady(host.name)), (reason,))
    warning = not_native(host, api, found, native_platforms(host, api, found))
    return Lane(strangers, ("left over",) if strangers else (), warning=warning)


def _replacement_reasons(
    daemon: DaemonFacts | None, wanted: DaemonSpec, vault: VaultFacts, now: datetime
) -> tuple[str, ...]:
    if daemon is None:
        return ("there is no daemon",)
    reasons = [
        f"{name}: {daemon.settings.get(name, 'unset')} → {value}"
        for name, value in wanted.settings.items()
        if daemon.settings.get(name) != value
    ]
    if daemon.certificate is None:
        reasons.append("its certificate is unknown")
    elif _renewable(daemon.certificate, vault, now):
        reasons.append(f"its certificate expires on {daemon.certificate.expires:%Y-%m-%d}")
    # `created` was interrupted before its files were complete; the others do not come back by themselves.
    if daemon.state in {"created", "paused", "dead", "removing"}:
        reasons.append(f"it is {daemon.state}")
    return tuple(reasons)


def _other_authority(daemon: DaemonFacts, wanted: DaemonSpec) -> Down | None:
    trusted = daemon.settings.get("authority")
    if trusted is None or trusted == wanted.settings["authority"]:
        return None
    return Down(
        Stage.TLS,
        f"{daemon.name} trusts a certificate authority that is not in this vault",
        "use the vault of the operator who made it (FLEET_HOME), or start anew with fleet down and fleet up",
    )


def _renewable(certificate: CertificateFacts, vault: VaultFacts, now: datetime) -> bool:
    """Whether it is near its end and a new one would last longer: none outlives its CA."""
    longer = vault.authority is None or vault.authority.expires > certificate.expires
    return longer and certificate.expires - now <= RENEWAL_WINDOW


def able_platforms(
    spec: FleetSpec, facts: Facts, lanes: Mapping[str, Lane], ready: Mapping[str, tuple[Platform, ...]]
) -> dict[str, tuple[Platform, ...]]:
    """What each node can build: as `ready` has it, else as its daemon says; a host without a lane stays as registered.

    A daemon that answers goes on building, even when its host cannot be logged in to or its lane has failed.
    """
    registered = {node.name: node.platforms for node in facts.builder.nodes}
    able: dict[str, tuple[Platform, ...]] = {}
    for host in spec.hosts:
        node = facts.nodes[host.name]
        if host.name in ready:
            able[host.name] = ready[host.name]
        elif host.name not in lanes:
            able |= {host.name: registered[host.name]} if host.name in registered else {}
        elif isinstance(node.api, ApiFacts):
            found = node.host if isinstance(node.host, HostFacts) else None
            able |= {host.name: native} if (native := native_platforms(host, node.api, found)) else {}
    return able


def _expected(spec: FleetSpec, facts: Facts, lanes: Mapping[str, Lane]) -> dict[str, tuple[Platform, ...]]:
    """What nodes that do not answer yet will build once their lanes are done; what no worker has said is its base."""
    registered = {node.name: node.platforms for node in facts.builder.nodes}
    return {
        host.name: registered.get(host.name) or host.platforms or (Platform("linux", found.arch).normalised(),)
        for host in spec.hosts
        if host.name in lanes
        and not lanes[host.name].blocked
        and isinstance(found := facts.nodes[host.name].host, HostFacts)
        and not isinstance(facts.nodes[host.name].api, ApiFacts)
    }


def _foreign_builder(spec: FleetSpec, builder: BuilderFacts, vault: VaultFacts) -> Down | None:
    ours = vault.driver_options["cacert"]
    if not builder.registered or (
        builder.driver == "remote" and all(node.options.get("cacert") == ours for node in builder.nodes)
    ):
        return None
    return Down(
        Stage.BUILDER,
        f"buildx has a builder {spec.name} here that this vault did not make",
        f"docker buildx rm {spec.name}, rename the fleet, or set FLEET_HOME to the vault that made it",
    )
