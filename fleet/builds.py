"""Builds as BuildKit's history tells of them: what runs and what ran, whoever asked for it, step by step.

Whoever may build can write into that history, and secrets may be in it: nothing is taken over but what is named here,
without credentials and without what a terminal would obey.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from fleet.logs import Line

HERE = "this machine"
"""Who asked, where this machine's buildx remembers the build."""

_LONGEST_NAME = 80
_LONGEST_REASON = 300
_LONGEST_LINE = 4000
_MOST_PLATFORMS = 16
_SHORTEST_VALUE = 6
"""Letters of a build argument that is kept out of texts: shorter ones are no secrets, and words of any text."""

_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_SCP = re.compile(r"^(?:[^@/\s]+@)?([^@:/\s]+):(?!//)")
_URL = re.compile(r"([a-z][a-z0-9+.-]*://)([^\s\"'<>]+)", re.IGNORECASE)
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")
"""Colours and what else tools write for a terminal (ECMA-48)."""


class Outcome(StrEnum):
    """How a build stands."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELED = "canceled"


@dataclass(frozen=True, slots=True)
class Steps:
    """How many steps a build has so far, how many of them are done, and how many of those came from the cache."""

    done: int
    total: int
    cached: int

    @property
    def cached_share(self) -> float | None:
        """Of the steps that are done, 0 to 1; None: none is."""
        return self.cached / self.done if self.done else None


@dataclass(frozen=True, slots=True)
class BuildRecord:
    """One build on one node, which is one run of buildx there; None: unknown."""

    node: str
    ref: str
    """buildx and BuildKit know the build by it."""
    created: datetime
    """UTC, by the node's clock."""
    completed: datetime | None = None
    outcome: Outcome = Outcome.RUNNING
    reason: str | None = None
    """Why it failed, as BuildKit says it."""
    name: str | None = None
    """Of the project, as far as the build tells."""
    platforms: tuple[str, ...] = ()
    """As they were asked for; empty: none was, which means the node's own."""
    steps: Steps | None = None
    digest: str | None = None
    """Of the image that it made."""
    asked_by: str | None = None

    def seconds(self, now: datetime) -> float | None:
        """How long it took, or has taken so far; None: unknown, the node's clock being ahead."""
        return _between(self.created, self.completed or now)

    def known_here(self, folder: str) -> BuildRecord:
        """The same build, which this machine's buildx remembers to have asked for, with this context."""
        name = self.name or printable(repository(folder).rstrip("/").rpartition("/")[2], _LONGEST_NAME)
        return replace(self, name=name or None, asked_by=HERE)


class StepState(StrEnum):
    """How a step stands."""

    WAITING = "waiting"
    RUNNING = "running"
    CACHED = "cached"
    DONE = "done"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def over(self) -> bool:
        """Whether nothing more will come of it."""
        return self not in {StepState.WAITING, StepState.RUNNING}


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a build; moments are UTC, by the node's clock."""

    key: str
    """BuildKit knows the step by it."""
    name: str
    state: StepState = StepState.WAITING
    began: datetime | None = None
    ended: datetime | None = None
    reason: str | None = None
    """Why it failed."""

    def seconds(self, now: datetime) -> float | None:
        """How long it took, or has taken so far; None: it has not begun, or the node's clock is ahead."""
        return _between(self.began, self.ended or now) if self.began else None


@dataclass(frozen=True, slots=True)
class Written:
    """A line that a step has written."""

    step: str
    """Its key."""
    line: Line


class Account:
    """A build as far as it has been told: its steps in the order in which they were first heard of, and their lines."""

    def __init__(self, record: BuildRecord, *, most: int | None = None) -> None:
        """`most`: of the lines the last ones alone."""
        self.record = record
        self.steps: dict[str, Step] = {}
        self.written: deque[Written] = deque(maxlen=most)
        self.shortened: set[str] = set()
        """Steps of which lines have fallen out."""

    def add(self, told: BuildRecord | Step | Written) -> None:
        """Take up what comes next."""
        match told:
            case BuildRecord():
                self.record = replace(told, asked_by=self.record.asked_by, name=told.name or self.record.name)
            case Step():
                self.steps[told.key] = told
            case Written():
                if self.written and len(self.written) == self.written.maxlen:
                    self.shortened.add(self.written[0].step)
                self.written.append(told)

    @property
    def counts(self) -> Steps | None:
        """None: nothing is known yet."""
        states = [step.state for step in self.steps.values()]
        over = sum(state.over for state in states)
        return Steps(over, len(states), states.count(StepState.CACHED)) if states else None


