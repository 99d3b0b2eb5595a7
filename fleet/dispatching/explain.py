"""What `fleet build` would do now, and why: the same choice, with what is said against every other node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fleet import route
from fleet.dispatching import spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fleet.model.health import NodeHealth
    from fleet.model.platforms import Platform


@dataclass(frozen=True, slots=True)
class Route:
    """Who would build a platform; no node: none may, or all that may are full."""

    platform: Platform
    node: str | None
    why: str
    others: Mapping[str, str]
    """Every other node -> why it is not chosen, in the order in which they would be."""
    refused: bool = False
    """No node may build it: a build for it ends at once."""
    emulated: bool = False
    """That node would not run it natively."""


def routes(
    platforms: Sequence[Platform], nodes: Sequence[NodeHealth], load: Mapping[str, int], key: str
) -> tuple[Route, ...]:
    """Each platform's way for the project `key`; `load`: node -> builds that it has now."""
    return tuple(_route(platform, nodes, load, key) for platform in platforms)


def known_platforms(nodes: Iterable[NodeHealth], pinned: Iterable[Platform]) -> tuple[Platform, ...]:
    """Every platform that some node runs natively or the builder pins."""
    return tuple(dict.fromkeys((*(platform for node in nodes for platform in node.platforms), *pinned)))


def _route(platform: Platform, nodes: Sequence[NodeHealth], load: Mapping[str, int], key: str) -> Route:
    against = {node.name: route.why_not(platform, node) for node in nodes}
    refused = {name: why for name, why in against.items() if why is not None}
    able = {node.name: spread.weight(node.max_builds) for node in nodes if node.name not in refused}
    if not able:
        return Route(platform, None, "no healthy node runs it natively", refused, refused=True)
    chosen = spread.choose(platform, nodes, load, key)
    limits = {node.name: node.max_builds for node in nodes}
    standing_by = {
        name: f"could, as number {place} in turn; {_load(load.get(name, 0), limits[name])}"
        for place, name in enumerate(spread.order(key, able), 1)
    }
    if isinstance(chosen, spread.Full):
        return Route(platform, None, "all that run it are full: a build would wait", standing_by | refused)
    standing_by.pop(chosen.node)
    emulated = any(node.name == chosen.node and platform in node.emulated for node in nodes)
    why = f"emulated; {chosen.why}" if emulated else chosen.why
    return Route(platform, chosen.node, why, standing_by | refused, emulated=emulated)


def _load(builds: int, most: int | None) -> str:
    return f"{builds} of {most} builds" if most else f"{builds} build{'s' if builds != 1 else ''}"
