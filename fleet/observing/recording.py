"""Snapshots in a file, for later: JSON lines, compressed, one that is broken off is good up to there.

Nothing of the way to hosts and keys is kept: a recording is made to be shown.
"""

from __future__ import annotations

import gzip
import threading
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Self, TypeVar

from fleet.errors import UsageError
from fleet.model.facts import HostFacts
from fleet.model.snapshot import Snapshot
from fleet.model.spec import FleetSpec, HostSpec, SshSpec, TlsSpec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydantic import TypeAdapter

    from fleet.model.snapshot import Sighting

T = TypeVar("T")

LONGEST = 1 << 26
"""Bytes of a line, which is one Snapshot: some kilobytes a node."""

FASTEST = 64.0

LONGEST_PAUSE = 10.0
"""Seconds that a replay waits at most: nobody wants to watch a night in which nothing was recorded."""


class Recorder:
    """Writes Snapshots as they come; each can be read once it is written."""

    def __init__(self, path: Path, spec: FleetSpec) -> None:
        """Raises UsageError when there is such a file already, or none can be written."""
        try:
            self._file = gzip.open(path, "xb")  # noqa: SIM115 - it is open until the context ends
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}", "name another file") from error
        self._write(_adapter(FleetSpec), _public_spec(spec))
        self._adapter = _adapter(Snapshot)

    def write(self, snapshot: Snapshot) -> None:
        """Add one; raises OSError."""
        self._write(self._adapter, _public(snapshot))

    def _write(self, adapter: TypeAdapter[T], value: T) -> None:
        self._file.write(adapter.dump_json(value) + b"\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@dataclass(frozen=True, slots=True)
class Recording:
    """A file that was recorded."""

    path: Path
    spec: FleetSpec

    @classmethod
    def open(cls, path: Path) -> Recording:
        """Read whose fleet it is; raises UsageError."""
        try:
            first = next(_lines(path), None)
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror or error}") from error
        if first is None:
            raise _not_a_recording(path)
        return cls(path, _parsed(path, _adapter(FleetSpec), first))

    def snapshots(self) -> Iterator[Snapshot]:
        """All that there are, in order; raises UsageError for what is none."""
        adapter = _adapter(Snapshot)
        lines = _lines(self.path)
        next(lines)
        for line in lines:
            yield _parsed(self.path, adapter, line)


class Replay:
    """A recording at the speed at which it was made, or another; one step at a time when it is paused."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._changed = threading.Condition()
        self._stopped = self._step = self.paused = False
        self.speed = 1.0
        self.ended = False
        self.now: datetime | None = None
        """The moment of the recording that is shown; None: none yet."""

    def snapshots(self) -> Iterator[Snapshot]:
        """One after the other, each in its time; after the last one blocks until `stop`."""
        for snapshot in self._recording.snapshots():
            if self.now and not self._wait((snapshot.taken - self.now).total_seconds()):
                return
            self.now = snapshot.taken
            yield snapshot
        self.ended = True
        with self._changed:
            self._changed.wait_for(lambda: self._stopped)

    def _wait(self, seconds: float) -> bool:
        """Until the next one is due; False: it is to end."""
        with self._changed:
            left = min(max(seconds, 0.0), LONGEST_PAUSE)
            while left > 0 and not self._stopped and not self._step:
                if self.paused:
                    self._changed.wait()
                else:
                    # In small parts, so that another speed counts at once.
                    part = min(left, 0.1 * self.speed)
                    self._changed.wait(part / self.speed)
                    left -= part
            self._step = False
            return not self._stopped

    def hurry(self) -> None:
        """What is past cannot be asked anew."""

    def stop(self) -> None:
        """Let `snapshots` end."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def pause(self) -> None:
        """Hold it, or go on."""
        with self._changed:
            self.paused = not self.paused
            self._changed.notify_all()

    def step(self) -> None:
        """Hold it, and show the next one."""
        with self._changed:
            self.paused = self._step = True
            self._changed.notify_all()

    def faster(self, factor: float) -> None:
        """So many times as fast as before, within limits."""
        with self._changed:
            self.speed = min(max(self.speed * factor, 1 / FASTEST), FASTEST)
            self._changed.notify_all()

    @property
    def sign(self) -> str:
        """How it stands, in words."""
        state = "the end" if self.ended else "paused" if self.paused else f"{self.speed:g}×"
        return f"REPLAY {state}" + (f" {self.now:%Y-%m-%d %H:%M:%S} UTC" if self.now else "")


def _adapter(kind: type[T]) -> TypeAdapter[T]:
    from pydantic import TypeAdapter

    from fleet.model import facts, health, platforms, spec, vault
    from fleet.model import snapshot as snapshots

    adapter = TypeAdapter(kind)
    # The names that the model has for type checkers alone.
    names: dict[str, Any] = {"Mapping": Mapping, "datetime": datetime, "timedelta": timedelta}
    for module in (platforms, spec, facts, vault, health, snapshots):
        names |= vars(module)
    adapter.rebuild(_types_namespace=names)
    return adapter


def _lines(path: Path) -> Iterator[bytes]:
    with gzip.open(path, "rb") as file:
        try:
            while line := file.readline(LONGEST):
                yield line
        except (EOFError, zlib.error):
            return  # whoever recorded it was broken off


def _parsed(path: Path, adapter: TypeAdapter[T], line: bytes) -> T:
    from pydantic import ValidationError

    try:
        return adapter.validate_json(line)
    except ValidationError as error:
        raise _not_a_recording(path) from error


def _not_a_recording(path: Path) -> UsageError:
    return UsageError(f"{path} is not a recording", "make one with fleet tui --record FILE")


def _public_spec(spec: FleetSpec) -> FleetSpec:
    hosts = tuple(
        HostSpec(host.name, host.address, host.port, host.connection, SshSpec(), host.platforms) for host in spec.hosts
    )
    tls = TlsSpec(renew_days=spec.tls.renew_days)
    return replace(spec, hosts=hosts, tls=tls, buildkit=replace(spec.buildkit, config={}))


def _public(snapshot: Snapshot) -> Snapshot:
    nodes = tuple(replace(node, options={}) for node in snapshot.builder.nodes)
    return replace(
        snapshot,
        builder=replace(snapshot.builder, nodes=nodes),
        sightings={name: _public_sighting(seen) for name, seen in snapshot.sightings.items()},
        vault=snapshot.vault and replace(snapshot.vault, driver_options={}),
    )


def _public_sighting(seen: Sighting) -> Sighting:
    host = seen.facts.host
    if not isinstance(host, HostFacts):
        return seen
    daemons = tuple(replace(daemon, settings={}) for daemon in host.daemons)
    return replace(seen, facts=replace(seen.facts, host=replace(host, daemons=daemons)))
