"""Who changed what on a host: an entry a run, in a file there; and the questions that read and write it.

A run writes a line as it begins and another as it ends; where there is only the first one, it was killed.
The file is the login user's, ~/.local/state/fleet/FLEET.jsonl; `fleet.applying.record` asks the hosts.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fleet.applying.report import Result

if TYPE_CHECKING:
    from collections.abc import Iterable

KEPT = 2000
"""Lines of a file, two a run; the oldest go."""

LONGEST = 4000
"""Bytes of a line: a shell writes so much at once."""

_WORDS = 200
"""Characters of a text."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What one run did, or tried to do, on one host."""

    node: str
    at: datetime
    """When it began there, by the operator's clock (UTC)."""
    by: str
    """USER@MACHINE."""
    command: str
    """As it is typed after `fleet`."""
    actions: tuple[str, ...]
    """Those that were begun, in order; of an unfinished run, those that it was to take."""
    result: Result
    where: str = ""
    """The action at which it failed, or before which it stopped."""
    version: str = ""
    """Of fleet."""

    @property
    def outcome(self) -> str:
        """How it ended, in words."""
        if self.result is Result.UNFINISHED:
            return "did not finish, unless it is still at work"
        if not self.where:
            return str(self.result)
        return f"{self.result} {'before' if self.result is Result.STOPPED else 'at'}: {self.where}"

    @property
    def run(self) -> tuple[str, datetime, str, str]:
        """What a run's two lines have in common."""
        return self.node, self.at, self.by, self.command

    def line(self) -> str:
        """As it is kept; of what would be too long, the last actions are left out."""
        brief = replace(self, actions=tuple(action[:_WORDS] for action in self.actions), where=self.where[:_WORDS])
        while len(text := json.dumps(asdict(brief) | {"at": brief.at.isoformat()})) > LONGEST and brief.actions:
            brief = replace(brief, actions=brief.actions[:-1])
        return text


@dataclass(frozen=True, slots=True)
class History:
    """The entries of a host as they were written, and how many lines are none."""

    entries: tuple[Entry, ...] = ()
    unreadable: int = 0


def parse(text: str) -> History:
    """The entries in what a file holds, which may be torn, or written by anybody with that login.

    The end of a run takes the place of its beginning.
    """
    from pydantic import TypeAdapter, ValidationError

    kept, entries, unreadable = TypeAdapter(Entry), [], 0
    for line in filter(None, text.split("\n")):
        try:
            if len(line) > LONGEST:
                raise ValueError
            entries.append(_harmless(kept.validate_json(line)))
        except (ValidationError, ValueError, OverflowError):
            unreadable += 1
    ended = {entry.run for entry in entries if entry.result is not Result.UNFINISHED}
    return History(
        tuple(entry for entry in entries if entry.result is not Result.UNFINISHED or entry.run not in ended), unreadable
    )


def merged(histories: Iterable[History]) -> tuple[Entry, ...]:
    """All entries by time; two nodes that are one machine have the same ones, which count once."""
    every = dict.fromkeys(entry for one in histories for entry in one.entries)
    return tuple(sorted(every, key=lambda entry: entry.at))


def _harmless(entry: Entry) -> Entry:
    """Without what a terminal would obey; raises ValueError for a time without a zone, which could be any."""
    if entry.at.tzinfo is None:
        raise ValueError
    return Entry(
        node=_printable(entry.node),
        at=entry.at.astimezone(UTC),
        by=_printable(entry.by),
        command=_printable(entry.command),
        actions=tuple(map(_printable, entry.actions)),
        result=entry.result,
        where=_printable(entry.where),
        version=_printable(entry.version),
    )


def _printable(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable())


# ------------------------------------------------------------------------------------------------- questions

# The folder is its own lock: nobody else removes lines while one is written. Without flock none are removed.
# A line that a full disk has cut short must not swallow the next one.
APPEND = r"""
umask 077
cd && mkdir -p .local/state/fleet && cd .local/state/fleet || exit 1
file=$1.jsonl
locked=
command -v flock > /dev/null && exec 9< . && flock -w 5 9 && locked=1
torn=
[ -n "$(tail -c 1 "$file" 2> /dev/null)" ] && torn='
'
printf '%s%s\n' "$torn" "$2" >> "$file" || exit 1
if [ -n "$locked" ] && [ "$(wc -l < "$file")" -gt "$3" ]; then
  tail -n "$3" "$file" > "$file.new" && mv "$file.new" "$file"
fi
exit 0
"""

_READ = r"""
cd && cd .local/state/fleet 2> /dev/null && [ -e "$1.jsonl" ] || exit 0
tail -c "$2" "$1.jsonl"
"""

_FORGET = r"""
cd && cd .local/state/fleet 2> /dev/null || exit 0
rm -f "$1.jsonl" "$1.jsonl.new" || exit 1
cd .. && rmdir fleet 2> /dev/null
exit 0
"""


def append(fleet: str, entry: Entry) -> tuple[str, ...]:
    """The command that adds an entry on a host."""
    return ("sh", "-c", APPEND, "sh", fleet, entry.line(), str(KEPT))


def read(fleet: str) -> tuple[str, ...]:
    """The command that prints what a host keeps."""
    return ("sh", "-c", _READ, "sh", fleet, str(KEPT * (LONGEST + 1)))


def forget(fleet: str) -> tuple[str, ...]:
    """The command that removes it."""
    return ("sh", "-c", _FORGET, "sh", fleet)
