"""How it is: health in one word, of a node and of a gateway's way to an architecture."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fleet.model.facts import CertificateFacts
    from fleet.model.platforms import Platform


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
