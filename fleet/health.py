"""From facts to health: one word a node, and the stage and reason where it is not `ready`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fleet import notes
from fleet.model.facts import ApiFacts, Down, HostFacts, Stage
from fleet.model.health import Health, NodeHealth
from fleet.model.spec import Connection, object_name
from fleet.quantities import size
from fleet.route import emulated_platforms, native_platforms

if TYPE_CHECKING:
    from collections.abc import Callable

    from fleet.model.facts import CertificateFacts, NodeFacts
    from fleet.model.platforms import Platform
    from fleet.model.spec import FleetSpec, HostSpec


CLOCK_LIMIT = 30.0
"""Seconds; certificates tolerate minutes, but a clock that drifts so far will drift further."""

SPARE_SHARE = 10
"""One part in so many of a disk is to stay free: BuildKit's own garbage collection aims for twice that."""

SPARE_LIMIT, FULL_LIMIT = 10_000_000_000, 1_000_000_000
"""Bytes; of a large disk no more has to stay free, and with less than the second there is no room for a build."""


def node_health(
    spec: FleetSpec,
    host: HostSpec,
    facts: NodeFacts,
    owns: tuple[Platform, ...],
    *,
    ending: Callable[[CertificateFacts | None], Down | None] = lambda _: None,
    common: float | None = None,
) -> NodeHealth:
    """One node's health: what its daemon does counts, the way over SSH says why it does not.

    `ending`: why its certificate will not do much longer; `common`: to judge its clock by, see `Facts.common_skew`.
    """
    api = facts.api if isinstance(facts.api, ApiFacts) else None
    found = facts.host if isinstance(facts.host, HostFacts) else None
    platforms = native_platforms(host, api, found) if api else ()
    health, why = _judge(spec, host, facts, platforms, common)
    arch = found.arch if found else api.platforms[0].arch if api and api.platforms else None
    daemon = _daemon_certificate(spec, host, found)
    certificate = api.certificate if api and api.certificate else daemon
    if (ends := ending(certificate)) and (health is Health.READY or (why and why.stage is Stage.TLS)):
        health, why = Health.DEGRADED if health is Health.READY else health, ends
    return NodeHealth(
        name=host.name,
        address=host.address,
        arch=arch,
        platforms=platforms,
        owns=owns,
        health=health,
        reason=f"{why.stage}: {why.reason}" if why else None,
        remedy=_remedy(host, why) if why else None,
        buildkit=api.version.removeprefix("v") if api else None,
        active_builds=api.active_builds if api else None,
        certificate=certificate,
        cache_bytes=api.cache_bytes if api else None,
        free_bytes=found.free_bytes if found else None,
        latency_ms=api.latency_ms if api else None,
        max_builds=api.max_builds if api else None,
        disk_bytes=found.disk_bytes if found else None,
        emulated=emulated_platforms(api, found) if api else (),
    )


def _judge(
    spec: FleetSpec, host: HostSpec, facts: NodeFacts, platforms: tuple[Platform, ...], common: float | None
) -> tuple[Health, Down | None]:
    if isinstance(facts.api, ApiFacts):
        if drain := notes.drain(facts.api):
            return Health.DRAINED, drained(host, drain)
        if isinstance(facts.host, Down):
            return Health.DEGRADED, facts.host
        problem = not_native(host, facts.api, facts.host, platforms)
        if facts.host and not problem:
            problem = short_of_space(host, facts.host, facts.api.cache_bytes)
        return (Health.DEGRADED, problem) if problem else (Health.READY, None)
    if isinstance(facts.host, Down):
        return Health.DOWN, facts.host
    if facts.host is not None and (missing := _container_problem(spec, host, facts.host)):
        return Health.DOWN, missing
    if facts.api is not None:
        if facts.api.stage is Stage.TLS and facts.host and (wrong := wrong_clock(host, facts.host, common)):
            return Health.DOWN, wrong
        return Health.UNKNOWN if facts.api.late else Health.DOWN, facts.api
    if facts.host is None:
        return Health.UNKNOWN, Down(Stage.API, "nothing has answered in time", "run it again, or fleet plan")
    return Health.UNKNOWN, Down(
        Stage.TLS, "there is no client certificate to ask it with", "fleet up, or set FLEET_HOME to the fleet's vault"
    )


def _remedy(host: HostSpec, why: Down) -> str | None:
    """What to try next; on a machine that has joined, other hands have to mend a node."""
    if host.connection is not Connection.NONE:
        return why.remedy
    match why.stage:
        case Stage.TCP:
            return "can this machine reach it (VPN, firewall)? else tell the fleet's operator"
        case Stage.TLS:
            return "is this machine's clock right? else ask the fleet's operator for a new bundle, and fleet join it"
        case _:
            return "tell the fleet's operator"


