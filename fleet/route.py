"""Which node builds which platform, and why: the rules, on facts alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fleet.errors import RoutingError
from fleet.model.health import Health
from fleet.model.platforms import Platform, machine_arch, runs_natively

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fleet.model.facts import ApiFacts, HostFacts
    from fleet.model.health import NodeHealth
    from fleet.model.spec import HostSpec


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


def emulated_platforms(api: ApiFacts, host: HostFacts | None) -> tuple[Platform, ...]:
    """What the worker reports because a binfmt handler of its host runs it, in the worker's order.

    Of a daemon that is not of its host's own family nothing: all that it does is emulated.
    """
    if not api.platforms:
        return ()
    arch = host.arch if host else api.arch or api.platforms[0].arch
    handlers = host.emulated if host else api.emulated
    if arch != api.platforms[0].arch:
        return ()
    return tuple(
        platform
        for platform in dict.fromkeys(api.platforms)
        if platform.arch in handlers or not runs_natively(arch, platform)
    )


def with_emulation(
    platforms: Sequence[Platform], nodes: Sequence[NodeHealth], allowed: Callable[[str], bool]
) -> tuple[NodeHealth, ...]:
    """The nodes, as able to build also what they emulate of `platforms`, where no node may build that natively.

    `allowed`: whether the node of that name may emulate. What is chosen then is emulated if the node's `emulated` has
    it.
    """
    lacking = {refusal.platform for refusal in refusals(platforms, nodes)}
    return tuple(
        replace(node, platforms=(*node.platforms, *(p for p in node.emulated if p in lacking)))
        if lacking.intersection(node.emulated) and allowed(node.name)
        else node
        for node in nodes
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


def refused(found: Sequence[Refusal]) -> RoutingError:
    """What a user is told of platforms that no node may build."""
    lines = [
        f"no healthy node runs {refusal.platform} natively\n"
        + "\n".join(f"  {name}: {reason}" for name, reason in refusal.reasons.items())
        for refusal in found
    ]
    return RoutingError("\n".join(lines), "fleet status; add or repair a node, or build for other platforms")


def why_not(platform: Platform, node: NodeHealth) -> str | None:
    """Why `node` may not build `platform` now; None: it may."""
    if node.health is Health.DRAINED and node.reason:
        return node.reason
    if node.health not in {Health.READY, Health.DEGRADED}:
        return f"{node.health}: {node.reason}" if node.reason else str(node.health)
    if platform not in node.platforms:
        runs = f"runs {', '.join(map(str, node.platforms)) or 'nothing'} natively"
        return f"{runs}, and would emulate this one (--allow-emulation)" if platform in node.emulated else runs
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
