"""Notes that operators and clients leave at a daemon for each other: who drained it, who has joined.

They are kept by BuildKit itself (`Prober.note`), so that whoever may build there can read them, without SSH.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fleet.model.facts import ApiFacts, Down

DRAIN = "drain"
_LONGEST = 1000
_LONGEST_NAME = 100
_CLIENT = "client/"


@dataclass(frozen=True, slots=True)
class Drain:
    """No new builds, says who, since when; `passing`: only until fleet has replaced the daemon."""

    by: str
    since: datetime
    passing: bool = False

    def text(self) -> str:
        """As it is noted."""
        return json.dumps({"by": self.by, "since": self.since.isoformat(), "passing": self.passing})


def drain(api: ApiFacts | Down | None) -> Drain | None:
    """Whether the node takes no new builds; a note that nobody can read counts, too.

    Whoever may build may leave notes: what is in them is shown, so nothing that a terminal would obey is let through.
    """
    noted = (getattr(api, "notes", None) or {}).get(DRAIN)
    if noted is None:
        return None
    try:
        given = json.loads(noted[:_LONGEST])
        since = datetime.fromisoformat(given["since"]).astimezone(UTC)
        by = "".join(letter for letter in str(given["by"]) if letter.isprintable())[:_LONGEST_NAME]
        return Drain(by, since, given["passing"] is True)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
        return Drain("somebody", datetime.fromtimestamp(0, UTC))


def client_key(name: str) -> str:
    """Under which a client notes the serial number of the certificate that it has joined with."""
    return _CLIENT + name


def joined(notes: Mapping[str, str]) -> dict[str, str]:
    """Client -> serial number of the certificate that it joined with last."""
    return {key.removeprefix(_CLIENT): text for key, text in notes.items() if key.startswith(_CLIENT)}
