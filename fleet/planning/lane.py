"""What is to be done on one host: its daemon as it is wanted, as it is found, and the actions between the two."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from certs.lifetimes import CLOCK_TOLERANCE, needs_renewal
from fleet import notes
from fleet.certificates import node_problem
from fleet.containers import buildkitd
from fleet.containers.daemon import DaemonSpec, Delivered, aside, short
from fleet.health import foreign, not_native, wrong_clock
from fleet.model.facts import ApiFacts, CertificateFacts, Down, HostFacts, Image, Offer, Stage
from fleet.model.platforms import Platform, runs_natively
from fleet.model.spec import Connection, Delivery, node_names, pull_mark
from fleet.planning.actions import (
    GRACE,
    LEAST_GRACE,
    AwaitIdle,
    AwaitReady,
    CreateDaemon,
    Drain,
    PullImage,
    PutBack,
    RemoveDaemon,
    RemoveImage,
    Resume,
    SendImage,
    SetAside,
    StartDaemon,
)
from fleet.planning.drift import drift, has_other_image
from fleet.route import native_platforms

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from fleet.containers.proxy import ProxySpec
    from fleet.model.facts import DaemonFacts, Facts
    from fleet.model.spec import FleetSpec, HostSpec
    from fleet.model.vault import VaultFacts
    from fleet.planning.actions import LaneAction


@dataclass(frozen=True, slots=True)
class Lane:
    """One host's actions in order, and why; `blocked`: nothing can be done there, for that reason."""

    actions: tuple[LaneAction, ...] = ()
    why: tuple[str, ...] = ()
    blocked: Down | None = None
    warning: Down | None = None
    turn: str | None = None
    """The architecture whose builds it disturbs: lanes of one architecture take turns. None: it disturbs nobody."""
    undo: tuple[LaneAction, ...] = ()
    """What brings the former daemon back when its successor does not get ready."""


