"""Runs of fleet on a fake world, with the threads of a real one; what they end with."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from unittest import mock

from fleet.applying import act
from fleet.applying.apply import Applier
from fleet.applying.report import Event, Report, Result
from fleet.model.facts import Down
from fleet.model.spec import FleetSpec
from fleet.observing.observe import Connections, observe
from fleet.planning.actions import GRACE
from fleet.planning.plan import plan_down
from tests.support.world import FakeWorld


def up(
    world: FakeWorld,
    spec: FleetSpec,
    *,
    only: Collection[str] = (),
    parallel: int = 1,
    patience: int = GRACE,
    seconds: float | None = None,
    on: Callable[[Event, Applier], None] = lambda _event, _applier: None,
) -> tuple[Report, list[Event]]:
    """What `fleet up` does, in no time; `on` sees each event before what it tells of is done.

    `seconds`: as its `--timeout`, from when the plan is carried out.
    """
    ports, events = world.ports(), list[Event]()

    def emit(event: Event) -> None:
        events.append(event)
        on(event, applier)

    at_once = mock.patch.multiple(act, STEADY=0.0, SETTLING=0.0, LOOK_EVERY=0.001)
    with at_once, Connections(ports.connect) as connections:
        facts = observe(spec, ports, connections, only=only)
        deadline = None if seconds is None else time.monotonic() + seconds
        applier = Applier(spec, ports, connections, emit, parallel=parallel, patience=patience, deadline=deadline)
        return applier.up(facts, world.plan(spec, only=only, patience=patience), only=only), events


def down(world: FakeWorld, spec: FleetSpec, *, volumes: bool = False) -> tuple[Report, list[Event]]:
    """What `fleet down` does."""
    ports, events = world.ports(), list[Event]()
    with Connections(ports.connect) as connections:
        decided = plan_down(spec, observe(spec, ports, connections), volumes=volumes)
        return Applier(spec, ports, connections, events.append, "down").down(decided), events


def results(report: Report) -> dict[str, Result]:
    return {outcome.subject: outcome.result for outcome in (*report.nodes, report.builder)}


def failure(report: Report, subject: str) -> Down:
    found = next(outcome for outcome in (*report.nodes, report.builder) if outcome.subject == subject).failure
    assert found is not None
    return found


def of(events: list[Event], subject: str) -> list[tuple[str, str]]:
    return [(event.text, event.state) for event in events if event.subject == subject]
