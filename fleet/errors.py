"""What can go wrong, as one tree.

FleetError                      has a message and, where there is one, a remedy: the next thing to try
├── UsageError                  the user's input is wrong; nothing was touched             exit 2
│   └── InventoryError          every problem of the inventory at once, each with its place
├── VaultError                  a key or certificate file that cannot be trusted or used   exit 1
│   └── Held                    another fleet of this machine is at work on it
├── BuilderError                docker, buildx or the builder's registration failed        exit 1
├── HostError                   one host failed, at a stage                                exit 1 or 3
│   ├── Unreachable             nothing can be said about the host
│   └── EngineError             Docker refused a request
├── Busy                        somebody else is changing the fleet                        exit 1
└── RoutingError                no node may build what was asked                           exit 1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fleet.model.facts import Stage


class FleetError(Exception):
    """A failure that a user can act upon: `message` says what failed, `remedy` what to try next."""

    exit_code = 1

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class UsageError(FleetError):
    """The command line or the inventory is wrong; nothing was touched."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in an inventory: where it stands (1-based line, dotted path) and what is wrong."""

    line: int | None
    path: str
    message: str
    suggestion: str | None = None

    def __str__(self) -> str:
        place = ":".join(part for part in (str(self.line) if self.line else "", self.path) if part)
        hint = f" (did you mean {self.suggestion!r}?)" if self.suggestion else ""
        return f"{place}: {self.message}{hint}" if place else f"{self.message}{hint}"


class InventoryError(UsageError):
    """Every problem of one inventory file; `problems` keeps them in the order of the file."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        noun = "problem" if len(self.problems) == 1 else "problems"
        lines = "\n".join(f"  {source}:{problem}" for problem in self.problems)
        super().__init__(f"{len(self.problems)} {noun} in the inventory\n{lines}")


class VaultError(FleetError):
    """A key or certificate file is missing, torn, mismatched or readable by others."""


class Held(VaultError):
    """Another fleet of this machine is at work on the vault."""


class BuilderError(FleetError):
    """docker, buildx or the builder's registration failed."""


class HostError(FleetError):
    """One host failed at `stage`; the others are none of its business."""

    def __init__(self, stage: Stage, message: str, remedy: str | None = None) -> None:
        super().__init__(message, remedy)
        self.stage = stage


class Unreachable(HostError):
    """The host could not be asked anything."""


class EngineError(HostError):
    """Docker on the host refused a request."""


class Busy(FleetError):
    """Somebody else is changing the fleet."""


class RoutingError(FleetError):
    """No node may build what was asked."""
