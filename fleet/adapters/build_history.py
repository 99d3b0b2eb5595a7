"""BuildKit's history on the wire: the builds in it, and fleet's notes, which are kept there as well.

Field numbers: control.proto of moby/buildkit v0.32.2, stable since v0.11.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from fleet import notes as fleet_notes
from fleet.adapters.wire import Fields, encoded, fields, messages, number, text
from fleet.builds import (
    BuildRecord,
    Outcome,
    Step,
    Steps,
    StepState,
    Written,
    concealing,
    name_of,
    one_line,
    platforms_of,
    written_line,
)
from fleet.logs import Line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

NOTE = "fleet."
"""With what the refs of notes begin: notes are records of builds that build nothing."""

# BuildHistoryRequest{ActiveOnly = 1, Ref = 2, EarlyExit = 3, Filter = 4}; without EarlyExit the stream goes on.
ACTIVE = encoded((1, True), (3, True))
"""One event a running build, then the end."""

NOTES = encoded((3, True), (4, "ref~=^fleet[.]"))
"""The notes alone."""

ALL = encoded((3, True))
"""Running builds, and all that the history still has."""

FEED = encoded()
"""The same, and then whatever begins and ends."""

_CANCELED = 1
"""google.rpc.Code."""

_CANCELED_STEP = "context canceled"
"""How the error of a step ends that was broken off: BuildKit says it in no other way, and buildx looks for the same."""

_DELETED = 2
"""BuildHistoryEventType."""


@dataclass(frozen=True, slots=True)
class Note:
    """A note, and the ref of the record that holds it."""

    ref: str
    key: str
    text: str


def only(ref: str, *, follow: bool = False) -> bytes:
    """Asks for the one build of that ref, if the history has it; `follow`: and then for its end."""
    return encoded((2, ref), (3, not follow))


def notes(events: Iterable[bytes]) -> list[Note]:
    """Notes in the order in which they were left; raises ValueError for what is no event."""
    dated = []
    for event in events:
        for record in messages(fields(event), 2):
            created = next(iter(messages(record, 6)), {})
            for key, content in _map(record, 3).items():
                note = Note(text(record, 1), key, content)
                if note.ref.startswith(f"{NOTE}{note.key}."):
                    dated.append(((number(created, 1), number(created, 2)), note))
    return [note for _, note in sorted(dated, key=lambda pair: pair[0])]


def in_force(events: Iterable[bytes]) -> dict[str, str]:
    """Key -> text of its newest note; an empty one takes away what is older. Raises ValueError as above."""
    newest = {note.key: note.text for note in notes(events)}
    return {key: content for key, content in newest.items() if content}


def about_drain(event: bytes) -> bool:
    """Whether somebody has drained the node or resumed it, now or long ago; raises ValueError as above."""
    drained = f"{NOTE}{fleet_notes.DRAIN}."
    return any(text(record, 1).startswith(drained) for record in messages(fields(event), 2))


def records(node: str, events: Iterable[bytes]) -> Iterator[BuildRecord]:
    """Each event's build, without notes and what was removed; raises ValueError for what is no event."""
    for event in events:
        found = fields(event)
        for record in messages(found, 2):
            if number(found, 1) != _DELETED and not text(record, 1).startswith(NOTE):
                yield _record(node, record)


def concealer(events: Iterable[bytes]) -> Callable[[str], str]:
    """What keeps out of a text what was given to the builds of these events; raises ValueError as above."""
    attributes: dict[str, str] = {}
    for event in events:
        for record in messages(fields(event), 2):
            attributes |= _map(record, 3)
    return concealing(attributes)


def _record(node: str, record: Fields) -> BuildRecord:
    """BuildHistoryRecord{Ref = 1, FrontendAttrs = 3, Exporters = 4{Attrs = 2}, error = 5, Result = 10, …}."""
    attributes = _map(record, 3)
    images = [_map(exporter, 2).get("name", "") for exporter in messages(record, 4)]
    completed = _moment(record, 7)
    error = next(iter(messages(record, 5)), None)
    return BuildRecord(
        node=node,
        ref=text(record, 1),
        created=_moment(record, 6) or datetime.fromtimestamp(0, UTC),
        completed=completed,
        outcome=_outcome(error) if completed else Outcome.RUNNING,
        reason=one_line(text(error, 2), concealing(attributes)) if error else None,
        name=name_of(attributes, images),
        platforms=platforms_of(attributes),
        steps=Steps(number(record, 17), number(record, 16), number(record, 15)) if completed else None,
        digest=next(_digests(record), None),
    )


