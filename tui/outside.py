"""What the dashboard needs of the world; the command line hands it in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime

    from fleet.applying.history import Entry
    from fleet.applying.report import Event
    from fleet.builds import BuildRecord, Step, Written
    from fleet.logs import Line
    from fleet.model.facts import Down
    from fleet.model.snapshot import Snapshot
    from fleet.model.spec import FleetSpec
    from fleet.parallel import Stop


class Watching(Protocol):
    """A fleet that is looked at, as `fleet.observing.watch.Watch`."""

    def snapshots(self) -> Iterator[Snapshot]:
        """One at once, then whenever there is something new; blocks, and ends after `stop`."""
        ...

    def hurry(self) -> None:
        """Look now."""
        ...

    def stop(self) -> None:
        """Let `snapshots` end; called from another thread."""
        ...


class Player(Protocol):
    """A recording that is shown, as `fleet.observing.recording.Replay`."""

    def pause(self) -> None:
        """Hold it, or go on."""
        ...

    def step(self) -> None:
        """Hold it, and show the next Snapshot."""
        ...

    def faster(self, factor: float) -> None:
        """So many times as fast as before."""
        ...


class Deed(Protocol):
    """Something that changes nodes; runs in a thread of its own."""

    def __call__(self, nodes: Sequence[str], tell: Callable[[Event], None]) -> Sequence[str]:
        """Do it for these nodes; what is to be said of it in the end. Raises FleetError."""
        ...


@dataclass(frozen=True, slots=True)
class Outside:
    """Everything outside. What is absent cannot be done here: the dashboard then has no key for it."""

    spec: FleetSpec
    watch: Callable[[], AbstractContextManager[Watching]]
    """Called in the thread that reads it, after the first screen has been drawn."""
    now: Callable[[], datetime]
    deeds: Mapping[str, Deed] = field(default_factory=dict)
    """By the words of `tui.commands.DEEDS`."""
    logs: Callable[[Sequence[str], Stop], Iterator[tuple[str, Line | Down | None]]] | None = None
    """Lines of these nodes' daemons as they come, until it is to stop; Down or None: that node's log has ended."""
    builds: Callable[[Sequence[str], Stop], Iterator[tuple[str, BuildRecord | Down | None]]] | None = None
    """What is and was built on these nodes, as it happens: see `fleet.observing.building.follow`."""
    build: Callable[[str, str, Stop], Iterator[BuildRecord | Step | Written]] | None = None
    """One build, by its node and ref, step by step, to its end: see `Prober.build`. Raises FleetError."""
    history: Callable[[str], Sequence[Entry]] | None = None
    """What was done on a node's host. Raises FleetError."""
    sign: Callable[[], str] = str
    """What is to be seen on top at all times: that it is a recording, or that one is made."""
    player: Player | None = None
    """Of a recording."""
    shell: Callable[[str], Sequence[str]] | None = None
    """The argv of a login on a node's host."""
