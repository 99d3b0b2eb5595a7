"""What `fleet build` and `fleet bake` are asked for: buildx's own arguments, and among them fleet's."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from fleet.errors import UsageError
from fleet.model.platforms import Platform
from fleet.quantities import parse_duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Flags that take no value; every other flag takes one (commands/build.go and bake.go, buildx 0.36).
SWITCHES = frozenset(
    {
        *("--check", "--compress", "--debug", "--force-rm", "--help", "--load", "--no-cache", "--print", "--pull"),
        *("--push", "--quiet", "--rm", "--squash"),
    }
)
SHORT_SWITCHES = frozenset("Dhq")

# fleet's own, which buildx has not.
OWN_SWITCHES = frozenset({"--no-queue", "--allow-emulation", "--split", "--json"})
OWN = OWN_SWITCHES | {"-i", "--inventory", "--fleet", "--affinity", "--retries", "--wait-at-most", "--cache"}

RETRIES = 2
"""How often a build moves on when a node is lost, unless said otherwise."""


_LONGEST_BRANCH = 80
"""Letters; a tag has 128 at most."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument as buildx reads it: a flag with its value, or without a flag the context or a target."""

    flag: str
    value: str
    words: tuple[str, ...]
    """As it was typed."""


@dataclass(frozen=True, slots=True)
class BuildArguments:
    """What is asked for."""

    buildx: tuple[Argument, ...]
    """Of buildx, in order."""
    command: Literal["build", "bake"] = "build"
    platforms: tuple[Platform, ...] = ()
    """Empty: none was named."""
    builder: str | None = None
    inventory: str | None = None
    fleet: str | None = None
    affinity: str | None = None
    retries: int = RETRIES
    patience: float = field(default=float("inf"))
    """For how many seconds a build waits for a node with room."""
    allow_emulation: bool = False
    as_json: bool = False
    split: bool = False
    """Whether each platform is to have a run of buildx of its own."""
    cache: str | None = None
    """A repository for caches."""
    branches: tuple[str, ...] = ("main",)
    """Whose caches are of use: the first is that of this build, and is written."""

    @property
    def words(self) -> tuple[str, ...]:
        """What buildx is to read."""
        return tuple(word for argument in self.buildx for word in argument.words)

    @property
    def context(self) -> str:
        """Folder, URL or `-`; of a bake the folder of its file."""
        if self.command == "bake":
            return "."
        return next((argument.value for argument in self.buildx if not argument.flag), ".")

    def cached(self, platform: Platform) -> tuple[str, ...]:
        """What buildx is told of caches in a registry: a cache a branch and platform, so that none replaces another."""
        if self.cache is None:
            return ()
        suffix = str(platform).replace("/", "-")
        tags = [f"{re.sub(r'[^0-9A-Za-z._-]', '-', branch)[:_LONGEST_BRANCH]}-{suffix}" for branch in self.branches]
        places = [f"type=registry,ref={self.cache}:{tag}" for tag in dict.fromkeys(tags)]
        reads = (word for place in places for word in ("--cache-from", place))
        return (*reads, "--cache-to", f"{places[0]},mode=max")

    def values(self, *flags: str) -> tuple[str, ...]:
        """What is said with these flags, in order."""
        return tuple(argument.value for argument in self.buildx if argument.flag in flags)

    def has(self, *flags: str) -> bool:
        """Whether one of these switches is set."""
        return any(argument.flag in flags and argument.value != "false" for argument in self.buildx)

    @property
    def apart(self) -> bool:
        """Whether one buildx for all platforms would not do: it has one cache for all, and cannot load several."""
        return len(self.platforms) > 1 and (self.split or self.cache is not None or self.has("--load"))

    @property
    def quiet(self) -> bool:
        """Whether nothing is to be told of a build that succeeds."""
        return self.has("-q", "--quiet") or bool({"quiet", "none", "rawjson"} & {*self.values("--progress")[-1:]})

    @property
    def repeatable(self) -> bool:
        """Whether it can be run a second time: not when it reads standard input or has written to standard output."""
        outputs = {word for value in self.values("-o", "--output") for word in value.split(",")}
        return not (self.context == "-" or "-" in self.values("-f", "--file") or outputs & {"-", "dest=-"})


