"""Which node builds which platform, and why: the rules, on facts alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fleet.model import Health, Platform, machine_arch, runs_natively

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fleet.model import ApiFacts, HostFacts, HostSpec, NodeHealth


def native_platforms(spec: HostSpec, api: ApiFacts, host: HostFacts | None) -> tuple[Platform, ...]:
    """The platforms that the node runs on its own CPU and may build, in the worker's order.

    The host's own `uname -m` decides the family: asked now, or as `fleet up` left it in the daemon's labels. A daemon
    without either goes by its first platform. What a binfmt handler of the host could be behind is left out.
    """
    if not api.platforms:
        return ()
    arch = host.arch if host else api.arch or api.platforms[0].arch
    if arch != api.platforms[0].arch:
        return ()
    emulated = host.emulated if host else api.emulated
    return tuple(
        platform
        for platform in dict.fromkeys(api.platforms)
        if runs_natively(arch, platform)
        and platform.arch not in emulated
        and (not spec.platforms or platform in spec.platforms)
    )


def owners(
    native: Mapping[str, Sequence[Platform]], current: Mapping[Platform, str]
) -> dict[str, tuple[Platform, ...]]:
    """Give each platform one owner among the nodes that run it natively: today's if it still does, else the first.

    buildx knows one owner a platform; keeping today's keeps its cache warm. The nodes stay in their order, those
    without a platform of their own stand by.
    """
    owned: dict[str, list[Platform]] = {name: [] for name in native}
    owner: dict[Platform, str] = {}
    for name, platforms in native.items():
        for platform in platforms:
            today = current.get(platform)
            if platform not in owner:
                owner[platform] = today if today and platform in native.get(today, ()) else name
            if owner[platform] == name:
                owned[name].append(platform)
    return {name: tuple(platforms) for name, platforms in owned.items()}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A platform that no node may build, and what each node says to it."""

    platform: Platform
    reasons: Mapping[str, str]


def refusals(platforms: Sequence[Platform], nodes: Sequence[NodeHealth]) -> tuple[Refusal, ...]:
    """The platforms that no healthy node runs natively, each with every node's reason."""
    return tuple(
        Refusal(platform, {node.name: why_not(platform, node) or "" for node in nodes})
        for platform in platforms
        if not any(why_not(platform, node) is None for node in nodes)
    )


def why_not(platform: Platform, node: NodeHealth) -> str | None:
    """Why `node` may not build `platform` now; None: it may."""
    if node.health is Health.DRAINED and node.reason:
        return node.reason
    if node.health not in {Health.READY, Health.DEGRADED}:
        return f"{node.health}: {node.reason}" if node.reason else str(node.health)
    if platform not in node.platforms:
        return f"runs {', '.join(map(str, node.platforms)) or 'nothing'} natively"
    return None


def default_platform(machine: str, nodes: Sequence[NodeHealth], owners: Mapping[Platform, str]) -> Platform | None:
    """What a build without --platform is for: this machine's own architecture, where the fleet has it.

    Else what the builder's first pin or, without a builder, the first healthy node is for. A node that is down does
    not change it: the same command must not build for something else tomorrow.
    """
    own = Platform("linux", machine_arch(machine)).normalised()
    healthy = [node for node in nodes if node.health in {Health.READY, Health.DEGRADED} and node.platforms]
    if own in owners or any(own in node.platforms for node in healthy):
        return own
    return next(iter(owners), healthy[0].platforms[0] if healthy else None)