def lane(
    spec: FleetSpec, host: HostSpec, facts: Facts, now: datetime, *, restart: bool = False, patience: int = GRACE
) -> Lane:
    """What `fleet up` would do on this host.

    `restart`: replace the daemon even if it is as it is wanted; `patience`: seconds to wait for builds at most.
    """
    found, api = facts.nodes[host.name].host, facts.nodes[host.name].api
    if not isinstance(found, HostFacts):
        return Lane(blocked=found or Down(Stage.SSH, "it was not asked"))
    if unusable := next((why for why in _files(spec, host, facts.files).values() if isinstance(why, Down)), None):
        return Lane(blocked=unusable)
    wanted = daemon_spec(spec, host, found.arch, facts.vault, found.emulated, facts.files)
    ours = {daemon.name: daemon for daemon in found.daemons}
    daemon, former = ours.pop(wanted.name, None), ours.pop(aside(wanted.name), None)
    if not (daemon or former):
        # Somebody has renamed it.
        daemon = next((ours.pop(other.name) for other in found.daemons if other.node == host.name), None)
    if obstacle := _obstacle(host, found, filter(None, (daemon, former)), facts.vault, now):
        return Lane(blocked=obstacle)
    clock = wrong_clock(host, found, facts.common_skew)
    if abs(found.clock_skew) > CLOCK_TOLERANCE.total_seconds():
        return Lane(blocked=clock)
    left_over = _left_over(spec, wanted, ours.values(), facts.vault)
    grace = max(patience, LEAST_GRACE)
    before = tuple(RemoveDaemon(other.id, other.name, grace) for other in left_over)
    drop_former = (RemoveDaemon(former.id, former.name),) if former else ()
    drop_images = outdated(spec.name, filter(None, (daemon, former, *left_over)), wanted.image, found.image)
    drain = notes.drain(api)
    # What a stopped run left drained is only seen once the daemon answers; without a volume nothing was ever noted.
    noted = daemon is not None or wanted.name in found.volumes
    resume = (Resume(host.name),) if noted and (drain is None or drain.passing) else ()
    ready = (AwaitReady(host.name), *resume)
    brought = bring(host, found.arch, found.image, wanted, facts)
    create = (CreateDaemon(wanted), StartDaemon(wanted.name), *ready)
    why = _replacement_reasons(daemon, wanted, found.image, spec, facts.vault, now)
    why = why or (("a restart was asked for",) if restart else ())
    if isinstance(api, ApiFacts) and (useless := _useless(host, api, found, mended=bool(why))):
        return Lane(blocked=useless)
    after: tuple[LaneAction, ...] = (*drop_former, *drop_images)
    undo = _undo(former, wanted.name, host, ready) if former else ()
    if why and isinstance(brought, Down):
        return Lane(blocked=brought)
    if why and not isinstance(brought, Down):
        at_work = daemon is not None and _at_work(daemon, host, api)
        removal: tuple[LaneAction, ...] = (RemoveDaemon(daemon.id, daemon.name, grace),) if daemon else ()
        # One that has worked can be put back; of two, it is the one that works now or did before.
        if daemon and (at_work or (daemon.state in {"running", "exited", "paused"} and not former)):
            drained = (Drain(host.name),) if resume else ()
            quiet = (*drained, AwaitIdle(host.name, _alone(spec, host, facts), patience)) if at_work else ()
            removal = (*drop_former, *quiet, SetAside(daemon.id, wanted.name, patience))
            after = (RemoveDaemon(daemon.id, aside(wanted.name)), *drop_images)
            undo = _undo(daemon, wanted.name, host, ready)
        # Nobody would look for an image that was pulled in vain.
        undo += tuple(RemoveImage(image.reference, image.mark) for image in brought if undo)
        turn = found.arch if at_work else None
        return Lane((*brought, *before, *removal, *create, *after), why, warning=clock, turn=turn, undo=undo)
    if daemon and daemon.state == "exited":
        start = (StartDaemon(daemon.name), *ready)
        return Lane((*before, *start, *after), (f"stopped: {daemon.detail}",), undo=undo)
    if not isinstance(api, ApiFacts):
        reason = f"{api.stage}: {api.reason}" if api else "it has not been asked over mutual TLS yet"
        return Lane((*before, *ready, *after), (reason,), undo=undo)
    warning = not_native(host, api, found, native_platforms(host, api, found))
    warning = warning or clock or node_problem(spec, host, daemon.certificate if daemon else None, now)
    again = resume if drain else ()
    reasons = {"left over": before or after, "a stopped run left it drained": again}
    return Lane((*before, *again, *after), tuple(why for why, left in reasons.items() if left), None, warning)


def bring(
    host: HostSpec, arch: str, there: Image, wanted: DaemonSpec | ProxySpec, facts: Facts
) -> tuple[()] | tuple[PullImage | SendImage] | Down:
    """How the host gets an image, unless it is `there`; or why it cannot."""
    if there is not Image.ABSENT:
        return ()
    mark = pull_mark(wanted.fleet, wanted.image)
    if host.delivery is Delivery.REGISTRY:
        return (PullImage(wanted.image, mark),)
    match facts.offers.get((wanted.image, arch)):
        case Offer() as offer:
            return (SendImage(offer, mark),)
        case why:
            return why or Down(Stage.IMAGE, "it was not asked for what there is of the image")


def _at_work(daemon: DaemonFacts, host: HostSpec, api: ApiFacts | Down | None) -> bool:
    """Whether it is this daemon that answers: at another port than its own it would be somebody else."""
    return daemon.state == "running" and isinstance(api, ApiFacts) and _port(daemon) == str(host.port)


def _undo(former: DaemonFacts, name: str, host: HostSpec, ready: tuple[LaneAction, ...]) -> tuple[LaneAction, ...]:
    """What puts a daemon back; at another port than is wanted now it cannot be asked whether it is ready."""
    back = PutBack(former.id, name)
    return (back, *ready) if _port(former) == str(host.port) else (back,)


