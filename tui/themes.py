"""How it looks: dark, light, and in the terminal's own sixteen colours."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from textual.theme import BUILTIN_THEMES, Theme

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULTS: Mapping[str, str] = {"dim": "#8791a0", "row-cursor": "#808080", "row-marked": "#606060", "row-style": "bold"}
"""Of the variables that Textual's own themes do not have."""

THEMES = (
    Theme(
        name="fleet-dark",
        primary="#4f9cf9",
        secondary="#7aa2f7",
        accent="#e6b450",
        warning="#e5a445",
        error="#f2677a",
        success="#57c88a",
        foreground="#d5dae3",
        background="#0e131b",
        surface="#131a24",
        panel="#1a2432",
        variables={"dim": "#7d8899", "row-cursor": "#1f3654", "row-marked": "#26304a", "row-style": "bold"},
    ),
    Theme(
        name="fleet-light",
        primary="#1f5fbf",
        secondary="#3f5fb0",
        accent="#8a5a00",
        warning="#9a6200",
        error="#b3203a",
        success="#1b7a43",
        foreground="#1c2430",
        background="#fafbfc",
        surface="#f2f4f7",
        panel="#e3e8ef",
        dark=False,
        variables={"dim": "#5f6b7a", "row-cursor": "#cfe0f7", "row-marked": "#e3e0f5", "row-style": "bold"},
    ),
    replace(
        BUILTIN_THEMES["ansi-dark"],
        name="fleet-ansi",
        variables={
            **BUILTIN_THEMES["ansi-dark"].variables,
            "dim": "ansi_bright_black",
            "row-cursor": "ansi_default",
            "row-marked": "ansi_default",
            "row-style": "reverse",
        },
    ),
)


def fitting(environment: Mapping[str, str]) -> str:
    """The theme for a terminal, as far as it tells of itself."""
    deep = environment.get("COLORTERM", "") in {"truecolor", "24bit"} or "256color" in environment.get("TERM", "")
    if not deep or "NO_COLOR" in environment:
        return "fleet-ansi"
    # `foreground;background` in the sixteen colours: 7 and 15 are white.
    return "fleet-light" if environment.get("COLORFGBG", "").rpartition(";")[2] in {"7", "15"} else "fleet-dark"
