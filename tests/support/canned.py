"""Snapshots of fleets that do not exist: a day at a small one, and every state that a dashboard has to bear."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta

from fleet import notes
from fleet.fleet_health import snapshot
from fleet.model.facts import BuilderFacts, Down, Facts, NodeFacts, Stage
from fleet.model.health import GateHealth, Health
from fleet.model.snapshot import Drift, Sighting, Snapshot
from fleet.model.spec import FleetSpec
from tests.support.values import (
    NOW,
    api,
    builder,
    certificate,
    daemon,
    fleet,
    found,
    host,
    node,
    platforms,
    vault,
)

GB = 1_000_000_000
SINCE = timedelta(seconds=1)
NO_DRIFT = Drift()


def sighting(
    facts: NodeFacts, *, ago: timedelta = SINCE, drift: Drift | None = NO_DRIFT, host_ago: timedelta | None = None
) -> Sighting:
    """Seen a second ago, unless said otherwise."""
    return Sighting(facts, NOW - ago, NOW - (host_ago or ago), drift)


def taken(spec: FleetSpec, sightings: dict[str, Sighting], *, registered: BuilderFacts | None = None) -> Snapshot:
    """What a Watch would make of it."""
    keys = vault()
    facts = Facts({name: seen.facts for name, seen in sightings.items()}, registered or _pinned(spec), keys)
    return replace(snapshot(spec, facts, NOW), sightings=sightings, vault=keys)


def _pinned(spec: FleetSpec) -> BuilderFacts:
    first: dict[str, str] = {}
    for one in spec.hosts:
        first.setdefault("arm64" if one.name.startswith("arm") else "amd64", one.name)
    owns = {name: (f"linux/{arch}", "linux/386" if arch == "amd64" else "linux/arm/v7") for arch, name in first.items()}
    return builder(*(node(one.name, *owns.get(one.name, ())) for one in spec.hosts))


def up(
    spec: FleetSpec, name: str, *, builds: int = 0, disk: float = 0.4, cache: int = 21 * GB, **answers: object
) -> NodeFacts:
    """A node at work."""
    machine = "aarch64" if name.startswith("arm") else "x86_64"
    said = api(
        machine,
        active_builds=builds,
        max_builds=4,
        cache_bytes=cache,
        latency_ms=3.4 + len(name),
        took={Stage.TCP: 0.4, Stage.TLS: 5.1},
        **answers,
    )
    looked = found(
        machine,
        daemon(spec, name, machine),
        disk_bytes=500 * GB,
        free_bytes=int(500 * GB * (1 - disk)),
        took={Stage.SSH: 12.0, Stage.DOCKER: 21.0},
    )
    return NodeFacts(looked, said)


SMALL = fleet(host("amd-1"), host("amd-2"), host("amd-3"), host("arm-1"), host("arm-2"))


def day(spec: FleetSpec = SMALL) -> Snapshot:
    """A small fleet at work: one drained, one down, one that differs from what is wanted."""
    drained = notes.Drain("anna@desk", NOW - timedelta(minutes=20)).text()
    dead = Down(Stage.TCP, "amd-3.example:1234 refused the connection", "docker ps on amd-3; fleet plan")
    gone = daemon(spec, "amd-3", state="exited", detail="Exited (137) 4 minutes ago")
    took = {Stage.SSH: 8.0, Stage.DOCKER: 31.0}
    return taken(
        spec,
        {
            "amd-1": sighting(up(spec, "amd-1", builds=3, disk=0.61, cache=84 * GB)),
            "amd-2": sighting(
                up(spec, "amd-2", builds=1, disk=0.83, cache=132 * GB),
                drift=Drift(("set aside", "create fleet.acme.amd-2", "start", "await ready"), ("the image changes",)),
            ),
            "amd-3": sighting(
                NodeFacts(
                    found("x86_64", gone, disk_bytes=500 * GB, free_bytes=410 * GB, took=took),
                    dead,
                ),
                drift=Drift(("start fleet.acme.amd-3", "wait until amd-3 is ready"), (f"stopped: {gone.detail}",)),
            ),
            "arm-1": sighting(up(spec, "arm-1", builds=4, disk=0.37, cache=40 * GB)),
            "arm-2": sighting(up(spec, "arm-2", disk=0.2, notes={notes.DRAIN: drained}, certificate=certificate(21))),
        },
    )


def through_gateways() -> Snapshot:
    """The same day, with builds that come through gateways, of which one has died."""
    whole = day()
    dead = f"{Stage.CONTAINER}: fleet.acme.gateway: Exited (137) 4 minutes ago"
    owns = platforms("linux/amd64", "linux/386"), platforms("linux/arm64", "linux/arm/v7")
    return replace(
        whole,
        nodes=tuple(replace(node, owns=()) for node in whole.nodes),
        gates=(
            GateHealth("amd-1", "amd64", "tcp://amd-1.example:1250", owns[0], Health.READY),
            GateHealth("amd-1", "arm64", "tcp://amd-1.example:1251", owns[1], Health.READY),
            GateHealth("amd-2", "amd64", "tcp://amd-2.example:1250", (), Health.DOWN, dead, "fleet up"),
            GateHealth("amd-2", "arm64", "tcp://amd-2.example:1251", (), Health.DOWN, dead, "fleet up"),
        ),
    )


def many(count: int) -> tuple[FleetSpec, Snapshot]:
    """So many nodes, a tenth of them down."""
    names = [f"{'arm' if at % 3 == 0 else 'amd'}-{at}" for at in range(1, count + 1)]
    spec = fleet(*(host(name) for name in names))
    dead = Down(Stage.TCP, "no answer within 3.0 s", "is the host up?")
    return spec, taken(
        spec,
        {
            name: sighting(
                NodeFacts(Down(Stage.SSH, "no route to host"), dead) if at % 10 == 9 else up(spec, name, builds=at % 5),
                drift=None if at % 10 == 9 else Drift(),
            )
            for at, name in enumerate(names)
        },
    )


@dataclass(slots=True)
class Canned:
    """Shows what it is given, one Snapshot after the other, and remembers what it was asked."""

    snapshots_to_show: Sequence[Snapshot]
    hurried: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)

    def snapshots(self) -> Iterator[Snapshot]:
        yield from self.snapshots_to_show
        self.stopped.wait(60)

    def hurry(self) -> None:
        self.hurried += 1

    def stop(self) -> None:
        self.stopped.set()

    @contextmanager
    def open(self) -> Iterator[Canned]:
        yield self
