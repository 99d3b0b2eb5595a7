"""`fleet watch`: this machine's builder follows the fleet, until it is told to end."""

from __future__ import annotations

import json
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import click

from fleet.cli import output
from fleet.cli.world import entitled, load_any, world_of
from fleet.errors import FleetError
from fleet.model.facts import Down, Stage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from types import FrameType

    from fleet.applying.follow import Change
    from fleet.model.spec import FleetSpec

AGAIN = 1.0
"""Seconds until an inventory that could not be read is tried again."""


def watch(inventory: Path, *, as_json: bool) -> int:
    """Until ctrl-C or SIGTERM, which is its regular end."""
    spec, troubles = load_any(inventory), _Troubles()
    click.echo(f"the builder {spec.name} follows the fleet; ctrl-C ends it", err=True)
    with _Ending() as ending:
        try:
            while True:
                for change in _changes(inventory, spec, ending, troubles):
                    click.echo(json.dumps(change_json(change)) if as_json else _line(change))
                spec = _loaded(inventory, troubles)
        except KeyboardInterrupt:
            return 0


def _changes(inventory: Path, spec: FleetSpec, ending: _Ending, troubles: _Troubles) -> Iterator[Change]:
    """Each change that is made, until the inventory is another one."""
    from fleet.adapters import lock
    from fleet.applying.follow import Follower, to_be_watched
    from fleet.observing.watch import Watch

    described, world = _state(inventory), world_of(spec, keep=True)
    follower = Follower(spec, world)
    with lock.followed(entitled(spec).directory), Watch(to_be_watched(spec), world) as watched:
        for taken in watched.snapshots():
            if _state(inventory) != described:
                return
            with ending.put_off():
                change = follower.look(watched.facts())
            if change:
                yield change
            troubles.tell(spec.name, (*taken.problems, *filter(None, [follower.trouble])))


def _state(inventory: Path) -> tuple[int, ...] | None:
    """Another one after each change of the file."""
    try:
        found = inventory.stat()
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def _loaded(inventory: Path, troubles: _Troubles) -> FleetSpec:
    """The fleet, as soon as its description can be read: until then nothing is known to be wanted."""
    while True:
        try:
            return load_any(inventory)
        except FleetError as error:
            troubles.tell(str(inventory), [Down(Stage.BUILDER, error.message, error.remedy)])
        time.sleep(AGAIN)


class _Troubles:
    """Tells each on stderr when it begins."""

    def __init__(self) -> None:
        self._told: frozenset[Down] = frozenset()

    def tell(self, name: str, troubles: Iterable[Down]) -> None:
        """All that there are now."""
        found = dict.fromkeys(troubles)
        for trouble in found:
            if trouble not in self._told:
                output.complain(name, trouble)
        self._told = frozenset(found)


class _Ending:
    """SIGINT and SIGTERM end what is waited for, and nothing that has begun to change something."""

    def __init__(self) -> None:
        self._asked = self._busy = False

    def __enter__(self) -> Self:
        self._before = {one: signal.signal(one, self._ask) for one in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for one, before in self._before.items():
            signal.signal(one, before)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        first, self._asked = not self._asked, True
        if first and not self._busy:
            raise KeyboardInterrupt

    @contextmanager
    def put_off(self) -> Iterator[None]:
        """Within this context nothing is ended."""
        self._busy = True
        yield
        self._busy = False
        if self._asked:
            raise KeyboardInterrupt


def _line(change: Change) -> str:
    done = "; ".join(map(str, change.moves)) or "; ".join(change.steps)
    why = f" ({'; '.join(change.why)})" if change.why else ""
    return f"{change.at:%Y-%m-%d %H:%M:%S} UTC {done}{why}"


def change_json(change: Change) -> dict[str, Any]:
    """The shape that docs/commands.md gives."""
    return {
        "at": change.at.isoformat(timespec="seconds"),
        "moves": [
            {"platforms": list(map(str, move.platforms)), "from": move.origin, "to": move.owner}
            for move in change.moves
        ],
        "why": list(change.why),
        "steps": list(change.steps),
    }