def name_of(attributes: Mapping[str, str], images: Sequence[str] = ()) -> str | None:
    """What a build is of: its own name, its repository, the image it makes, or its Dockerfile; and its target.

    `attributes` are those of its frontend, `images` the names that its exporters were given.
    """
    name = attributes.get("build-arg:BUILDKIT_BUILD_NAME", "")
    context, folder = attributes.get("context", ""), attributes.get("vcs:localdir:context", ".")
    source = attributes.get("vcs:source") or (context if _remote(context) else "")
    if not name and source:
        name = "/".join((repository(source), *((folder,) if folder not in {"", "."} else ())))
    name = name or next((image.split(",")[0].partition("@")[0] for image in images if image), "")
    filename = attributes.get("filename", "Dockerfile")
    name = name or (filename if filename != "Dockerfile" else "")
    target = attributes.get("target", "")
    return printable(f"{name} ({target})" if name and target else name or target, _LONGEST_NAME) or None


def platforms_of(attributes: Mapping[str, str]) -> tuple[str, ...]:
    """The platforms that the build asked for, in its own words."""
    asked = (printable(text, 40) for text in attributes.get("platform", "").split(",")[:_MOST_PLATFORMS])
    return tuple(filter(None, asked))


def one_line(text: str, conceal: Callable[[str], str]) -> str:
    """A reason or a step's name as a line of a table; see `concealing`."""
    return printable(" ".join(conceal(text).split()), _LONGEST_REASON)


def concealing(attributes: Mapping[str, str]) -> Callable[[str], str]:
    """What takes out of a text that a build wrote what was given to it: values of arguments, credentials of URLs.

    BuildKit names a step by its line of the Dockerfile with the arguments filled in; a value becomes `$NAME` again.
    """
    values: dict[str, str] = {}
    for key, value in attributes.items():
        kind, _, name = key.partition(":")
        if kind == "build-arg" and not name.startswith("BUILDKIT_"):
            values |= {line.strip(): name for line in value.splitlines() if len(line.strip()) >= _SHORTEST_VALUE}
    longest_first = sorted(values, key=len, reverse=True)
    given = re.compile("|".join(map(re.escape, longest_first))) if values else None

    def conceal(text: str) -> str:
        plain = given.sub(lambda found: f"${values[found[0]]}", text) if given else text
        return _URL.sub(lambda found: found[1] + _public(found[2]), plain)

    return conceal


def written_line(text: str) -> str:
    """A line of a tool's output as it would be read in the end: of what was overwritten, the last."""
    last = next((part for part in reversed(text.split("\r")) if part), "")
    return printable(_ESCAPES.sub("", last).expandtabs(4), _LONGEST_LINE)


def repository(url: str) -> str:
    """A git remote or remote context without scheme and credentials: https and ssh forms of it are the same.

    What is no URL is returned as it is.
    """
    if scheme := _SCHEME.match(url):
        rest = _public(url[scheme.end() :])
    elif scp := _SCP.match(url):
        rest = f"{scp[1]}/{url[scp.end() :].lstrip('/')}"
    else:
        return url
    place, mark, fragment = rest.partition("#")
    return place.rstrip("/").removesuffix(".git") + mark + fragment


def printable(text: str, longest: int) -> str:
    """The text without what a terminal would obey, cut to `longest` letters."""
    shown = "".join(letter for letter in text if letter.isprintable())
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def in_order(records: Iterable[BuildRecord], last: int | None = None) -> tuple[BuildRecord, ...]:
    """What runs after what ran, each in the order of its beginning; of what ran the `last` only."""
    by_beginning = sorted(records, key=lambda record: (record.created, record.node, record.ref))
    ran = [record for record in by_beginning if record.completed]
    running = [record for record in by_beginning if not record.completed]
    return (*(ran if last is None else ran[max(len(ran) - last, 0) :]), *running)


def _between(begin: datetime, end: datetime) -> float | None:
    """Seconds; None: it ends before it begins, as told by two clocks."""
    return (end - begin).total_seconds() if end >= begin else None


def _remote(context: str) -> bool:
    return bool(_SCHEME.match(context) or context.startswith(("git@", "github.com/")))


def _public(rest: str) -> str:
    """What follows `://` without user, password and query."""
    place, mark, fragment = rest.partition("#")
    place = place.partition("?")[0]
    host, slash, path = place.partition("/")
    return host.rpartition("@")[2] + slash + path + mark + fragment
