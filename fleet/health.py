"""From facts to health: one word a node, and the stage and reason where it is not `ready`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fleet.model import ApiFacts, Down, Health, HostFacts, NodeHealth, Snapshot, Stage, object_name
from fleet.route import native_platforms

if TYPE_CHECKING:
    from datetime import datetime

    from fleet.model import CertificateFacts, Facts, FleetSpec, HostSpec, NodeFacts, Platform


CLOCK_LIMIT = 30.0
"""Seconds; certificates tolerate minutes, but a clock that drifts so far will drift further."""


def snapshot(spec: FleetSpec, facts: Facts, taken: datetime) -> Snapshot:
    """The fleet's health as the facts show it."""
    owned = {node.name: node.platforms for node in facts.builder.nodes}
    return Snapshot(
        fleet=spec.name,
        taken=taken,
        builder=facts.builder,
        nodes=tuple(node_health(spec, host, facts.nodes[host.name], owned.get(host.name, ())) for host in spec.hosts),
    )


def node_health(spec: FleetSpec, host: HostSpec, facts: NodeFacts, owns: tuple[Platform, ...]) -> NodeHealth:
    """One node's health: what its daemon does counts, the way over SSH says why it does not."""
    api = facts.api if isinstance(facts.api, ApiFacts) else None
    found = facts.host if isinstance(facts.host, HostFacts) else None
    platforms = native_platforms(host, api, found) if api else ()
    health, why = _judge(spec, host, facts, platforms)
    arch = found.arch if found else api.platforms[0].arch if api and api.platforms else None
    daemon = _daemon_certificate(spec, host, found)
    return NodeHealth(
        name=host.name,
        address=host.address,
        arch=arch,
        platforms=platforms,
        owns=owns,
        health=health,
        reason=f"{why.stage}: {why.reason}" if why else None,
        remedy=why.remedy if why else None,
        buildkit=api.version.removeprefix("v") if api else None,
        active_builds=api.active_builds if api else None,
        certificate=api.certificate if api else daemon,
        cache_bytes=api.cache_bytes if api else None,
        free_bytes=found.free_bytes if found else None,
        latency_ms=api.latency_ms if api else None,
    )


def _judge(
    spec: FleetSpec, host: HostSpec, facts: NodeFacts, platforms: tuple[Platform, ...]
) -> tuple[Health, Down | None]:
    if isinstance(facts.api, ApiFacts):
        if isinstance(facts.host, Down):
            return Health.DEGRADED, facts.host
        problem = not_native(host, facts.api, facts.host, platforms)
        return (Health.DEGRADED, problem) if problem else (Health.READY, None)
    if isinstance(facts.host, Down):
        return Health.DOWN, facts.host
    if facts.host is not None and (missing := _container_problem(spec, host, facts.host)):
        return Health.DOWN, missing
    if facts.api is not None:
        if facts.api.stage is Stage.TLS and facts.host and (wrong := wrong_clock(host, facts.host)):
            return Health.DOWN, wrong
        return Health.UNKNOWN if facts.api.late else Health.DOWN, facts.api
    if facts.host is None:
        return Health.UNKNOWN, Down(Stage.API, "nothing has answered in time", "run it again, or fleet plan")
    return Health.UNKNOWN, Down(
        Stage.TLS, "there is no client certificate to ask it with", "fleet up, or set FLEET_HOME to the fleet's vault"
    )


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
    if missing:
        return Down(
            Stage.NATIVE,
            f"the inventory wants {', '.join(map(str, missing))} of it, which it cannot run itself",
            "correct the host's platforms, or its address",
        )
    if found and found.emulated:
        return Down(
            Stage.NATIVE,
            f"its kernel would emulate {', '.join(found.emulated)} (binfmt handlers)",
            f"on {host.name}: remove the qemu-user-static or binfmt-support handlers; fleet pins native platforms only",
        )
    if not platforms:
        return Down(Stage.NATIVE, "its worker reports no platform at all", f"docker logs on {host.name}")
    return None


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


def wrong_clock(host: HostSpec, found: HostFacts) -> Down | None:
    """A clock that is off by more than CLOCK_LIMIT, before a certificate is blamed for it."""
    if abs(found.clock_skew) <= CLOCK_LIMIT:
        return None
    direction = "ahead" if found.clock_skew > 0 else "behind"
    return Down(
        Stage.TLS,
        f"the clock of {host.name} is {abs(found.clock_skew):.0f} s {direction} of this machine's",
        f"on {host.name}: timedatectl set-ntp true",
    )


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
