"""How it is: health in one word a node, and all of it at one moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from fleet.model.facts import BuilderFacts, CertificateFacts, ClientFacts, Down, NodeFacts, VaultFacts
    from fleet.model.platforms import Platform
    from fleet.model.spec import Joined


class Health(StrEnum):
    """How a node is, for routing and for people."""

    READY = "ready"
    DEGRADED = "degraded"
    DOWN = "down"
    DRAINED = "drained"
    UNKNOWN = "unknown"

    @property
    def usable(self) -> bool:
        """Whether it builds, or will when its operator lets it: nothing has to be mended first."""
        return self in {Health.READY, Health.DEGRADED, Health.DRAINED}


@dataclass(frozen=True, slots=True)
class NodeHealth:
    """One row of a status; None: unknown, never zero."""

    name: str
    address: str
    arch: str | None
    platforms: tuple[Platform, ...]
    owns: tuple[Platform, ...]
    health: Health
    reason: str | None
    remedy: str | None
    buildkit: str | None
    active_builds: int | None
    certificate: CertificateFacts | None
    cache_bytes: int | None
    free_bytes: int | None
    latency_ms: float | None
    max_builds: int | None = None
    """How many builds it is to have at a time; None: any number, or unknown."""
    disk_bytes: int | None = None
    emulated: tuple[Platform, ...] = ()
    """What its host's binfmt handlers run; it builds none of that unless emulation is allowed."""


@dataclass(frozen=True, slots=True)
class GateHealth:
    """A gateway's way to the nodes of an architecture, as a status shows it."""

    host: str
    arch: str
    endpoint: str
    owns: tuple[Platform, ...]
    """What this machine's builder sends through it."""
    health: Health
    reason: str | None = None
    remedy: str | None = None


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
