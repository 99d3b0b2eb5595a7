"""What went wrong while somebody was asked, as a reason that can be shown: nobody who asks is to die of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fleet.errors import FleetError
from fleet.model.facts import Down

if TYPE_CHECKING:
    from fleet.model.facts import Stage


def reason(stage: Stage, error: Exception) -> Down:
    """`stage`: where it happened, unless the error knows better; a mistake of ours is not to be hidden either."""
    if isinstance(error, FleetError):
        return Down(getattr(error, "stage", stage), error.message, error.remedy)
    return Down(stage, f"unexpected {type(error).__name__}: {error}", "report it, with how it came about")