def _digests(record: Fields) -> Iterator[str]:
    """Of what each exporter made: Result = 10{Results = 3, a map to Descriptor{digest = 2}}."""
    for result in messages(record, 10):
        for entry in messages(result, 3):
            yield from (text(made, 2) for made in messages(entry, 2))


def _outcome(error: Fields | None) -> Outcome:
    if error is None:
        return Outcome.DONE
    return Outcome.CANCELED if number(error, 1) == _CANCELED else Outcome.FAILED


def _map(message: Fields, field: int) -> dict[str, str]:
    return {text(entry, 1): text(entry, 2) for entry in messages(message, field)}


def _moment(message: Fields, field: int) -> datetime | None:
    stamp = next(iter(messages(message, field)), None)
    if stamp is None:
        return None
    return datetime.fromtimestamp(number(stamp, 1), UTC) + timedelta(microseconds=number(stamp, 2) // 1000)


def status_request(ref: str) -> bytes:
    """For the stream of what a build does or has done: StatusRequest{Ref = 1}."""
    return encoded((1, ref))


class Status:
    """The status stream of one build, message by message, as steps and what they write."""

    def __init__(self, conceal: Callable[[str], str]) -> None:
        self._conceal = conceal
        self._steps: dict[str, Step] = {}
        self._begun: dict[tuple[str, int], tuple[datetime, bytes]] = {}
        """What has been written of a line, by step and stream."""

    def read(self, message: bytes) -> Iterator[Step | Written]:
        """What a StatusResponse{vertexes = 1, logs = 3} has that is new, each step's end after what it wrote.

        Raises ValueError for what is none.
        """
        found = fields(message)
        logs = messages(found, 3)
        writing, over = {text(log, 1) for log in logs}, dict[str, Step]()
        for vertex in messages(found, 1):
            step = self._step(vertex)
            before = self._steps.get(step.key)
            if before == step:
                continue
            self._steps[step.key] = step
            over.pop(step.key, None)
            if not step.state.over:
                yield step
                continue
            over[step.key] = step
            if step.key in writing and (before is None or not before.began):
                yield replace(step, state=StepState.RUNNING, ended=None, reason=None)
        for log in logs:
            yield from self._lines(log)
        yield from self.rest(over)
        yield from over.values()

    def rest(self, steps: Iterable[str] | None = None) -> Iterator[Written]:
        """Lines that were begun by these steps and not ended; None: by all."""
        wanted = None if steps is None else set(steps)
        for step, stream in [one for one in self._begun if wanted is None or one[0] in wanted]:
            yield self._written(step, *self._begun.pop((step, stream)))

    def _step(self, vertex: Fields) -> Step:
        """Vertex{digest = 1, name = 3, cached = 4, started = 5, completed = 6, error = 7}."""
        began, ended, error = _moment(vertex, 5), _moment(vertex, 6), text(vertex, 7)
        state = StepState.RUNNING if began else StepState.WAITING
        if error:
            state = StepState.CANCELED if error.endswith(_CANCELED_STEP) else StepState.FAILED
        elif number(vertex, 4):
            state = StepState.CACHED
        elif ended:
            state = StepState.DONE
        reason = one_line(error, self._conceal) if state is StepState.FAILED else None
        return Step(text(vertex, 1), one_line(text(vertex, 3), self._conceal), state, began, ended, reason)

    def _lines(self, log: Fields) -> Iterator[Written]:
        """VertexLog{vertex = 1, timestamp = 2, stream = 3, msg = 4}: a piece of what is written, of any length."""
        at = _moment(log, 2) or datetime.fromtimestamp(0, UTC)
        place = text(log, 1), number(log, 3)
        since, before = self._begun.pop(place, (at, b""))
        *whole, rest = (before + b"".join(one for one in log.get(4, ()) if isinstance(one, bytes))).split(b"\n")
        for line in whole:
            yield self._written(place[0], since, line)
            since = at
        if rest:
            # A bar that is drawn over and over is one line, and only its last form is of use.
            self._begun[place] = since, rest[rest.rfind(b"\r", 0, -1) + 1 :]

    def _written(self, step: str, at: datetime, line: bytes) -> Written:
        return Written(step, Line(at, written_line(self._conceal(line.decode(errors="replace")))))
