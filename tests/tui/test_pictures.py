"""Pictures of each screen and each state; `pytest --snapshot-update` takes them anew: then they are to be looked at."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode

from fleet.model.facts import Down, NodeFacts, Stage
from fleet.model.snapshot import Sighting, Snapshot
from fleet.model.spec import FleetSpec
from tests.support.canned import SMALL, day, many, sighting, taken, through_gateways, up
from tests.tui.driving import driving


class Picture(SingleFileSnapshotExtension):
    """An SVG file each."""

    _write_mode = WriteMode.TEXT
    file_extension = "svg"


@dataclass(frozen=True, slots=True)
class Shot:
    """What is on the screen, and how one comes there."""

    snapshots: Sequence[Snapshot]
    keys: Sequence[str] = ()
    """What begins with an ellipsis is no key: it is waited for."""
    waits_for: str = ""
    spec: FleetSpec = SMALL
    given: dict[str, Any] = field(default_factory=dict)


DEAD = Down(Stage.TCP, "no answer within 3.0 s", "is the host up, and port 1234 open in its firewall?")
GONE = Down(Stage.SSH, "no route to host", "ssh it by hand")
ALL_DOWN = taken(SMALL, {one.name: sighting(NodeFacts(GONE, DEAD), drift=None) for one in SMALL.hosts})
UNKNOWN = taken(
    SMALL, {one.name: sighting(NodeFacts(None, replace(DEAD, late=True)), drift=None) for one in SMALL.hosts}
)
STALE = taken(
    SMALL,
    {
        one.name: sighting(up(SMALL, one.name, builds=2), ago=timedelta(seconds=1 if one.name == "amd-1" else 75))
        for one in SMALL.hosts
    },
)
PARTIAL = taken(SMALL, {**day().sightings, "arm-1": Sighting(NodeFacts()), "arm-2": Sighting(NodeFacts())})
EMPTY = replace(SMALL, hosts=())

SHOTS = {
    "fleet": Shot([day()], ["j", "j"]),
    "marked": Shot([day()], ["space", "j", "space", "right", "right"]),
    "filtered": Shot([day()], ["slash", "a", "r", "m"]),
    "loading": Shot([]),
    "empty": Shot([taken(EMPTY, {})], spec=EMPTY),
    "partial": Shot([PARTIAL]),
    "down": Shot([ALL_DOWN]),
    "unknown": Shot([UNKNOWN]),
    "stale": Shot([STALE], ["j"]),
    "read-only": Shot([day()], given={"read_only": True}),
    "thousand": Shot([many(1000)[1]], ["pagedown", "pagedown"], spec=many(1000)[0]),
    "light": Shot([day()], ["t"]),
    "sixteen-colours": Shot([day()], ["t", "t", "j", "space"]),
    "command": Shot([day()], ["colon", "d", "r"]),
    "keys": Shot([day()], ["question_mark"]),
    "question": Shot([day()], ["d"]),
    "ran": Shot([day()], ["d", "y"], "drain done"),
    "node": Shot([day()], ["j", "j", "enter"], given={"history": None}),
    "node-ready": Shot([day()], ["enter"], given={"history": None}),
    "builds": Shot([day()], ["b"], "arm-2"),
    "build": Shot([day()], ["b", "…arm-2", "enter"], "go test"),
    "build-failed": Shot([day()], ["b", "…arm-2", "G", "enter"], "make: *** Error 2"),
    "build-log": Shot([day()], ["b", "…arm-2", "enter", "…go test", "l"], "pay 1.020s"),
    "routes": Shot([day()], ["o"]),
    "gateway": Shot([through_gateways()], ["o"]),
    "gateway-node": Shot([through_gateways()], ["j", "enter", "G"], given={"history": None}),
    "certificates": Shot([day()], ["c"]),
    "plan": Shot([day()], [*("colon", "p", "l", "a", "n", "enter")]),
    "logs": Shot([day()], ["space", "space", "l"], "connection was lost"),
    "logs-searched": Shot(
        [day()], ["colon", *"logs", "enter", "…connection was lost", "slash", *"msg=arm", "enter", "n", "n"]
    ),
    "logs-filtered": Shot([day()], ["colon", *"logs", "enter", "…was lost", "w", "ampersand", *"!amd", "enter"]),
}
SIZES = {"80x24": (80, 24), "120x40": (120, 40)}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("shot", SHOTS.values(), ids=SHOTS)
def test_picture(shot: Shot, size: tuple[int, int], snapshot: SnapshotAssertion) -> None:
    async def take() -> str:
        async with driving(*shot.snapshots, size=size, spec=shot.spec, **shot.given) as hand:
            for key in (*shot.keys, f"…{shot.waits_for}"):
                await (hand.shows(key[1:]) if key.startswith("…") else hand.press(key))
            await hand.pilot.pause()
            # Rich derives its names from a checksum that is not the same in all of its versions.
            return re.sub(r"terminal-\d+", "terminal", hand.app.export_screenshot())

    assert asyncio.run(take()) == snapshot(extension_class=Picture)