def _port(daemon: DaemonFacts) -> str:
    """Where it listens, without the address that it is bound to."""
    return daemon.settings.get("port", "").rpartition(":")[2]


def _useless(host: HostSpec, api: ApiFacts, found: HostFacts, *, mended: bool) -> Down | None:
    """Why nothing of what is wanted runs there natively, unless a daemon that is `mended` may be of the right kind."""
    native = native_platforms(host, api, found)
    if native or (mended and api.platforms[:1] and api.platforms[0].arch != found.arch):
        return None
    return not_native(host, api, found, native)


def _obstacle(
    host: HostSpec, found: HostFacts, daemons: Iterable[DaemonFacts], vault: VaultFacts, now: datetime
) -> Down | None:
    """What has to be put right by a person before anything can be done there."""
    if vault.authority and vault.authority.expires <= now:
        return Down(
            Stage.TLS,
            f"the fleet's certificate authority expired on {vault.authority.expires:%Y-%m-%d}",
            "start anew: fleet down, move the vault away, fleet up",
        )
    if found.foreign:
        return foreign(host, found)
    if impossible := [platform for platform in host.platforms if not runs_natively(found.arch, platform)]:
        return Down(
            Stage.NATIVE,
            f"the inventory wants {', '.join(map(str, impossible))} of it, but uname -m says {found.machine}",
            "correct the host's platforms, or its address",
        )
    if conflict := next(filter(None, (other_authority(daemon, vault) for daemon in daemons)), None):
        return conflict
    if isinstance(brought := vault.brought.get(host.name), Down):
        return brought
    return None


def _left_over(
    spec: FleetSpec, wanted: DaemonSpec, others: Iterable[DaemonFacts], vault: VaultFacts
) -> list[DaemonFacts]:
    """Daemons of a node that was renamed, or that moved and left its port behind."""
    return [
        other
        for other in others
        if other_authority(other, vault) is None
        and "authority" in other.settings
        and (
            all(other.node != host.name for host in spec.hosts) or other.settings.get("port") == wanted.settings["port"]
        )
    ]


def _alone(spec: FleetSpec, host: HostSpec, facts: Facts) -> bool:
    """Whether this node runs something that no other node does that answers and is not drained."""

    def runs(node: HostSpec) -> set[Platform] | None:
        api, found = facts.nodes[node.name].api, facts.nodes[node.name].host
        if not isinstance(api, ApiFacts) or (node is not host and notes.drain(api)):
            return None
        return set(native_platforms(node, api, found if isinstance(found, HostFacts) else None))

    mine = runs(host) or set()
    # The first that runs as much is enough: of a large fleet not all are to be compared with all.
    return not any(theirs is not None and mine <= theirs for theirs in (runs(n) for n in spec.hosts if n is not host))


def images(daemons: Iterable[DaemonFacts]) -> set[str]:
    """What their containers were made from."""
    return {image for daemon in daemons if (image := daemon.settings.get("image"))}


def outdated(fleet: str, made: Iterable[DaemonFacts], wanted: str | None, there: Image) -> tuple[RemoveImage, ...]:
    """What removes the images that these were made from, but for the one that is `wanted`, if fleet pulled them."""
    made = tuple(made)
    drop = [RemoveImage(image, pull_mark(fleet, image)) for image in sorted(images(made) - {wanted})]
    if wanted and there is Image.FOUND and any(map(has_other_image, made)):
        # Somebody has given its name to another image: what fleet pulled has its mark alone.
        mark = pull_mark(fleet, wanted)
        drop.append(RemoveImage(mark, mark))
    return tuple(drop)


