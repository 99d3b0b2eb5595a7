"""`make picture`: the fleet screen of an invented afternoon, as README shows it."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace

from fleet.model.snapshot import Snapshot
from tests.support.canned import day
from tests.tui.driving import driving

BUILDS = {
    "amd-1": (1, 2, 2, 3, 4, 4, 2, 1, 2, 3),
    "amd-2": (0, 0, 1, 1, 2, 3, 3, 2, 1, 1),
    "arm-1": (2, 2, 3, 4, 4, 3, 2, 3, 4, 4),
    "arm-2": (1, 1, 1, 2, 1, 1, 0, 0, 0, 0),
}


def afternoon() -> list[Snapshot]:
    """The same day over and over, with other builds under way."""
    last = day()
    taken = []
    for at in range(10):
        nodes = [
            replace(node, active_builds=BUILDS[node.name][at]) if node.name in BUILDS else node for node in last.nodes
        ]
        taken.append(replace(last, nodes=tuple(nodes)))
    return taken


async def picture() -> str:
    """As SVG."""
    async with driving(*afternoon(), size=(136, 20)) as hand:
        await hand.press("j", "j")
        return hand.app.export_screenshot(title="fleet tui")


if __name__ == "__main__":
    os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
    sys.stdout.write(asyncio.run(picture()))
