"""A Snapshot as rows, words and tones: all that the fleet's screens say of it is decided here."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from certs.lifetimes import days_left
from fleet.model.health import Health
from fleet.quantities import size
from tui.cells import UNKNOWN, Cell, Column, Tone, age, bar, fitted, sparkline, toned

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from fleet.model.health import GateHealth, NodeHealth
    from fleet.model.platforms import Platform
    from fleet.model.snapshot import Sighting, Snapshot

STALE = timedelta(seconds=10)
"""A daemon is asked every two seconds, and has three to answer."""

HOST_STALE = timedelta(seconds=45)
"""The same of a host, which is looked at every ten seconds, and has thirty to answer."""

TREND = 10
"""Values that are kept and drawn of each node, one a Snapshot."""

GLYPHS: dict[Health, tuple[str, Tone]] = {
    Health.READY: ("●", "good"),
    Health.DEGRADED: ("◐", "warn"),
    Health.DOWN: ("✗", "bad"),
    Health.DRAINED: ("○", "calm"),
    Health.UNKNOWN: ("?", "dim"),
}
_SEVERITY = (Health.DOWN, Health.UNKNOWN, Health.DEGRADED, Health.DRAINED, Health.READY)


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One node at one moment."""

    node: NodeHealth
    seen: Sighting | None
    now: datetime
    trends: Trends | None = None

    @property
    def trend(self) -> Sequence[int | None]:
        """Builds that were under way, the newest last; asked for when it is drawn, which few of many rows are."""
        return self.trends.of(self.node.name) if self.trends else ()

    @property
    def asking(self) -> bool:
        """Whether nothing has been heard of it at all, as there was no time yet."""
        unheard = self.seen is None or (self.seen.heard is None and self.seen.looked is None)
        return unheard and self.node.health is Health.UNKNOWN

    @property
    def stale(self) -> bool:
        """Whether what its daemon said is older than it should be."""
        return bool(self.seen and self.seen.heard and self.now - self.seen.heard > STALE)

    @property
    def host_stale(self) -> bool:
        """The same of its host."""
        return bool(self.seen and self.seen.looked and self.now - self.seen.looked > HOST_STALE)

    @property
    def words(self) -> str:
        """What a filter looks at."""
        node = self.node
        owned = " ".join(map(str, node.owns))
        drifts = "drift" if self.seen and self.seen.drift and self.seen.drift.actions else ""
        stale = "stale" if self.stale or self.host_stale else ""
        return f"{node.name} {node.health} {node.arch or ''} {owned} {node.reason or ''} {drifts} {stale}"


class Trends:
    """What figures were at the last Snapshots."""

    def __init__(self) -> None:
        self._builds: dict[str, deque[int | None]] = {}

    def add(self, snapshot: Snapshot) -> None:
        """Take up the next one."""
        for node in snapshot.nodes:
            self._builds.setdefault(node.name, deque(maxlen=TREND)).append(node.active_builds)

    def of(self, name: str) -> Sequence[int | None]:
        """Of one node, the newest last."""
        return tuple(self._builds.get(name, ()))


def rows(snapshot: Snapshot, now: datetime, trends: Trends) -> list[NodeRow]:
    """A row a node, in the inventory's order."""
    return [NodeRow(node, snapshot.sightings.get(node.name), now, trends) for node in snapshot.nodes]


# ---------------------------------------------------------------------------------------------- the columns


def health_cell(row: NodeRow) -> Cell:
    """A sign and a word, before all others."""
    if row.asking:
        return toned("… asking", "dim")
    glyph, tone = GLYPHS[row.node.health]
    return ((f"{glyph} {row.node.health}", "stale" if row.stale else tone),)


def _figure(row: NodeRow, text: str | None, tone: Tone = "") -> Cell:
    """Something that the daemon said."""
    if text is None:
        return toned("…", "dim") if row.asking else UNKNOWN
    return toned(text, "stale" if row.stale else tone)


def _builds(row: NodeRow) -> Cell:
    node = row.node
    if node.active_builds is None:
        return _figure(row, None)
    full = node.max_builds is not None and node.active_builds >= node.max_builds
    text = f"{node.active_builds}/{node.max_builds}" if node.max_builds else str(node.active_builds)
    return _figure(row, text, "warn" if full else "accent" if node.active_builds else "")


def _trend(row: NodeRow) -> Cell:
    known = [value for value in row.trend if value is not None]
    most = max([row.node.max_builds or 0, 4, *known])
    return sparkline(row.trend, TREND, most, "stale" if row.stale else "accent")


def used_share(node: NodeHealth) -> float | None:
    """How full the disk is, of 1; None: unknown."""
    if node.free_bytes is None or not node.disk_bytes:
        return None
    return 1 - node.free_bytes / node.disk_bytes


