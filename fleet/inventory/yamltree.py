"""YAML text as a tree of plain values, each with its place: the part of YAML that every reader agrees on.

Refused are anchors, aliases, tags and several documents, and the plain scalars that YAML 1.1 and 1.2 read
differently (`no`, `0755`, `12:30`, `2026-01-01`).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

from fleet.errors import InventoryError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Path = tuple[str | int, ...]
"""The keys and list positions that lead from the root to a value."""

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
"""The deepest setting, an item of a garbage collection filter, lies at 9."""

_MAX_MESSAGE = 300
_BARE = re.compile(r"[\w-]+", re.ASCII)
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,17})")

_PLAIN_WORDS = {
    "mapping values are not allowed here": "a ':' where none may stand: check indentation and quotes",
    "could not find expected ':'": "a key without ':' after it",
    "found unexpected end of stream": "the file ends inside quotes",
    "found duplicate anchor": "anchors and aliases (&, *) are not supported: write the value out",
    "expected a single document in the stream": "only one YAML document is allowed: remove the line '---'",
}
_SYNTAX = "this is not valid YAML: check indentation, quotes and brackets"


@dataclass(frozen=True, slots=True)
class Tree:
    """A document as dicts, tuples and scalars; `lines` has the 1-based line of every key and list item."""

    value: Any
    lines: Mapping[Path, int]
    problems: tuple[Problem, ...]

    def problem(self, path: Path, message: str, suggestion: str | None = None) -> Problem:
        """A problem at `path`, or at the line of its nearest ancestor where the file lacks it."""
        known = next(path[:end] for end in range(len(path), -1, -1) if path[:end] in self.lines)
        return _problem(self.lines[known], path, message, suggestion)


def read(text: str, source: str) -> Tree:
    """Read one YAML document, a mapping; raises InventoryError for what cannot be read to its end."""
    try:
        if len(text.encode(errors="replace")) > MAX_BYTES:
            _refuse(None, f"the file is larger than {MAX_BYTES // 1024} KiB")
        root = _compose(text)
        if root is None or root.tag.endswith(":null"):
            _refuse(1, "the file is empty: copy inventory.example.yaml and edit it")
        if not isinstance(root, yaml.MappingNode):
            _refuse(root.start_mark.line + 1, "the file must be a mapping with the keys fleet and hosts")
    except _RefusedError as refusal:
        raise InventoryError(source, [_problem(refusal.line, (), refusal.message)]) from refusal.__cause__
    walk = _Walk()
    value = walk.value(root, ())
    return Tree(value, walk.lines, tuple(walk.problems))


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Problems in the order of the file, the first one of each place."""
    first: dict[tuple[int | None, str], Problem] = {}
    for problem in problems:
        first.setdefault((problem.line, problem.path), problem)
    return tuple(sorted(first.values(), key=lambda problem: problem.line or 0))


def dotted(path: Path) -> str:
    """`hosts.arm-1.platforms[0]`; keys that are not bare words are quoted, as in TOML."""
    words = ""
    for part in path:
        if isinstance(part, int):
            words += f"[{part}]"
        else:
            words += ("." if words else "") + (part if _BARE.fullmatch(part) else f'"{part}"')
    return words


def _problem(line: int | None, path: Path, message: str, suggestion: str | None = None) -> Problem:
    return Problem(line, _cut(dotted(path)), _cut(message), suggestion)


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_MESSAGE else f"{text[: _MAX_MESSAGE - 1]}…"


# ------------------------------------------------------------------------------------ text to nodes


class _RefusedError(Exception):
    """The text cannot be read on from `line`."""

    def __init__(self, line: int | None, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


def _refuse(line: int | None, message: str) -> NoReturn:
    raise _RefusedError(line, message)


class _Loader(yaml.SafeLoader):
    """Refuses, before anything is built from it, what could make the tree cyclic, huge or deep."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # missing in types-pyyaml
        line = event.start_mark.line + 1
        if getattr(event, "anchor", None) is not None:
            _refuse(line, _PLAIN_WORDS["found duplicate anchor"])
        if getattr(event, "tag", None) is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            _refuse(line, f"tags are not supported: remove {tag}")
        if self.depth == MAX_DEPTH:
            _refuse(line, f"nested more than {MAX_DEPTH} levels deep")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _compose(text: str) -> yaml.Node | None:
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _RefusedError(line, f"a control character ({error.character:#04x}) is not allowed") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _RefusedError(mark.line + 1 if mark else None, _in_plain_words(error)) from error
    except (ValueError, OverflowError) as error:  # from chr() and int() on absurd escapes and versions
        raise _RefusedError(loader.line + 1 if loader else None, _SYNTAX) from error


def _in_plain_words(error: yaml.MarkedYAMLError) -> str:
    problem, context = error.problem or "", error.context or ""
    if "'\\t'" in problem:
        return "a tab: YAML is indented with spaces"
    return _PLAIN_WORDS.get(problem) or _PLAIN_WORDS.get(context) or f"{_SYNTAX} ({problem or context})"


# ----------------------------------------------------------------------------------- nodes to values


@dataclass(slots=True)
class _Walk:
    """Collects values, lines and problems; what is wrong is replaced by something harmless of its kind."""

    lines: dict[Path, int] = field(default_factory=lambda: {(): 1})
    problems: list[Problem] = field(default_factory=list)

    def value(self, node: yaml.Node, path: Path) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return tuple(self._item(child, (*path, index)) for index, child in enumerate(node.value))
        value, complaint = _scalar(node.tag.rpartition(":")[2], node.value)
        if complaint:
            self.problems.append(_problem(self.lines[path], path, complaint))
        return value

    def _item(self, node: yaml.Node, path: Path) -> Any:
        self.lines[path] = node.start_mark.line + 1
        return self.value(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, child in node.value:
            line = key.start_mark.line + 1
            name, complaint = _key(key)
            spot = (*path, name)
            if name in values:
                complaint = f"given twice, first in line {self.lines[spot]}"
            if complaint:
                self.problems.append(_problem(line, spot, complaint))
            if name not in values:
                self.lines[spot] = line
                values[name] = self.value(child, spot)
        return values


def _key(node: yaml.Node) -> tuple[str, str | None]:
    """The text of a key and what is wrong with it."""
    if not isinstance(node, yaml.ScalarNode):
        return "?", "a key must be text, not a list or a mapping"
    text = _printable(node.value)
    if node.tag.endswith(":merge"):
        return text, "merge keys (<<) are not supported: write the keys out"
    if not node.value:
        return text, "a key is missing before the ':'"
    if text != node.value:
        return text, "a key has characters that cannot be seen"
    if not node.tag.endswith(":str"):
        return text, f'YAML does not read {text} as text: write "{text}"'
    return text, None


def _scalar(kind: str, text: str) -> tuple[Any, str | None]:  # a table
    """The value of a scalar and what is wrong with it."""
    match kind:
        case "str":
            plain = _printable(text)
            return plain, None if plain == text else "has line breaks or characters that cannot be seen"
        case "null":
            return None, "has no value: give one or remove the key"
        case "bool":
            truth = text.lower() in {"true", "yes", "on"}
            word = str(truth).lower()
            hint = f'YAML reads {text} as {word}: write {word}, or "{text}" for text'
            return truth, None if text.lower() == word else hint
        case "int":
            if _DECIMAL.fullmatch(text):
                return int(text), None
            return 0, "is not a plain decimal number of at most 18 digits (text needs quotes)"
        case "float":
            return math.nan, None
        case _:
            return text, f'YAML does not read {text} as text: write "{text}"'


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)[1:-1]
