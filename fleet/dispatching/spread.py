"""Which of several nodes builds: the one where the project's cache is warm, unless it has more than its share to do.

Weighted rendezvous hashing gives every project an order of nodes: when a node leaves, only its projects move, and they
come back with it. Bounded load sends a build on to the next in that order.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fleet import route

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fleet.model.health import NodeHealth
    from fleet.model.platforms import Platform

OVERLOAD = 1.25
"""How much more than its share of all builds a node may have before builds are sent on."""

USUAL_BUILDS = 4
"""What a node without `max_builds` counts as when shares are worked out; it is not a limit."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The node that is to build, and why it and no other."""

    node: str
    why: str


@dataclass(frozen=True, slots=True)
class Full:
    """Every node that could build has its `max_builds`."""

    platform: Platform
    nodes: tuple[str, ...]


def weight(max_builds: int | None) -> int:
    """How many projects a node gets, compared with others: as many as it may build at a time."""
    return max_builds or USUAL_BUILDS


def order(key: str, weights: Mapping[str, int]) -> tuple[str, ...]:
    """The nodes as the project `key` prefers them."""
    return tuple(sorted(weights, key=lambda node: (-_score(key, node, weights[node]), node)))


def _score(key: str, node: str, weight: int) -> float:
    digest = hashlib.sha256(f"{len(node)} {node} {key}".encode()).digest()
    # In the open interval from 0 to 1, so that its logarithm is negative.
    drawn = (int.from_bytes(digest[:6]) + 0.5) / 2**48
    return -weight / math.log(drawn)


def load(nodes: Sequence[NodeHealth], reserved: Mapping[str, int]) -> dict[str, int]:
    """Node -> builds: those that it reports, or that this machine has begun there (`reserved`), whichever are more."""
    return {node.name: max(node.active_builds or 0, reserved.get(node.name, 0)) for node in nodes}


def choose(platform: Platform, nodes: Sequence[NodeHealth], load: Mapping[str, int], key: str) -> Choice | Full:
    """Who builds `platform` for the project `key`; `load`: node -> builds that it has now, none if it is left out.

    Raises ValueError when no node may build it at all: `route.refusals` says why.
    """
    able = [node for node in nodes if route.why_not(platform, node) is None]
    if not able:
        raise ValueError(f"no node may build {platform}")
    free = {node.name: node for node in able if node.max_builds is None or load.get(node.name, 0) < node.max_builds}
    if not free:
        return Full(platform, tuple(node.name for node in able))
    preferred = order(key, {node.name: weight(node.max_builds) for node in able})
    shares = _shares({name: weight(node.max_builds) for name, node in free.items()}, load)
    chosen = next(name for name in preferred if name in free and load.get(name, 0) < shares[name])
    return Choice(chosen, _why(chosen, preferred, free, load))


def _shares(weights: Mapping[str, int], load: Mapping[str, int]) -> dict[str, int]:
    """How many builds each may have, one more than there are being shared out: some node always has fewer."""
    builds, total = sum(load.get(name, 0) for name in weights) + 1, sum(weights.values())
    return {name: math.ceil(OVERLOAD * builds * weight / total) for name, weight in weights.items()}


def _why(chosen: str, preferred: Sequence[str], free: Iterable[str], load: Mapping[str, int]) -> str:
    passed = preferred[: preferred.index(chosen)]
    if not passed:
        return (
            "its turn: no other node runs it" if len(preferred) == 1 else "its turn: here this project's cache is warm"
        )
    busy = (f"{name} is {'busy' if name in free else 'full'} ({load.get(name, 0)})" for name in passed)
    return f"next in turn: {', '.join(busy)}"
