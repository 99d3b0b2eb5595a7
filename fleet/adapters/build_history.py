"""BuildKit's history on the wire: the builds in it, and fleet's notes, which are kept there as well.

Field numbers: control.proto of moby/buildkit v0.32.2, stable since v0.11.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from fleet.adapters.wire import Fields, encoded, fields, messages, number, text
from fleet.builds import BuildRecord, Outcome, Steps, name_of, platforms_of, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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

_DELETED = 2
"""BuildHistoryEventType."""


@dataclass(frozen=True, slots=True)
class Note:
    """A note, and the ref of the record that holds it."""

    ref: str
    key: str
    text: str


def only(ref: str) -> bytes:
    """Asks for the one build of that ref, if the history has it."""
    return encoded((2, ref), (3, True))


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


def records(node: str, events: Iterable[bytes]) -> Iterator[BuildRecord]:
    """Each event's build, without notes and what was removed; raises ValueError for what is no event."""
    for event in events:
        found = fields(event)
        for record in messages(found, 2):
            if number(found, 1) != _DELETED and not text(record, 1).startswith(NOTE):
                yield _record(node, record)


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
        reason=reason_of(text(error, 2)) if error else None,
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
    """For the stream of what a running build does: StatusRequest{Ref = 1}."""
    return encoded((1, ref))


class Progress:
    """A running build's steps, summed up from its status stream."""

    def __init__(self) -> None:
        self._done: set[str] = set()
        self._cached: set[str] = set()
        self._seen: set[str] = set()

    def add(self, status: bytes) -> None:
        """One StatusResponse{vertexes = 1{digest = 1, cached = 4, completed = 6}}; raises ValueError."""
        for vertex in messages(fields(status), 1):
            digest = text(vertex, 1)
            self._seen.add(digest)
            if 6 in vertex:
                self._done.add(digest)
            if number(vertex, 4):
                self._cached.add(digest)

    @property
    def steps(self) -> Steps | None:
        """So far; None: nothing is known yet."""
        return Steps(len(self._done), len(self._seen), len(self._cached)) if self._seen else None
