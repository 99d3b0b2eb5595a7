"""What can be typed after `:`, and how it is completed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


@dataclass(frozen=True, slots=True)
class Command:
    """A word, what it does, and how many nodes it takes."""

    word: str
    does: str
    nodes: int = 0
    """0: none, 1: one, 2: any number, of which none means those that are marked."""


PAGES = (
    Command("fleet", "all nodes"),
    Command("node", "one node in full", 1),
    Command("builds", "what is built and was built", 2),
    Command("routes", "which node builds which platform, and why"),
    Command("certificates", "certificates and how long they last"),
    Command("plan", "what fleet up would do"),
    Command("logs", "what the daemons write", 2),
    Command("shell", "log in to a node's host", 1),
    Command("help", "all keys"),
    Command("quit", "leave"),
)

DEEDS = (
    Command("up", "bring nodes to what the inventory says", 2),
    Command("drain", "let no new builds come to nodes", 2),
    Command("resume", "let builds come again", 2),
    Command("restart", "replace daemons, once their builds have ended", 2),
    Command("prune", "remove build cache that no build uses", 2),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A command line that can be done."""

    word: str
    nodes: tuple[str, ...] = ()


def parse(text: str, available: Collection[str], nodes: Sequence[str]) -> Asked | str:
    """What a command line asks for, or what is wrong with it; a word may be shortened while it is clear."""
    word, *names = text.split()[:1000] or [""]
    known = [command for command in (*PAGES, *DEEDS) if command.word in available]
    found = [command for command in known if command.word == word] or [
        command for command in known if word and command.word.startswith(word)
    ]
    if len(found) > 1:
        return f"{word}: {' or '.join(command.word for command in found)}?"
    if not found:
        there = any(command.word == word for command in (*PAGES, *DEEDS))
        return f"{word} cannot be done here" if there else f"there is no command {word!r}"
    [command] = found
    if unknown := [name for name in names if name not in nodes]:
        return f"there is no node {', '.join(unknown)}"
    if len(names) > command.nodes and command.nodes < 2:
        return f"{command.word} takes {'one node' if command.nodes else 'no nodes'}"
    return Asked(command.word, tuple(names))


def completed(text: str, available: Collection[str], nodes: Sequence[str]) -> str | None:
    """The text with its last word completed by the first that fits; None: nothing does."""
    *before, last = text.split(" ")
    if before:
        takes = next((command.nodes for command in (*PAGES, *DEEDS) if command.word == before[0]), 0)
        choices: Sequence[str] = (
            [name for name in nodes if name not in before] if takes >= len(before) or takes > 1 else ()
        )
    else:
        choices = [command.word for command in (*PAGES, *DEEDS) if command.word in available]
    fitting = next((choice for choice in choices if last and choice.startswith(last)), None)
    return " ".join((*before, fitting)) if fitting else None
