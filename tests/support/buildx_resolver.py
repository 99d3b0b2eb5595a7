"""How buildx chooses nodes, as a model: docker/buildx build/resolver/driver.go with containerd/platforms, v0.36 and v1.

Written from what they do (docs/facts.md), on platforms as texts: it shares no code with what it is held against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_ALIASES = {"x86_64": "amd64", "x86-64": "amd64", "i386": "386", "aarch64": "arm64"}
_DEFAULTS = {"amd64": "v1", "arm64": "v8"}


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a builder: what is pinned on it, and what its worker would report if it is contacted."""

    name: str
    pinned: tuple[str, ...]
    reported: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Resolution:
    """Who builds what."""

    nodes: Mapping[str, tuple[str, ...]]
    """Node -> the platforms asked of it, in its order."""
    contacted: frozenset[str]
    strayed: tuple[str, ...]
    """What nothing matched, so that it went to the first node, and would be emulated there."""

    @property
    def pinned_only(self) -> bool:
        """Whether the pins were enough, so that nobody else was contacted."""
        return not self.strayed and self.contacted == set(self.nodes)


def resolve(nodes: Sequence[Node], requested: Sequence[str]) -> Resolution:
    """What buildx does for a build of these platforms, all nodes being able to answer."""
    if not requested:
        return Resolution({nodes[0].name: ()}, frozenset({nodes[0].name}), ())
    strict = [_strictly(nodes, platform) for platform in requested]
    if None not in strict:
        return _resolution(nodes, requested, strict)
    everybody = frozenset(node.name for node in nodes)
    loose = _resolution(nodes, requested, [_loosely(nodes, platform) for platform in requested])
    return Resolution(loose.nodes, everybody, loose.strayed)


def _resolution(nodes: Sequence[Node], requested: Sequence[str], chosen: Sequence[int | None]) -> Resolution:
    found: dict[str, tuple[str, ...]] = {}
    for platform, at in zip(requested, chosen, strict=True):
        name = nodes[at or 0].name
        found[name] = (*found.get(name, ()), platform)
    strayed = tuple(platform for platform, at in zip(requested, chosen, strict=True) if at is None)
    return Resolution(found, frozenset(found), strayed)


def _strictly(nodes: Sequence[Node], platform: str) -> int | None:
    wanted = normal(platform)
    return next((at for at, node in enumerate(nodes) if wanted in map(normal, node.pinned)), None)


def _loosely(nodes: Sequence[Node], platform: str) -> int | None:
    """The last that is a closer match than those before it; a CPU runs what older ones of its family run."""
    wanted, best, best_platform = normal(platform), None, ""
    for at, node in enumerate(nodes):
        for offered in map(normal, (*node.pinned, *node.reported)):
            runs = _runs(offered)
            if wanted not in runs:
                continue
            if best is None or (best_platform not in runs or runs.index(wanted) < runs.index(best_platform)):
                best, best_platform = at, offered
    return best


def normal(platform: str) -> str:
    """The one spelling of a platform that buildx compares."""
    os, arch, variant = (*platform.lower().split("/"), "", "")[:3] if "/" in platform else ("linux", platform, "")
    arch = _ALIASES.get(arch, arch)
    if arch == "arm":
        variant = variant or "v7"
    elif variant == _DEFAULTS.get(arch):
        variant = ""
    return "/".join(filter(None, (os, arch, variant)))


def _runs(offered: str) -> list[str]:
    os, arch, variant = (*offered.split("/"), "")[:3]
    number = int(variant[1:] or 0) if variant else {"amd64": 1, "arm64": 8}.get(arch, 0)
    match arch:
        case "amd64":
            return [*(normal(f"{os}/amd64/v{n}") for n in range(number, 0, -1)), f"{os}/386"]
        case "arm64":
            own = [normal(f"{os}/arm64/v{n}") for n in range(number, 7, -1)]
            return [*own, *(f"{os}/arm/v{n}" for n in range(8, 4, -1))]
        case "arm":
            return [f"{os}/arm/v{n}" for n in range(number, 4, -1)]
    return [offered]
