"""Models that take exactly their keys and types, and files that exist; what pydantic says, in plain words."""

from __future__ import annotations

import difflib
import reprlib
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError, ValidationInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import ErrorDetails

    from fleet.errors import Problem
    from fleet.inventory.yamltree import Path, Tree


class Strict(BaseModel):
    """A mapping that refuses unknown keys and converts nothing: "1234" is no number, 1 is not true."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        model_title_generator=lambda model: model.__name__.lstrip("_"),
    )


@dataclass(frozen=True, slots=True)
class Files:
    """The validation context: where the files named in a tree are looked for, and how."""

    folder: FilePath
    exists: Callable[[FilePath], bool]


def _file(value: str, given: ValidationInfo) -> str:
    files = cast("Files", given.context)
    try:
        path = (files.folder / FilePath(value).expanduser()).absolute()
        exists = files.exists(path)
    except (OSError, RuntimeError):  # a name too long, an unreadable folder, ~nobody
        exists = False
    if not exists:
        raise ValueError(f"there is no file {shown(value)}")
    return str(path)


Text = Annotated[str, StringConstraints(min_length=1)]
File = Annotated[Text, AfterValidator(_file)]
"""A file that there is; its absolute path once validated."""


def problems(
    error: ValidationError, tree: Tree, schema: JsonSchemaValue, refused: Mapping[Path, str]
) -> Iterator[Problem]:
    """Each of pydantic's complaints at its place; `refused` has known keys that must not be set, and why."""
    for details in error.errors(include_url=False):
        path = details["loc"]
        if details["type"] == "extra_forbidden":
            yield _unknown_key(path, tree, schema, refused)
        elif details["type"] == "too_short" and details["input"]:
            continue  # pydantic counts the valid items only
        else:
            path = path[:-1] if path[-1:] == ("[key]",) else path
            yield tree.problem(path, _in_plain_words(details))


def shown(value: object) -> str:
    """A value as it is quoted in a message, long ones cut."""
    short = reprlib.Repr()
    short.maxstring = 80
    return short.repr(value)


def _unknown_key(path: Path, tree: Tree, schema: JsonSchemaValue, refused: Mapping[Path, str]) -> Problem:
    why = refused.get(tuple(part for part in path if isinstance(part, str)))
    if why:
        return tree.problem(path, why)
    known = _keys(schema, path[:-1])
    close = difflib.get_close_matches(str(path[-1]), known, n=1)
    if close:
        return tree.problem(path, "unknown key", close[0])
    return tree.problem(path, f"unknown key; possible here: {', '.join(known)}")


def _keys(schema: JsonSchemaValue, path: Path) -> list[str]:
    """The keys that a schema knows in the mapping at `path`."""
    here: Any = schema
    for part in (*path, None):
        if "$ref" in here:
            here = schema["$defs"][here["$ref"].rpartition("/")[2]]
        if isinstance(part, int):
            here = here["items"]
        elif part is not None:
            here = here.get("properties", {}).get(part) or here["additionalProperties"]
    return list(here["properties"])


_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "model_type": "a mapping of keys to values",
    "dict_type": "a mapping of keys to values",
    "tuple_type": "a list, such as [a, b]",
}


def _in_plain_words(details: ErrorDetails) -> str:  # a table, one return a row
    value, limits = details["input"], details.get("ctx", {})
    match details["type"]:
        case "missing":
            return "required, but missing"
        case "value_error":
            return str(limits["error"])
        case "literal_error":
            return f"must be {limits['expected']}, not {_kind(value)}"
        case "too_short" | "string_too_short":
            return "must not be empty"
        case "greater_than_equal":
            return f"must be at least {limits['ge']}, not {value}"
        case "less_than_equal":
            return f"must be at most {limits['le']}, not {value}"
        case kind:
            wanted = _WANTED.get(kind)
            hint = _quotes_hint(kind, value)
            return f"must be {wanted}, not {_kind(value)}{hint}" if wanted else "is not valid here"


def _kind(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int():
            return f"the number {value}"
        case float():
            return "a number with a fraction"
        case str():
            return shown(value)
        case dict():
            return "a mapping"
        case _:
            return "a list"


def _quotes_hint(kind: str, value: object) -> str:
    if kind == "string_type" and isinstance(value, int | float):
        return " (text needs quotes here)"
    unquoted = kind == "int_type" and str(value).isdecimal()
    unquoted |= kind == "bool_type" and value in ("true", "false")
    return " (remove the quotes)" if unquoted else ""
