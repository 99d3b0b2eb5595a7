"""What is in a daemon's way on its host and in the network: one judgement a topic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from fleet.check.ground import EngineInfo, Ground, Reach, registries
from fleet.check.judgement import NO_ANSWER, listed, ok, problem, unknown, warning
from fleet.health import foreign
from fleet.model.facts import Down, HostFacts, Image, Offer, Stage
from fleet.model.spec import Delivery, object_name
from fleet.planning.lane import other_authority
from fleet.quantities import size

if TYPE_CHECKING:
    from fleet.check.judgement import Case, Judgement
    from fleet.model.platforms import Platform

# ---------------------------------------------------------------------------------------- container and port


def container(case: Case) -> Judgement:
    """What `fleet up` would not touch, and so would stop at."""
    found, vault = case.found, case.vault
    obstacle = foreign(case.host, found) if found.foreign else None
    if vault and not obstacle:
        mine = {object_name(case.spec.name, case.host.name)}
        obstacle = next(filter(None, (other_authority(d, vault) for d in found.daemons if d.name in mine)), None)
        if isinstance(brought := vault.brought.get(case.host.name), Down):
            obstacle = obstacle or brought
    return problem(obstacle.reason, obstacle.remedy) if obstacle else ok("nothing is in the way of its daemon")


def port(case: Case) -> Judgement:
    """Who has the node's port."""
    info, port = case.answers.info, case.host.port
    if isinstance(info, EngineInfo) and _is_ours(case, info.published.get(port)):
        return ok(f"port {port} is {info.published[port]}'s")
    return free(case, port, f"hosts.{case.host.name}.port")


def free(case: Case, port: int, setting: str) -> Judgement:
    """Whether a port of the host that is not fleet's is somebody's; `setting`: what says that it is to be this one."""
    move = f"end that, or set {setting}"
    info, ground = case.answers.info, case.answers.ground
    if isinstance(info, EngineInfo) and (holder := info.published.get(port)):
        return problem(f"port {port} is taken by the container {holder}", move)
    found = ground.ports.get(port) if isinstance(ground, Ground) else None
    if found is None:
        return unknown(f"whether port {port} is free: {NO_ANSWER if ground is None else 'the host does not tell'}")
    if not found.taken:
        return ok(f"port {port} is free")
    who = found.by or "a program that this login may not see"
    return problem(f"port {port} is taken by {who}", f"on {case.host.name}: sudo ss -ltnp 'sport = :{port}'; {move}")


def _is_ours(case: Case, holder: str | None) -> bool:
    found = case.answers.host
    return isinstance(found, HostFacts) and holder in {daemon.name for daemon in found.daemons}


def reachable(case: Case) -> Judgement:
    """From this machine, as buildx will. Without a daemon, a silent port is a sign and not a proof."""
    place, here = case.host.endpoint, case.answers.here
    open_it = f"open TCP {case.host.port} to this machine in the firewalls before and on {case.host.name}"
    match here:
        case Reach.OPEN:
            return ok(f"{place} can be reached from here")
        case Reach.UNRESOLVED:
            return problem(f"this machine cannot resolve {case.host.address}", "correct the host's address")
        case None | Reach.UNKNOWN:
            return unknown(f"whether {place} can be reached from here")
    match _holds(case), here:
        case None, _:
            return unknown(f"a connection to {place} is {here}, and who has the port on the host is not known")
        case "somebody", _:
            return unknown(f"whether {place} can be reached from here once it is fleet's")
        case _, Reach.UNROUTED:
            return problem(f"there is no route from here to {case.host.address}", "buildx connects directly: a VPN?")
        case "daemon", _:
            return problem(f"its daemon has {place}, but a connection from here is {here}: a firewall", open_it)
        case _, Reach.REFUSED:
            return ok(f"{place} refuses, as a port does where nothing listens; a firewall that rejects looks the same")
        case _:
            return warning(
                f"no answer from {place}, where nothing listens yet: a firewall drops it; "
                "one on the host may let Docker's ports through, one before it does not",
                open_it,
            )


def _holds(case: Case) -> Literal["daemon", "somebody", "nobody"] | None:
    """Who has the node's port on the host; None: that is not known."""
    info, ground = case.answers.info, case.answers.ground
    if isinstance(info, EngineInfo) and (holder := info.published.get(case.host.port)):
        return "daemon" if _is_ours(case, holder) else "somebody"
    if isinstance(ground, Ground) and (port := ground.ports.get(case.host.port)):
        return "somebody" if port.taken else "nobody"
    return None


