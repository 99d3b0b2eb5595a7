"""Who owns what while nodes and gateways come and go: how each has answered so far, and what follows for the builder.

A hiccup changes nothing, nor does silence all around: then it is this machine's network. What was down has to prove
itself before it gets anything back. So the registration follows the fleet without flapping.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from fleet import buildx, notes
from fleet.containers.proxy import builder_name, endpoint, gates
from fleet.gateway_health import explained
from fleet.health import drained
from fleet.model.facts import ApiFacts, Down, Stage
from fleet.planning.gateway import ways
from fleet.planning.plan import able_platforms, builder_steps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fleet.model.facts import BuilderNode, Facts
    from fleet.model.platforms import Platform
    from fleet.model.spec import FleetSpec

STEADY = 30.0
"""Seconds for which a node has to answer every time before it counts as one that can be relied upon."""

LATE = 15.0
"""Seconds after which one that only is late is down: a frozen daemon takes connections, and buildx waits for it."""

FAILURES = 2
"""Looks in a row that have to fail once another has answered; one is enough where the port refuses."""

APART = 10.0
"""Seconds between two changes at least."""

Way = str | tuple[str, str]
"""A node by its name, or a gateway by its host and the architecture behind it."""


@dataclass(frozen=True, slots=True)
class Trail:
    """How a node or a gateway has answered; moments as of time.monotonic()."""

    said: ApiFacts | Down
    """At the last look."""
    answered: float | None = None
    """When it last did."""
    well: float | None = None
    """Since when it has answered; single failures count only until it is steady."""
    failing: float | None = None
    """Since when it has not."""
    failures: int = 0
    """Looks in a row at which it failed although this machine's network is there: see `noticed`."""
    down: bool = False

    def steady(self, now: float) -> bool:
        """Whether it can be relied upon."""
        return self.well is not None and now - self.well >= STEADY


@dataclass(frozen=True, slots=True)
class Memory:
    """What there is to remember from one look to the next."""

    trails: Mapping[Way, Trail] = field(default_factory=dict)
    changed: float | None = None
    """When the registration was last changed, or that failed, as of time.monotonic()."""

    def rests(self, now: float) -> bool:
        """Whether it is too soon for another change."""
        return self.changed is not None and now - self.changed < APART


def noticed(memory: Memory, facts: Facts, now: float) -> Memory:
    """The same, and what was found since: an answer is a new one when it is another object.

    A failure counts when another has answered since the first one, at an earlier look, and still does: a network that
    goes or comes back is heard of from one after the other.
    """
    nodes = ((name, node.api) for name, node in facts.nodes.items())
    answers: tuple[tuple[Way, ApiFacts | Down | None], ...] = (*nodes, *facts.gates.items())
    said = {way: answer for way, answer in answers if answer is not None}
    heard = {
        way: trail.answered
        for way, trail in memory.trails.items()
        if trail.answered is not None and isinstance(said.get(way), ApiFacts)
    }
    trails = {}
    for way, answer in said.items():
        others = max((at for key, at in heard.items() if key != way), default=None)
        trails[way] = _longer(memory.trails.get(way), answer, now, others)
    return replace(memory, trails=trails)


def _longer(trail: Trail | None, said: ApiFacts | Down, now: float, others: float | None) -> Trail:
    """`others`: when another has answered."""
    if trail and trail.said is said:
        return trail
    trail = trail or Trail(said)
    if isinstance(said, ApiFacts):
        return Trail(said, answered=now, well=now if trail.well is None else trail.well)
    since = now if trail.failing is None else trail.failing
    counts = others is not None and others > since
    failures = trail.failures + counts
    enough = failures >= FAILURES and (not said.late or now - since >= LATE)
    down = trail.down or (counts and _refused(said)) or enough
    well = trail.well if trail.steady(now) and not down else None
    return replace(trail, said=said, well=well, failing=since, failures=failures, down=down)


def _refused(why: Down) -> bool:
    return why.stage is Stage.TCP and not (why.late or why.silent)


