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
from fleet.planning.failover import registered

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path
    from types import FrameType

    from fleet.applying.follow import Change
    from fleet.model.spec import FleetSpec

AGAIN = 1.0
"""Seconds until an inventory that could not be followed is tried again."""


def watch(inventory: Path, *, as_json: bool) -> int:
    """Until ctrl-C or SIGTERM, which is its regular end."""
    begun, troubles = False, _Troubles()
    with _Ending() as ending:
        try:
            while True:
                try:
                    # Its state first: what is saved while it is read is another one.
                    described, spec = _state(inventory), load_any(inventory)
                    with _followed(spec):
                        if not begun:
                            click.echo(f"the builder {spec.name} follows the fleet; ctrl-C ends it", err=True)
                        for change in _changes(inventory, described, spec, ending, troubles):
                            click.echo(json.dumps(change_json(change)) if as_json else _line(change))
                    begun = True
                except FleetError as error:
                    # Until there is a fleet again, nothing is known to be wanted.
                    if not begun:
                        raise
                    troubles.tell(str(inventory), [Down(Stage.BUILDER, error.message, error.remedy)])
                    time.sleep(AGAIN)
        except KeyboardInterrupt:
            return 0


def _followed(spec: FleetSpec) -> AbstractContextManager[None]:
    """Within this context nobody else follows it from here; raises Held and VaultError."""
    from fleet.adapters import lock

    return lock.followed(entitled(spec).directory)


def _changes(
    inventory: Path, described: tuple[int, ...] | None, spec: FleetSpec, ending: _Ending, troubles: _Troubles
) -> Iterator[Change]:
    """Each change that is made, until the inventory is another one than was `described`."""
    from fleet.applying.follow import Follower, to_be_watched
    from fleet.observing.watch import Watch

    world = world_of(spec, keep=True)
    follower = Follower(spec, world, may_go_on=ending.check)
    with Watch(to_be_watched(spec), world) as watched:
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
    """SIGINT and SIGTERM end what is waited for, and a change between two of its steps; the second ends it at once."""

    def __init__(self) -> None:
        self._asked = self._busy = False

    def __enter__(self) -> Self:
        self._before = {one: signal.signal(one, self._ask) for one in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for one, before in self._before.items():
            signal.signal(one, before)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True
        for one in self._before:
            signal.signal(one, signal.SIG_DFL)
        if not self._busy:
            raise KeyboardInterrupt

    def check(self) -> None:
        """End here what is to end."""
        if self._asked:
            raise KeyboardInterrupt

    @contextmanager
    def put_off(self) -> Iterator[None]:
        """Within this context nothing is ended but by `check`."""
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
        self.check()


def _line(change: Change) -> str:
    done = "; ".join(map(str, change.moves)) or "; ".join(change.steps)
    why = f" ({'; '.join(change.why)})" if change.why else ""
    return f"{change.at:%Y-%m-%d %H:%M:%S} UTC {done}{why}"


def change_json(change: Change) -> dict[str, Any]:
    """The shape that docs/commands.md gives."""
    return {
        "at": change.at.isoformat(timespec="seconds"),
        "moves": [
            {
                "platforms": list(map(str, move.platforms)),
                "from": move.origin and registered(move.origin),
                "to": move.owner and registered(move.owner),
            }
            for move in change.moves
        ],
        "why": list(change.why),
        "steps": list(change.steps),
    }