# ----------------------------------------------------------------------------------------------------- network


def mtu(case: Case) -> Judgement:
    """Of Docker's bridge against the way out."""
    bridge, nic, way_out = case.info.mtu, case.ground.nic, case.ground.nic_mtu
    if bridge is None:
        return unknown("Docker does not tell the MTU of its bridge")
    if way_out is None:
        return unknown("the host does not tell the MTU of its default route")
    if bridge > way_out:
        return warning(
            f"containers send packets of {bridge} bytes, {nic} takes {way_out}: large downloads may hang",
            f'on {case.host.name}: "mtu": {way_out} in /etc/docker/daemon.json, and restart Docker',
        )
    return ok(f"{bridge} on Docker's bridge, {way_out} on {nic}")


_RESOLVED = "127.0.0.53"
"""systemd-resolved, behind which Docker finds the name servers of the network."""


def dns(case: Case) -> Judgement:
    """Docker leaves out what containers could not reach, and then falls back to servers of its own choice."""
    servers = case.ground.nameservers
    if servers is None:
        return unknown("the host's /etc/resolv.conf cannot be read")
    if all(server == "::1" or server.startswith("127.") for server in servers) and _RESOLVED not in servers:
        named = f"only {', '.join(servers)}" if servers else "no name server"
        return warning(
            f"/etc/resolv.conf names {named}, so Docker gives containers 8.8.8.8, unless its daemon.json has dns",
            f'on {case.host.name}: "dns" in /etc/docker/daemon.json, and restart Docker',
        )
    return ok(", ".join(servers))


_WHY = {
    Reach.REFUSED: "refused",
    Reach.SILENT: "no answer",
    Reach.UNROUTED: "no route",
    Reach.UNRESOLVED: "the name cannot be resolved",
}


def registry(case: Case) -> Judgement:
    """From the host itself; its containers usually have the same way out."""
    wanted = registries(case.spec, case.host)
    reached = {endpoint: case.ground.reach.get(endpoint, Reach.UNKNOWN) for endpoint in wanted}
    lost = [f"{endpoint} ({_WHY[reach]})" for endpoint, reach in reached.items() if reach in _WHY]
    info = case.answers.info
    if lost and isinstance(info, EngineInfo) and info.proxied:
        return unknown(f"Docker has a proxy there; without it the host does not reach {', '.join(lost)}")
    if lost:
        return warning(
            f"the host does not reach {', '.join(lost)}",
            f"on {case.host.name}: name server, firewall, proxy; builds fail that need it",
        )
    if untried := [endpoint for endpoint, reach in reached.items() if reach is Reach.UNKNOWN]:
        return unknown(f"whether it reaches {', '.join(untried)}: to try, it takes timeout and bash or nc there")
    return ok(f"it reaches {', '.join(wanted)}" if wanted else "it needs none for itself")


def image(case: Case) -> Judgement:
    """Whether BuildKit's image is there, or Docker there can pull it."""
    return at_hand(case, case.spec.buildkit.image, case.found.image, case.answers.image, "buildkit.image")


def at_hand(
    case: Case,
    image: str,
    there: Image,
    offered: frozenset[Platform] | Offer | Down | None,
    setting: str,
) -> Judgement:
    """Whether an image is there, or can be had as its registry says; `setting`: what says that it is to be this one."""
    arch, sent = case.found.arch, case.host.delivery is Delivery.STREAM
    if there is not Image.ABSENT:
        return ok(f"{image} is there")
    match offered:
        case Offer() as offer:
            return ok(f"{image} can be sent there ({size(offer.size)})")
        case Down(stage=Stage.IMAGE) as down:
            brought = "sent" if sent else "pulled"
            return problem(f"{image} is not there, and cannot be {brought}: {down.reason}", down.remedy)
        case Down() as down:
            return unknown(f"{down.stage}: {down.reason}", down.remedy)
        case None:
            return unknown(
                f"{image} is not there, and its registry has not answered {'us' if sent else 'Docker'} in time"
            )
        case known if not known:
            return unknown(f"the registry has {image}, but does not tell for which platforms")
        case known if arch in {platform.arch for platform in known}:
            return ok(f"{image} can be pulled")
        case known:
            return problem(
                f"the registry has {image} for {listed(sorted(known))} only, and this is {arch}",
                f"name an image for {arch} in {setting}",
            )
