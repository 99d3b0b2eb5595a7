"""Routes and certificates as rows and lines, without a terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fleet.certificates import Entry, State, entries
from fleet.model.facts import Facts
from fleet.observing.watch import NO_VAULT
from fleet.route import why_not
from tui.cells import UNKNOWN, Cell, Column, Tone, toned
from tui.view import certificate_days, gate_cell

if TYPE_CHECKING:
    from datetime import datetime

    from fleet.model.health import GateHealth
    from fleet.model.platforms import Platform
    from fleet.model.snapshot import Snapshot
    from fleet.model.spec import FleetSpec

# ------------------------------------------------------------------------------------------------------ routes


@dataclass(frozen=True, slots=True)
class Route:
    """One platform: who builds it, who could, who cannot and why."""

    platform: Platform
    owner: str | None
    owner_fails: str | None
    stand_by: tuple[str, ...]
    cannot: tuple[tuple[str, str], ...]
    gates: tuple[GateHealth, ...] = ()
    """The ways through the gateway for its architecture."""

    @property
    def words(self) -> str:
        """What a filter looks at."""
        return f"{self.platform} {self.owner or ''} {' '.join(self.stand_by)}"


def routes(snapshot: Snapshot) -> list[Route]:
    """Every platform that a node runs, owns, or is to run."""
    every = {platform for node in snapshot.nodes for platform in (*node.platforms, *node.owns)}
    found = []
    for platform in sorted(every.union(*(gate.owns for gate in snapshot.gates))):
        owner = next((node for node in snapshot.nodes if platform in node.owns), None)
        reasons = {node.name: why_not(platform, node) for node in snapshot.nodes if node is not owner}
        gate = next((gate for gate in snapshot.gates if platform in gate.owns), None)
        arch = gate.arch if gate else platform.arch
        found.append(
            Route(
                platform,
                owner.name if owner else f"gateway {gate.host}" if gate else None,
                why_not(platform, owner) if owner else gate.reason if gate else None,
                tuple(name for name, reason in reasons.items() if reason is None),
                tuple((name, reason) for name, reason in reasons.items() if reason is not None),
                tuple(gate for gate in snapshot.gates if gate.arch == arch),
            )
        )
    return found


def _route_owner(route: Route) -> Cell:
    if route.owner is None:
        return toned("nobody", "warn")
    return toned(f"{'✗' if route.owner_fails else '●'} {route.owner}", "bad" if route.owner_fails else "good")


def _route_why(route: Route) -> Cell:
    failing = f"{route.owner}: {route.owner_fails}; " if route.owner_fails else ""
    return toned(failing + "; ".join(f"{name}: {reason}" for name, reason in route.cannot), "bad" if failing else "dim")


ROUTE_COLUMNS: tuple[Column[Route], ...] = (
    Column("PLATFORM", lambda route: toned(str(route.platform)), lambda route: route.platform, 14),
    Column("OWNER", _route_owner, lambda route: route.owner, 17),
    Column(
        "STANDS BY",
        lambda route: toned(", ".join(route.stand_by)) if route.stand_by else toned("nobody", "dim"),
        lambda route: -len(route.stand_by),
        18,
    ),
    Column("WHY NOT", _route_why, lambda route: len(route.cannot), 20, grows=True),
)


def route_lines(route: Route) -> list[Cell]:
    """One platform in full."""
    lines: list[Cell] = [((str(route.platform), "title"), ("  ", ""), *_route_owner(route))]
    if route.owner_fails:
        lines.append(toned(f"its owner does not build it now: {route.owner_fails}", "bad"))
    if route.stand_by:
        lines.append(toned(f"stand by: {', '.join(route.stand_by)}"))
    lines += (gate_cell(gate) for gate in route.gates)
    return [*lines, *(toned(f"{name}: {reason}", "dim") for name, reason in route.cannot)]


# ------------------------------------------------------------------------------------------------ certificates

_STATES: dict[State, tuple[str, Tone]] = {
    State.VALID: ("●", "good"),
    State.RENEW: ("◐", "warn"),
    State.EXPIRED: ("✗", "bad"),
    State.FUTURE: ("◌", "warn"),
    State.REVOKED: ("○", "calm"),
    State.MISSING: ("?", "dim"),
}


def certificates(spec: FleetSpec, snapshot: Snapshot, now: datetime) -> list[Entry]:
    """CAs, nodes, clients."""
    facts = Facts(
        {name: seen.facts for name, seen in snapshot.sightings.items()}, snapshot.builder, snapshot.vault or NO_VAULT
    )
    return list(entries(spec, facts, snapshot.clients, now)) if facts.nodes else []


def _state(entry: Entry) -> Cell:
    sign, tone = _STATES[entry.state]
    return toned(f"{sign} {entry.state}", tone)


def _expires(entry: Entry) -> datetime | None:
    return entry.certificate.expires if entry.certificate else None


def certificate_columns(now: datetime) -> tuple[Column[Entry], ...]:
    """As they are at a moment."""
    return (
        Column("NAME", lambda entry: toned(entry.name), lambda entry: entry.name, 8),
        Column("ROLE", lambda entry: toned(entry.role), lambda entry: entry.role, 6),
        Column("STATE", _state, lambda entry: list(State).index(entry.state), 15),
        Column("LEFT", lambda entry: certificate_days(_expires(entry), now), _expires, 8, right=True),
        Column(
            "ENDS",
            lambda entry: (
                UNKNOWN if entry.certificate is None else toned(f"{entry.certificate.expires:%Y-%m-%d %H:%M}")
            ),
            _expires,
            16,
            rank=2,
        ),
        Column("IN USE", lambda entry: toned(entry.in_use, "dim"), lambda entry: entry.in_use, 20, grows=True),
        Column(
            "SERIAL",
            lambda entry: UNKNOWN if entry.certificate is None else toned(entry.certificate.serial[:16], "dim"),
            lambda entry: entry.certificate.serial if entry.certificate else None,
            16,
            rank=3,
        ),
    )
