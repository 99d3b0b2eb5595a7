"""A node's build cache: what it holds, and what pruning would take from it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

_SPARED = frozenset({"internal", "frontend"})
"""Kinds that BuildKit prunes only when everything is to go: what every build needs anew."""


@dataclass(frozen=True, slots=True)
class CacheRecord:
    """One entry of the cache; size in bytes."""

    size: int
    in_use: bool = False
    """A build under way needs it, or a record that depends on it and is in use."""
    shared: bool = False
    """An image in the worker's store has the same layer."""
    kind: str = "regular"
    """BuildKit's word: regular, internal, frontend, source.local, source.git.checkout or exec.cachemount."""
    last_used: datetime | None = None
    """None: never since it was made."""


@dataclass(frozen=True, slots=True)
class Pruning:
    """What is to go: all that no build uses, as far as the rest of it allows."""

    keep: int = 0
    """Bytes of cache that may stay, the most recently used; 0: none."""
    everything: bool = False
    """Frontends and BuildKit's own images, too."""
    older: timedelta = timedelta(0)
    """What was used within this time stays."""


@dataclass(frozen=True, slots=True)
class Usage:
    """A cache summed up, in bytes; what is not reclaimable is in use."""

    total: int
    reclaimable: int
    records: int

    @property
    def in_use(self) -> int:
        """Bytes that builds under way need."""
        return self.total - self.reclaimable


def summed(records: Collection[CacheRecord]) -> Usage:
    """All of these records."""
    return Usage(
        total=sum(record.size for record in records),
        reclaimable=sum(record.size for record in records if not record.in_use),
        records=len(records),
    )


def would_go(records: Collection[CacheRecord], wanted: Pruning, now: datetime) -> Usage:
    """About what pruning would take now: to keep some, BuildKit weighs last use and number of uses in its own way."""
    going = [
        record
        for record in records
        if not record.in_use
        and (wanted.everything or not (record.shared or record.kind in _SPARED))
        and not (wanted.older and record.last_used and record.last_used > now - wanted.older)
    ]
    if not wanted.keep:
        return summed(going)
    going.sort(key=lambda record: record.last_used or datetime.min.replace(tzinfo=now.tzinfo))
    left = sum(record.size for record in records if not record.shared)
    taken = []
    for record in going:
        if left < wanted.keep:
            break
        taken.append(record)
        left -= record.size
    return summed(taken)
