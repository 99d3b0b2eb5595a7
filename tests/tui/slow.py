"""A dashboard, or with --web what serves it, whose `drain` ends when FOLDER/go is there: `-m tests.tui.slow FOLDER`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fleet.applying.report import Event
from fleet.cli.tui import show
from tests.support.canned import SMALL, Canned, day
from tests.support.values import NOW
from tui.outside import Outside

ROOT = Path(__file__).parents[2]


def argv(folder: Path, *options: str) -> list[str]:
    """What runs it, in ROOT."""
    return [sys.executable, "-m", "tests.tui.slow", str(folder), *options]


def dashboard(folder: Path) -> int:
    def drain(nodes: Sequence[str], tell: Callable[[Event], None]) -> Sequence[str]:
        (folder / "begun").touch()
        while not (folder / "go").exists():
            tell(Event(nodes[0], "drain it"))
            time.sleep(0.01)
        tell(Event(nodes[0], "done", "done"))
        (folder / "ended").touch()
        return ["done"]

    return show(Outside(SMALL, Canned([day()]).open, lambda: NOW, deeds={"drain": drain}))


def served(folder: Path) -> None:
    from fleet.cli import web

    web.PATIENCE = 0.2
    listening = web._listen("127.0.0.1", 0)
    gate = web.Gate(argv(folder), title="acme", address="127.0.0.1", changes=True)
    sys.stdout.write(f"http://127.0.0.1:{listening.getsockname()[1]}/{gate.token}/\n")
    sys.stdout.flush()
    gate.run(listening)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    if "--web" in sys.argv:
        served(folder)
    else:
        sys.exit(dashboard(folder))