def _disk(row: NodeRow) -> Cell:
    share = used_share(row.node)
    if share is None:
        return toned(f"{size(row.node.free_bytes)} free") if row.node.free_bytes is not None else UNKNOWN
    tone: Tone = "stale" if row.host_stale else "bad" if share > 0.9 else "warn" if share > 0.8 else "good"
    return (
        *bar(share, 5, tone),
        (" ", ""),
        *fitted(((f"{share:.0%}", "stale" if row.host_stale else ""),), 4, right=True),
    )


def certificate_days(expires: datetime | None, now: datetime) -> Cell:
    """How long it lasts, coloured as it nears its end."""
    if expires is None:
        return UNKNOWN
    if expires <= now:
        return toned("expired", "bad")
    days = days_left(expires, now)
    if days < 2:
        return toned(f"{(expires - now) // timedelta(hours=1)}h", "bad")
    return toned(f"{days}d", "warn" if days <= 30 else "")


def _certificate(row: NodeRow) -> Cell:
    return toned("…", "dim") if row.asking else certificate_days(_certificate_order(row), row.now)


def _certificate_order(row: NodeRow) -> datetime | None:
    return row.node.certificate.expires if row.node.certificate else None


def _cache(row: NodeRow) -> Cell:
    return _figure(row, None if row.node.cache_bytes is None else size(row.node.cache_bytes))


def _latency(row: NodeRow) -> Cell:
    return _figure(row, None if row.node.latency_ms is None else f"{row.node.latency_ms:.0f}")


def _drift(row: NodeRow) -> Cell:
    drift = row.seen.drift if row.seen else None
    if drift is None:
        return UNKNOWN
    if drift.blocked:
        return toned("blocked", "bad")
    if not drift.actions:
        return toned("none", "dim")
    return toned(f"{len(drift.actions)} step{'s' if len(drift.actions) != 1 else ''}", "warn")


def _drift_order(row: NodeRow) -> int | None:
    drift = row.seen.drift if row.seen else None
    return None if drift is None else 1000 if drift.blocked else len(drift.actions)


def _age(row: NodeRow) -> Cell:
    heard = row.seen.heard if row.seen else row.now
    shown = age(heard, row.now)
    return ((f"{shown} !", "stale"),) if row.stale else toned(shown, "dim")


def _why(row: NodeRow) -> Cell:
    if row.asking:
        return ()
    said = row.node.reason or ""
    tone: Tone = "stale" if row.stale else "" if row.node.health is Health.READY else GLYPHS[row.node.health][1]
    return toned(f"last known: {said}" if row.stale and said else said, tone)


def short_platforms(platforms: Sequence[Platform]) -> str:
    """Each architecture once, with its variants."""
    variants: dict[str, list[str]] = {}
    for platform in platforms:
        variants.setdefault(platform.arch, []).append(platform.variant)
    return ", ".join(" ".join((arch, *filter(None, found))) for arch, found in variants.items())


def _owns(row: NodeRow) -> Cell:
    return toned(short_platforms(row.node.owns)) if row.node.owns else toned("–", "dim")


NODE_COLUMNS: tuple[Column[NodeRow], ...] = (
    Column("NODE", lambda row: toned(row.node.name, "stale" if row.stale else ""), lambda row: row.node.name, 6),
    Column("HEALTH", health_cell, lambda row: _SEVERITY.index(row.node.health), 10),
    Column("ARCH", lambda row: _figure(row, row.node.arch), lambda row: row.node.arch, 7, rank=4),
    Column("OWNS", _owns, lambda row: -len(row.node.owns), 14, rank=6),
    Column("BUILDS", _builds, lambda row: row.node.active_builds, 6, rank=1, right=True),
    Column("TREND", _trend, lambda row: sum(filter(None, row.trend)), TREND, rank=7),
    Column("DISK", _disk, lambda row: used_share(row.node), 10, rank=3),
    Column("CACHE", _cache, lambda row: row.node.cache_bytes, 8, rank=8, right=True),
    Column("BUILDKIT", lambda row: _figure(row, row.node.buildkit), lambda row: row.node.buildkit, 8, rank=10),
    Column("CERT", _certificate, _certificate_order, 7, rank=5, right=True),
    Column("MS", _latency, lambda row: row.node.latency_ms, 5, rank=9, right=True),
    Column("DRIFT", _drift, _drift_order, 8, rank=6),
    Column("AGE", _age, lambda row: row.seen.heard if row.seen else None, 5, rank=2, right=True),
    Column("WHY", _why, lambda row: row.node.reason, 22, grows=True),
)


# -------------------------------------------------------------------------------------------- the line on top