def steps(spec: FleetSpec, facts: Facts, memory: Memory, now: float) -> tuple[tuple[buildx.Step, ...], Down | None]:
    """What makes the builder follow, or why it cannot be made to; empty: it is as it is wanted, or not yet the time.

    The first steady node of the inventory owns what it runs; while there is none, today's owner does if it answers.
    One that is in doubt, as it has not yet failed often enough, keeps what it has.
    """
    trails, ways_in = memory.trails, gates(spec)
    everybody = {*(host.name for host in spec.hosts), *ways_in}
    if not facts.builder.registered or memory.rests(now) or not everybody <= trails.keys():
        return (), None
    if not any(isinstance(trail.said, ApiFacts) for trail in trails.values()):
        return (), None
    doubtful = {way for way, trail in trails.items() if isinstance(trail.said, Down) and not trail.down}
    judged = [host.name for host in spec.hosts if host.name not in doubtful]
    able = able_platforms(spec, facts, judged, {})
    able = {name: platforms for name, platforms in able.items() if not notes.drain(trails[name].said)}
    nodes = buildx.settled(facts.builder.nodes)
    owner = {platform: node.name for node in nodes for platform in node.platforms}
    for name in reversed(able):
        if trails[name].steady(now):
            owner |= dict.fromkeys(able[name], name)
    sends = {node.endpoint for node in nodes if node.platforms}
    leading = {
        key
        for key, gate in ways_in.items()
        if not trails[key].down and (trails[key].steady(now) or endpoint(gate) in sends)
    }
    open_ways = ways(spec, replace(facts, gates={}), leading)
    return builder_steps(spec, able, facts.builder, facts.vault, open_ways, owner)


# ------------------------------------------------------------------------------------------------ in words


@dataclass(frozen=True, slots=True)
class Move:
    """Platforms that have another owner now; None: nobody."""

    platforms: tuple[Platform, ...]
    origin: Way | None
    owner: Way | None

    def __str__(self) -> str:
        return f"{', '.join(map(str, self.platforms))}: {_shown(self.origin)} → {_shown(self.owner)}"


def _shown(way: Way | None) -> str:
    if way is None:
        return "nobody"
    return way if isinstance(way, str) else f"{registered(way)} on {way[0]}"


def registered(way: Way) -> str:
    """Its name in the builder."""
    return way if isinstance(way, str) else builder_name(way[1])


def moves(spec: FleetSpec, before: Sequence[BuilderNode], after: Sequence[BuilderNode]) -> tuple[Move, ...]:
    """What has another owner afterwards."""
    sends = {endpoint(gate): way for way, gate in gates(spec).items()}
    origin, owner = (
        {platform: sends.get(node.endpoint, node.name) for node in buildx.settled(nodes) for platform in node.platforms}
        for nodes in (before, after)
    )
    moved: dict[tuple[Way | None, Way | None], list[Platform]] = {}
    for platform in (*origin, *(platform for platform in owner if platform not in origin)):
        if origin.get(platform) != owner.get(platform):
            moved.setdefault((origin.get(platform), owner.get(platform)), []).append(platform)
    return tuple(Move(tuple(platforms), *pair) for pair, platforms in moved.items())


def reasons(spec: FleetSpec, moved: Sequence[Move], memory: Memory, now: float) -> tuple[str, ...]:
    """Why: what is wrong with those that own less now; else since when those that own more have been well."""
    wrong = _wrong(spec, memory.trails)
    drains = {way: drain for way, drain in wrong.items() if drain.stage is Stage.DRAIN}
    found: dict[str, None] = {}
    for move in moved:
        down = {way: why for way, why in wrong.items() if way == move.origin}
        if not down and isinstance(move.origin, tuple):
            # It works, but it would send builds there.
            down = drains
        found |= {f"{_shown(way)}: {why.stage}: {why.reason}": None for way, why in down.items()}
        trail = memory.trails.get(move.owner) if move.owner else None
        if not down and trail and trail.well is not None:
            found[f"{_shown(move.owner)} has answered for {now - trail.well:.0f} s"] = None
    return tuple(found)


def _wrong(spec: FleetSpec, trails: Mapping[Way, Trail]) -> dict[Way, Down]:
    """Why each that is to own nothing is."""
    wrong: dict[Way, Down] = {}
    for way, trail in trails.items():
        drain = notes.drain(trail.said)
        if isinstance(trail.said, Down) and trail.down:
            wrong[way] = trail.said if isinstance(way, str) else explained(trail.said)
        elif drain and isinstance(way, str):
            wrong[way] = drained(spec.host(way), drain)
    return wrong
