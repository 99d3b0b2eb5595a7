"""The whole fleet at one moment, and, of one that is watched, when what was seen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from fleet.model.facts import BuilderFacts, Down, NodeFacts
    from fleet.model.health import GateHealth, NodeHealth
    from fleet.model.spec import Joined
    from fleet.model.vault import ClientFacts, VaultFacts


@dataclass(frozen=True, slots=True)
class Drift:
    """What `fleet up` would do on a host, and why; nothing at all: it is as it is wanted."""

    actions: tuple[str, ...] = ()
    why: tuple[str, ...] = ()
    blocked: Down | None = None
    """Why nothing can be done there."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What was last seen of a node that is watched, and when (UTC); None: never yet."""

    facts: NodeFacts
    heard: datetime | None = None
    """When its daemon last answered, or was last found not to."""
    looked: datetime | None = None
    """The same of its host."""
    drift: Drift | None = None
    """None: unknown."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The fleet's health at one moment."""

    fleet: str
    taken: datetime
    builder: BuilderFacts
    nodes: tuple[NodeHealth, ...]
    joined: Joined | None = None
    """None: it was taken on the operator's machine."""
    problems: tuple[Down, ...] = ()
    """What concerns no single node: this machine's certificate, the CA."""
    gates: tuple[GateHealth, ...] = ()
    sightings: Mapping[str, Sighting] = field(default_factory=dict)
    """By node; only of a fleet that is watched, as is what follows."""
    vault: VaultFacts | None = None
    clients: tuple[ClientFacts, ...] = ()