def parse(argv: Sequence[str], default_platform: str = "") -> BuildArguments:
    """Read the arguments as buildx would; raises UsageError for fleet's own, and for what no daemon can build.

    `default_platform` is what DOCKER_DEFAULT_PLATFORM says, which stands for a missing --platform.
    """
    asked, own = list[Argument](), dict[str, str]()
    for argument in arguments(argv):
        if argument.flag in OWN:
            own[argument.flag] = argument.value
        else:
            asked.append(argument)
    named = [argument.value for argument in asked if argument.flag == "--platform"]
    if default_platform and not named:
        named = [default_platform]
    return BuildArguments(
        buildx=tuple(asked),
        platforms=tuple(dict.fromkeys(platform for value in named for platform in _platforms(value))),
        builder=next((argument.value for argument in asked if argument.flag == "--builder"), None),
        inventory=own.get("--inventory", own.get("-i")),
        fleet=own.get("--fleet"),
        affinity=own.get("--affinity"),
        retries=_count("--retries", own.get("--retries", str(RETRIES))),
        patience=0.0 if _switch(own, "--no-queue") else _patience(own.get("--wait-at-most")),
        allow_emulation=_switch(own, "--allow-emulation"),
        as_json=_switch(own, "--json"),
        split=_switch(own, "--split"),
        cache=_repository(own.get("--cache")),
    )


def baked(asked: BuildArguments, printed: str, default: Platform) -> BuildArguments:
    """A bake for the platforms of its targets, of which `printed` tells (`bake --print`).

    A target that names none is for `default`: buildx would send it anywhere. Raises UsageError.
    """
    if asked.split or asked.cache is not None:
        raise UsageError("fleet bake has no --split and no --cache", "say cache-to and cache-from in its file")
    found, said = list[Platform](), list[Argument]()
    for name, target in json.loads(printed).get("target", {}).items():
        named = [platform for value in target.get("platforms") or () for platform in _platforms(value)]
        if not named:
            value = f"{name}.platform={default}"
            said.append(Argument("--set", value, ("--set", value)))
        found += named or [default]
    return replace(asked, command="bake", buildx=(*said, *asked.buildx), platforms=tuple(dict.fromkeys(found)))


def arguments(argv: Sequence[str]) -> Iterator[Argument]:
    """One by one, in the ways that pflag accepts flags: --f v, --f=v, -f v, -fv, -f=v; after -- there are none."""
    words = iter(argv)
    for word in words:
        if word == "--":
            yield Argument(word, "", (word,))
            yield from (Argument("", rest, (rest,)) for rest in words)
        elif word.startswith("--"):
            flag, given, value = word.partition("=")
            if given or flag in SWITCHES | OWN_SWITCHES:
                yield Argument(flag, value, (word,))
            else:
                yield _with_next(flag, word, words)
        elif word.startswith("-") and len(word) > 1:
            letters = word[1:].lstrip("".join(SHORT_SWITCHES))
            if len(letters) > 1:
                yield Argument(f"-{letters[0]}", letters[1:].removeprefix("="), (word,))
            elif letters:
                yield _with_next(f"-{letters}", word, words)
            else:
                yield Argument(word, "", (word,))
        else:
            yield Argument("", word, (word,))


def _with_next(flag: str, word: str, words: Iterator[str]) -> Argument:
    value = next(words, None)
    return Argument(flag, value or "", (word,) if value is None else (word, value))


def _platforms(value: str) -> Iterator[Platform]:
    for text in value.split(","):
        try:
            yield Platform.parse(os.uname().machine if text.strip() == "local" else text)
        except ValueError as error:
            raise UsageError(f"--platform {value}: {error}") from error


def _count(flag: str, text: str) -> int:
    if not text.isdecimal():
        raise UsageError(f"{flag} {text}: not a number", f"{flag} {RETRIES}")
    return int(text)


def _repository(text: str | None) -> str | None:
    if text is not None and (not text or set("@:, ") & set(text.rpartition("/")[2])):
        raise UsageError(
            f"--cache {text}: not a repository without a tag", "--cache registry.example.com/app/cache; tags are made"
        )
    return text


def _switch(own: dict[str, str], flag: str) -> bool:
    value = own.get(flag, "false")
    if value not in {"", "true", "false"}:
        raise UsageError(f"{flag}={value}: it is a switch", flag)
    return value != "false"


def _patience(text: str | None) -> float:
    try:
        return parse_duration(text).total_seconds() if text is not None else float("inf")
    except ValueError as error:
        raise UsageError(f"--wait-at-most {text}: {error}") from error
