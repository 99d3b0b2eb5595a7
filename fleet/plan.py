"""The only decider: what is wanted, what is found and the time become a plan; nothing is touched here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from certs.authority import CLOCK_TOLERANCE, RENEWAL_WINDOW
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
from fleet.health import foreign, not_native, wrong_clock
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
            daemons = found.daemons
            conflicts = [_other_authority(daemon, facts.vault) for daemon in daemons]
            if not any_vault and (conflict := next(filter(None, conflicts), None)):
                remedy = "use that vault (FLEET_HOME), or remove them all the same: fleet down --any-vault"
                lanes[host.name] = Lane(blocked=replace(conflict, remedy=remedy))
                continue
            pulled = {daemon.pulled for daemon in daemons if daemon.pulled} if volumes else set()
            lanes[host.name] = Lane(
                tuple(RemoveDaemon(daemon.id, daemon.name) for daemon in daemons)
                + tuple(RemoveVolume(name) for name in found.volumes if volumes)
                + tuple(RemoveImage(reference) for reference in sorted(pulled))
            )
        else:
            lanes[host.name] = Lane(blocked=found)
    blocked = _builder_problem(spec, facts.builder, facts.vault) if facts.builder.registered else None
    steps: tuple[buildx.Step, ...] = ()
    if facts.builder.registered and not blocked:
        staying = [node for node in facts.builder.nodes if only and node.name not in only]
        steps = buildx.steps(facts.builder.nodes, staying) if staying else (buildx.RemoveBuilder(),)
    return Plan(spec.name, lanes=lanes, builder=steps, builder_blocked=blocked)


def builder_steps(
    spec: FleetSpec,
    ready: Mapping[str, tuple[Platform, ...]],
    builder: BuilderFacts,
    vault: VaultFacts,
) -> tuple[tuple[buildx.Step, ...], Down | None]:
    """The steps that make the builder hold the `ready` nodes, each pinned to what it owns, or why there are none.

    A node that is not heard of stays registered, with the platforms that no ready node runs: it may work again in a
    minute, and without an owner buildx would send its platforms to node 0. One with nothing native leaves.
    """
    if blocked := _builder_problem(spec, builder, vault):
        return (), blocked
    owned = owners(
        {name: platforms for name, platforms in ready.items() if platforms},
        {platform: node.name for node in builder.nodes for platform in node.platforms},
    )
    taken = {platform for platforms in owned.values() for platform in platforms}
    for node in builder.nodes:
        if node.name not in ready:
            owned[node.name] = tuple(platform for platform in node.platforms if platform not in taken)
    wanted = [
        BuilderNode(host.name, f"tcp://{host.endpoint}", owned[host.name], vault.driver_options)
        for host in spec.hosts
        if host.name in owned
    ]
    if not wanted:
        return (), None
    return buildx.steps(builder.nodes, wanted, default=builder.default), None


def daemon_spec(
    spec: FleetSpec, host: HostSpec, arch: str, vault: VaultFacts, emulated: tuple[str, ...] = ()
) -> DaemonSpec:
    """The container that `host`, of `arch`, is to have; `emulated` by binfmt handlers of the host.

    Its certificate is good for its address, its name, and the one name that all nodes of its architecture share,
    so that a TCP proxy can stand before them. Its labels tell clients that cannot ask the host what is native there.
    """
    kin = [other for other in emulated if runs_natively(arch, Platform("linux", other))]
    labels = {buildkitd.LABEL_ARCH: arch} | ({buildkitd.LABEL_EMULATED: ",".join(kin)} if kin else {})
    return DaemonSpec(
        fleet=spec.name,
        node=host.name,
        image=spec.buildkit.image,
        port=host.port,
        bind=_bind(host),
        config=buildkitd.render(spec.buildkit.config, labels),
        names=(host.address, host.name, f"{arch}.{spec.name}.fleet.internal"),
        authority=vault.authority_fingerprint or "",
    )


def _bind(host: HostSpec) -> str:
    """All addresses of a host that is reached from outside; the one address of a local host."""
    if host.connection is Connection.SSH:
        return ""
    return "127.0.0.1" if host.address == "localhost" else host.address


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
    wanted = daemon_spec(spec, host, found.arch, facts.vault, found.emulated)
    ours = {daemon.name: daemon for daemon in found.daemons}
    daemon = ours.pop(wanted.name, None)
    names = {host.name for host in spec.hosts}
    strangers = tuple(
        RemoveDaemon(other.id, other.name)
        for other in ours.values()
        if other.settings.get("authority") == wanted.settings["authority"]
        # Left over from a node that was renamed, or that moved and left its port behind.
        and (other.node not in names or other.settings.get("port") == wanted.settings["port"])
    )
    if daemon and (conflict := _other_authority(daemon, facts.vault)):
        return Lane(blocked=conflict)
    clock = wrong_clock(host, found)
    if clock and abs(found.clock_skew) > CLOCK_TOLERANCE.total_seconds():
        return Lane(blocked=clock)
    why = _replacement_reasons(daemon, wanted, facts.vault, now)
    if why:
        pull = () if found.image_present else (PullImage(wanted.image),)
        remove = (RemoveDaemon(daemon.id, daemon.name),) if daemon else ()
        pulled = bool(pull) or bool(daemon and daemon.pulled == wanted.image)
        create = (CreateDaemon(wanted, pulled), StartDaemon(wanted.name), AwaitReady(host.name))
        old = daemon.pulled if daemon and daemon.pulled != wanted.image else None
        clean = (RemoveImage(old),) if old else ()
        return Lane((*pull, *strangers, *remove, *create, *clean), why, warning=clock)
    if daemon and daemon.state == "exited":
        return Lane((*strangers, StartDaemon(daemon.name), AwaitReady(host.name)), (f"stopped: {daemon.detail}",))
    if not isinstance(api, ApiFacts):
        reason = f"{api.stage}: {api.reason}" if api else "it has not been asked over mutual TLS yet"
        return Lane((*strangers, AwaitReady(host.name)), (reason,))
    native = native_platforms(host, api, found)
    warning = not_native(host, api, found, native)
    if not native:
        return Lane(blocked=warning)
    return Lane(strangers, ("left over",) if strangers else (), warning=warning or clock)


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


def _other_authority(daemon: DaemonFacts, vault: VaultFacts) -> Down | None:
    trusted = daemon.settings.get("authority")
    if trusted is None or trusted == (vault.authority_fingerprint or "")[:16]:
        return None
    return Down(
        Stage.TLS,
        f"{daemon.name} trusts a certificate authority that is not in this vault",
        "use the vault of the operator who made it (FLEET_HOME), or start anew: fleet down --any-vault, then fleet up",
    )


def _renewable(certificate: CertificateFacts, vault: VaultFacts, now: datetime) -> bool:
    """Whether it is near its end and a new one would last longer: none outlives its CA."""
    longer = vault.authority is None or vault.authority.expires > certificate.expires
    return longer and certificate.expires - now <= RENEWAL_WINDOW


def able_platforms(
    spec: FleetSpec, facts: Facts, lanes: Mapping[str, Lane], ready: Mapping[str, tuple[Platform, ...]]
) -> dict[str, tuple[Platform, ...]]:
    """What each node can build: as `ready` has it, else as its daemon says; silent nodes are left out.

    A daemon that answers goes on building, even when its host cannot be logged in to or its lane has failed. An owner
    without a lane stays the owner.
    """
    registered = {node.name: node.platforms for node in facts.builder.nodes}
    able: dict[str, tuple[Platform, ...]] = {}
    for host in spec.hosts:
        node = facts.nodes[host.name]
        if host.name in ready:
            able[host.name] = ready[host.name]
        elif host.name not in lanes:
            able |= {host.name: pinned} if (pinned := registered.get(host.name)) else {}
        elif isinstance(node.api, ApiFacts):
            found = node.host if isinstance(node.host, HostFacts) else None
            able[host.name] = native_platforms(host, node.api, found)
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


def _builder_problem(spec: FleetSpec, builder: BuilderFacts, vault: VaultFacts) -> Down | None:
    if builder.unusable:
        return builder.unusable
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