@dataclass(frozen=True, slots=True)
class Summary:
    """The fleet in one line."""

    counts: Mapping[Health, int]
    asking: int
    stale: int
    builds: int | None
    """None: nobody has said."""
    next_expiry: datetime | None = None


def summary(snapshot: Snapshot, now: datetime) -> Summary:
    """Add it up; what is not known is left out, never taken for zero."""
    shown = rows(snapshot, now, Trends())
    counts = dict.fromkeys(Health, 0)
    for row in shown:
        if not row.asking:
            counts[row.node.health] += 1
    said = [row.node.active_builds for row in shown if row.node.active_builds is not None]
    own = (snapshot.vault.client, snapshot.vault.authority) if snapshot.vault else ()
    certificates = (*own, *(row.node.certificate for row in shown))
    return Summary(
        counts=counts,
        asking=sum(row.asking for row in shown),
        stale=sum(row.stale for row in shown),
        builds=sum(said) if said else None,
        next_expiry=min((one.expires for one in certificates if one), default=None),
    )


def headline(snapshot: Snapshot, now: datetime) -> Cell:
    """The line on top of every screen."""
    total = summary(snapshot, now)
    spans: list[tuple[str, Tone]] = [(snapshot.fleet, "title"), ("  ", "")]
    if snapshot.joined:
        spans += [(f"joined as {snapshot.joined.client}", ""), ("  ", "")]
    if not snapshot.nodes:
        spans += [("no nodes", "dim"), ("  ", "")]
    for health, count in total.counts.items():
        if count:
            glyph, tone = GLYPHS[health]
            spans += [(f"{glyph} {count} {health}", tone), ("  ", "")]
    if total.asking:
        spans += [(f"… {total.asking} asking", "dim"), ("  ", "")]
    if total.stale:
        spans += [(f"! {total.stale} stale", "stale"), ("  ", "")]
    builds = "–" if total.builds is None else str(total.builds)
    spans += [(f"builds {builds}", "accent" if total.builds else ""), ("  ", ""), ("cert ", "")]
    spans += (*certificate_days(total.next_expiry, now), *_gateway(snapshot))
    return tuple(spans)


def _gateway(snapshot: Snapshot) -> Cell:
    """How the ways through the gateway are, the worst of them."""
    if not snapshot.gates:
        return ()
    worst = min((gate.health for gate in snapshot.gates), key=_SEVERITY.index)
    glyph, tone = GLYPHS[worst]
    count = sum(gate.health is worst for gate in snapshot.gates)
    return (("  ", ""), ("gateway ", ""), (f"{glyph} {count} {worst}", tone))


def gate_cell(gate: GateHealth) -> Cell:
    """One way through the gateway, in full."""
    glyph, tone = GLYPHS[gate.health]
    said = [toned(gate.endpoint.removeprefix("tcp://"), "dim"), toned(f"{glyph} {gate.health}", tone)]
    if gate.owns:
        said.append(toned(f"builds for {short_platforms(gate.owns)} go through it", "dim"))
    if gate.reason:
        said.append(toned(gate.reason, tone))
    return (*toned(f"gateway on {gate.host} for {gate.arch}"), *(span for cell in said for span in (("  ", ""), *cell)))


def builder_line(snapshot: Snapshot) -> Cell:
    """Whether this machine's buildx knows the fleet."""
    if snapshot.vault is None and not snapshot.builder.registered:
        return toned("asking", "dim")
    if not snapshot.builder.registered:
        return toned("builder not registered", "warn")
    return toned("builder registered, default" if snapshot.builder.default else "builder registered", "dim")


def about(row: NodeRow) -> list[Cell]:
    """What there is to say of the node under the cursor, in a few lines."""
    node = row.node
    lines: list[Cell] = [((node.name, "title"), ("  ", ""), (node.address, "dim"), ("  ", ""), *health_cell(row))]
    if row.asking:
        return [*lines, toned("asking its daemon and its host", "dim")]
    if row.stale and row.seen:
        lines.append(
            toned(f"nothing heard for {age(row.seen.heard, row.now)}: all of this is how it was then", "stale")
        )
    if node.reason:
        lines.append(toned(node.reason))
    if node.remedy:
        lines.append((("try: ", "dim"), *toned(node.remedy, "accent")))
    drift = row.seen.drift if row.seen else None
    if drift and drift.blocked and drift.blocked.reason not in (node.reason or ""):
        lines.append((("fleet up cannot: ", "dim"), *toned(drift.blocked.reason)))
    elif drift and drift.actions:
        lines.append((("fleet up would: ", "dim"), *toned("; ".join(drift.actions))))
    if len(lines) == 1:
        lines.append(toned(f"builds {short_platforms(node.platforms)} natively", "dim"))
    return lines
