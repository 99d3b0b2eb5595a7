"""One buildx a platform: each goes on by itself when its node is lost; an image gets its name when all are there."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.dispatching.build_arguments import Argument
from fleet.dispatching.dispatch import Dispatched
from fleet.errors import FleetError, HostError, UsageError
from fleet.parallel import Gathering

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from fleet.dispatching.build_arguments import BuildArguments
    from fleet.dispatching.dispatch import Dispatcher
    from fleet.model.platforms import Platform
    from fleet.ports import Builder, Registry

_REPLACED = frozenset(
    {
        *("--platform", "-t", "--tag", "--push", "--load", "-o", "--output"),
        *("--metadata-file", "--iidfile", "--progress"),
    }
)
"""What is said anew for each platform, or once for all."""


PATIENCE = 5.0
"""Seconds for parts that are not wanted any more to clear up."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """What is to be made of a build."""

    names: tuple[str, ...]
    """Of the image that is pushed; empty: none is."""
    push: Mapping[str, str]
    """What else is said of pushing."""
    load: tuple[str, ...] | None
    """Names of the image for this machine's own Docker; None: it gets none."""


def outputs(asked: BuildArguments) -> Outputs:
    """Read them as buildx would; raises UsageError for those that cannot be put together from several runs."""
    tags = asked.values("-t", "--tag")
    said = [dict(_pairs(value)) for value in asked.values("-o", "--output")]
    said += [{"type": kind} for flag, kind in (("--push", "registry"), ("--load", "docker")) if asked.has(flag)]
    names, push, load = list[str](), dict[str, str](), None
    for entry in said:
        kind, own = entry.pop("type", "local"), tuple(filter(None, entry.pop("name", "").split(","))) or tags
        if kind == "registry" or (kind == "image" and entry.pop("push", "false") == "true"):
            if not own:
                raise UsageError("what is pushed needs a name", "-t REGISTRY/NAME:TAG")
            names += own
            push |= entry
        elif kind == "docker" and "dest" not in entry:
            load = own
        elif kind not in {"cacheonly", "image"}:
            raise UsageError(
                f"the output type={kind} cannot be split by platform",
                "leave --split and --cache away, or push the image",
            )
    return Outputs(tuple(dict.fromkeys(names)), push, load)


def part(asked: BuildArguments, wanted: Outputs, platform: Platform, metadata: Path, *, own: bool) -> BuildArguments:
    """The arguments of one platform's run; `own`: it is this machine's; `metadata`: where buildx says the digest."""
    said = [*_words("--platform", str(platform)), *_words("--metadata-file", str(metadata))]
    said += _words("--progress", "plain") if not asked.quiet else _words("--progress", "quiet")
    if wanted.names:
        repositories = ",".join(dict.fromkeys(map(repository, wanted.names)))
        by_digest = {"push-by-digest": "true", "name-canonical": "true", "push": "true"}
        said += _words("--output", _csv({"type": "image", "name": repositories} | by_digest | dict(wanted.push)))
    if wanted.load is not None and own:
        said += _words("--output", _csv({"type": "docker"} | ({"name": ",".join(wanted.load)} if wanted.load else {})))
    if not wanted.names and not (wanted.load is not None and own):
        said += _words("--output", "type=cacheonly")
    kept = tuple(argument for argument in asked.buildx if argument.flag not in _REPLACED)
    return replace(asked, buildx=(*said, *kept), platforms=(platform,))


def _words(flag: str, value: str) -> list[Argument]:
    return [Argument(flag, value, (flag, value))]


def repository(name: str) -> str:
    """The name of an image without its tag and digest."""
    place, slash, last = name.partition("@")[0].rpartition("/")
    return f"{place}{slash}{last.partition(':')[0]}"


def _pairs(value: str) -> Iterable[tuple[str, str]]:
    for field in next(csv.reader([value])):
        key, given, text = field.partition("=")
        yield (key.strip().lower(), text) if given else ("dest", field)


def _csv(fields: Mapping[str, str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(f"{key}={value}" for key, value in fields.items())
    return line.getvalue()


@dataclass(frozen=True, slots=True)
class Splitter:
    """What a build in parts needs."""

    dispatcher: Callable[[Platform], Dispatcher]
    """Makes one for a platform; all have the same `builder`."""
    builder: Builder
    registry: Registry

    def build(self, asked: BuildArguments, project: str, own: Platform) -> Dispatched:
        """Build all platforms side by side, and name what they pushed. The first that fails ends the others.

        `own`: the platform of this machine. Raises what its Dispatchers raise, UsageError, and HostError when the
        image cannot be named.
        """
        if asked.context == "-":
            raise UsageError("a context from standard input cannot be split by platform", "name a folder")
        wanted = outputs(asked)
        with tempfile.TemporaryDirectory() as folder:
            said = {platform: Path(folder) / str(number) for number, platform in enumerate(asked.platforms)}
            tasks = {
                platform: partial(
                    self.dispatcher(platform).build,
                    part(asked, wanted, platform, metadata, own=platform == own),
                    project,
                )
                for platform, metadata in said.items()
            }
            building = Gathering(tasks)
            try:
                done = building.results(enough=lambda so_far: any(part.code for part in so_far.values()))
            finally:
                self.builder.interrupt()
                # What fails now, fails because the rest was ended.
                with suppress(FleetError):
                    building.results(timeout=PATIENCE)
            if failed := [part.code for part in done.values() if part.code]:
                return Dispatched(failed[0])
            digest = self._named(wanted, said) if wanted.names else None
        return Dispatched(0, tuple(share for part in done.values() for share in part.shares), digest)

    def _named(self, wanted: Outputs, said: Mapping[Platform, Path]) -> str:
        """Only now the tags move, each in one step."""
        place = repository(wanted.names[0])
        digests = [json.loads(file.read_text())["containerimage.digest"] for file in said.values()]
        try:
            return self.registry.name(wanted.names, [f"{place}@{digest}" for digest in digests])
        except HostError as error:
            names = ", ".join(wanted.names)
            raise HostError(
                error.stage, f"all is built and pushed, but {names} stay as they were: {error.message}", error.remedy
            ) from error