def _replacement_reasons(
    daemon: DaemonFacts | None, wanted: DaemonSpec, image: Image, spec: FleetSpec, vault: VaultFacts, now: datetime
) -> tuple[str, ...]:
    if daemon is None:
        return ("there is no daemon",)
    reasons = [*drift(daemon, wanted, image)]
    if daemon.name != wanted.name:
        reasons.append(f"name: {daemon.name} → {wanted.name}")
    if daemon.certificate is None:
        reasons.append("its certificate is unknown")
    elif daemon.node not in vault.brought:
        reasons += _renewal_reasons(daemon.certificate, spec, vault, now)
    # `created` was interrupted before its files were complete; the others do not come back by themselves.
    if daemon.state in {"created", "paused", "dead", "removing"}:
        reasons.append(f"it is {daemon.state}")
    return tuple(reasons)


def _renewal_reasons(certificate: CertificateFacts, spec: FleetSpec, vault: VaultFacts, now: datetime) -> list[str]:
    if renewable(certificate, spec, vault, now):
        return [f"its certificate expires on {certificate.expires:%Y-%m-%d}"]
    if vault.nodes_since and (certificate.issued is None or certificate.issued < vault.nodes_since):
        return [f"every certificate from before {vault.nodes_since:%Y-%m-%d %H:%M} UTC is to be renewed"]
    return []


def other_authority(daemon: DaemonFacts, vault: VaultFacts) -> Down | None:
    """Why this daemon is not ours to change; None: it is."""
    known = (vault.authority_fingerprint or "", vault.coming_fingerprint, vault.leaving_fingerprint)
    trusted = daemon.settings.get("authority")
    if trusted is None or trusted in {short(fingerprint) for fingerprint in known if fingerprint is not None}:
        return None
    return Down(
        Stage.TLS,
        f"{daemon.name} trusts a certificate authority that is not in this vault",
        "use the vault of the operator who made it (FLEET_HOME), or start anew: fleet down --any-vault, then fleet up",
    )


def renewable(certificate: CertificateFacts, spec: FleetSpec, vault: VaultFacts, now: datetime) -> bool:
    """Whether it is near its end, and a new one would last longer."""
    limit = vault.authority.expires if vault.authority else None
    return needs_renewal(
        certificate.expires, now, days=spec.tls.renew_days, issued=certificate.issued, authority_expires=limit
    )


def _files(spec: FleetSpec, host: HostSpec, known: Mapping[str, str | Down]) -> Mapping[str, str | Down]:
    _, places = buildkitd.placed(buildkitd.merged(spec.buildkit.config, host.config))
    unread = Down(Stage.CONTAINER, "its files were not read")
    return {source: known.get(source, unread) for source in places.values()}


def daemon_spec(
    spec: FleetSpec,
    host: HostSpec,
    arch: str,
    vault: VaultFacts,
    emulated: tuple[str, ...] = (),
    files: Mapping[str, str | Down] = MappingProxyType({}),
) -> DaemonSpec:
    """The container that `host`, of `arch`, is to have; `emulated` by binfmt handlers of the host.

    Its labels tell clients that cannot ask the host what is native there.
    """
    kin = [other for other in emulated if runs_natively(arch, Platform("linux", other))]
    labels = {buildkitd.LABEL_ARCH: arch} | ({buildkitd.LABEL_EMULATED: ",".join(kin)} if kin else {})
    labels |= {buildkitd.LABEL_MAX_BUILDS: str(host.max_builds)} if host.max_builds else {}
    config, places = buildkitd.placed(buildkitd.merged(spec.buildkit.config, host.config))
    return DaemonSpec(
        fleet=spec.name,
        node=host.name,
        image=spec.buildkit.image,
        port=host.port,
        bind=_bind(host),
        config=buildkitd.render(config, labels),
        names=node_names(spec.name, host, arch),
        authority=vault.authority_fingerprint or "",
        trust=vault.trust,
        brought=brought.serial if isinstance(brought := vault.brought.get(host.name), CertificateFacts) else "",
        limits=host.limits,
        delivered=tuple(Delivered(path, source, str(files.get(source))) for path, source in sorted(places.items())),
    )


def _bind(host: HostSpec) -> str:
    """All addresses of a host that is reached from outside; the one address of a local host."""
    if host.connection is Connection.SSH:
        return ""
    return "127.0.0.1" if host.address == "localhost" else host.address