def not_native(host: HostSpec, api: ApiFacts, found: HostFacts | None, platforms: tuple[Platform, ...]) -> Down | None:
    """Why this node's builds might not be native, although its daemon answers; None: they are.

    With no native `platforms` at all there is always a reason.
    """
    arch = found.arch if found else api.arch
    if arch and api.platforms and arch != api.platforms[0].arch:
        return Down(
            Stage.NATIVE,
            f"the host is {found.machine if found else arch}, but its daemon runs as {api.platforms[0]}",
            f"use an image for {arch}",
        )
    missing = [platform for platform in host.platforms if platform not in platforms]
    if missing and host.connection is Connection.NONE:
        listed = ", ".join(map(str, missing))
        return Down(Stage.NATIVE, f"it does not run {listed} itself any more, as it did when the bundle was made")
    if missing:
        return Down(
            Stage.NATIVE,
            f"the inventory wants {', '.join(map(str, missing))} of it, which it cannot run itself",
            "correct the host's platforms, or its address",
        )
    if found and found.emulated and not host.emulation:
        return emulating(host, found)
    if not platforms:
        return Down(Stage.NATIVE, "its worker reports no platform at all", f"docker logs on {host.name}")
    return None


def emulating(host: HostSpec, found: HostFacts) -> Down:
    """What its kernel would do where fleet asks for native builds."""
    return Down(
        Stage.NATIVE,
        f"its kernel would emulate {', '.join(found.emulated)} (binfmt handlers)",
        f"fleet emulation remove {host.name}, or on {host.name}: remove qemu-user-static; or set emulation: allow",
    )


def _container_problem(spec: FleetSpec, host: HostSpec, found: HostFacts) -> Down | None:
    name = object_name(spec.name, host.name)
    if found.foreign:
        return foreign(host, found)
    daemon = next((daemon for daemon in found.daemons if daemon.name == name), None)
    if daemon is None:
        return Down(Stage.CONTAINER, "there is no daemon", f"fleet up --host {host.name}")
    if daemon.state != "running":
        return Down(Stage.CONTAINER, f"{name}: {daemon.detail or daemon.state}", f"fleet up --host {host.name}")
    return None


def at_rest(answer: ApiFacts | Down) -> bool:
    """Whether no build runs there: as the daemon says, or because there is none; what is not known is no rest."""
    return not answer.late if isinstance(answer, Down) else answer.active_builds == 0


def drained(host: HostSpec, drain: notes.Drain) -> Down:
    """By whom, and how it ends."""
    since = f"since {drain.since:%Y-%m-%d %H:%M} UTC"
    if drain.passing:
        return Down(Stage.DRAIN, f"{drain.by} is replacing its daemon, {since}", "it comes back by itself")
    return Down(Stage.DRAIN, f"by {drain.by}, {since}", f"fleet resume {host.name}")


def wrong_clock(host: HostSpec, found: HostFacts, common: float | None = None) -> Down | None:
    """A clock that is off by more than CLOCK_LIMIT, before a certificate is blamed for it.

    Against `common`, the fleet's median, it is the host's; when the whole fleet is off, it is this machine's.
    """
    on_host = f"on {host.name}: timedatectl set-ntp true"
    if common is not None and abs(found.clock_skew - common) > CLOCK_LIMIT:
        return Down(
            Stage.TLS, f"the clock of {host.name} is {_off(found.clock_skew - common)} the other hosts'", on_host
        )
    if abs(found.clock_skew) <= CLOCK_LIMIT:
        return None
    if common is not None and abs(common) > CLOCK_LIMIT:
        return Down(
            Stage.TLS,
            f"this machine's clock is {_off(-common)} its hosts'",
            "on this machine: timedatectl set-ntp true",
        )
    return Down(Stage.TLS, f"the clock of {host.name} is {_off(found.clock_skew)} this machine's", on_host)


def to_spare(disk: int, limit: int = SPARE_LIMIT) -> int:
    """How many bytes of a disk of that size are to stay free, and at most `limit`."""
    return min(disk // SPARE_SHARE, limit)


def short_of_space(host: HostSpec, found: HostFacts, cache: int | None) -> Down | None:
    """A disk that fills although BuildKit collects its garbage; `cache`: the bytes that pruning could free at most."""
    if found.free_bytes is None or found.disk_bytes is None:
        return None
    missing = to_spare(found.disk_bytes) - found.free_bytes
    if missing <= 0:
        return None
    left = f"only {size(found.free_bytes)} of {size(found.disk_bytes)} are free where Docker keeps its files"
    prune, look = f"fleet prune {host.name}", f"fleet ssh {host.name} docker system df"
    if cache is None:
        return Down(Stage.DOCKER, left, f"{prune}; {look}")
    if cache < missing:
        return Down(Stage.DOCKER, left, f"{look}; what fills it is not the cache ({size(cache)})")
    kept = (cache - missing) // 10**9
    return Down(Stage.DOCKER, left, f"{prune} --keep {kept}GB" if kept else prune)


def _off(skew: float) -> str:
    return f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'}"


def foreign(host: HostSpec, found: HostFacts) -> Down:
    """The node's name is taken by something that fleet did not make."""
    return Down(
        Stage.CONTAINER,
        f"{', '.join(found.foreign)} on {host.name} is not fleet's (it lacks fleet's label)",
        "rename or remove it, or rename the host in the inventory",
    )


def _daemon_certificate(spec: FleetSpec, host: HostSpec, found: HostFacts | None) -> CertificateFacts | None:
    name = object_name(spec.name, host.name)
    return next((d.certificate for d in found.daemons if d.name == name), None) if found else None
