"""What a run tells while it goes on (events), and how it ended (outcomes in a report)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fleet.model.facts import Down


class Result(StrEnum):
    """How a lane or the builder's steps ended."""

    DONE = "done"
    UNCHANGED = "unchanged"
    FAILED = "failed"
    BLOCKED = "blocked"
    STOPPED = "stopped"
    UNFINISHED = "unfinished"
    """Of a run that was killed, or is still at work: only a history says so."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that began, ended or failed, on a node, in the vault or at the builder."""

    subject: str
    text: str
    state: str = "begun"
    """begun, note, done or failed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one subject ended, after how many seconds, and why it failed."""

    subject: str
    result: Result
    seconds: float = 0.0
    failure: Down | None = None
    warning: Down | None = None

    @property
    def ok(self) -> bool:
        """Whether the subject is as it is wanted."""
        return self.result in {Result.DONE, Result.UNCHANGED}


@dataclass(frozen=True, slots=True)
class Report:
    """How a run ended: one outcome a host, and the builder's."""

    nodes: tuple[Outcome, ...]
    builder: Outcome
    late: bool = False
    """Whether it was stopped because its time was over."""

    @property
    def exit_code(self) -> int:
        """0 done, 1 failed, 3 partly done, 130 interrupted."""
        outcomes = (*self.nodes, self.builder)
        if any(outcome.result is Result.STOPPED for outcome in outcomes) and not self.late:
            return 130
        if all(outcome.ok for outcome in outcomes):
            return 0
        return 3 if any(outcome.ok for outcome in self.nodes) else 1
