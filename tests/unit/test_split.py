"""One buildx a platform: what each is told, and that names move only when all are there."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fleet.dispatching.build_arguments import BuildArguments, parse
from fleet.dispatching.dispatch import Dispatched
from fleet.dispatching.split import Splitter, outputs, part
from fleet.errors import HostError, UsageError
from fleet.model.facts import Stage
from fleet.model.platforms import Platform
from tests.support.fakes import FakeBuilder
from tests.support.values import platforms

AMD, ARM = platforms("linux/amd64", "linux/arm64")
BOTH = ("--platform", "linux/amd64,linux/arm64")


def asked(typed: str) -> BuildArguments:
    return parse([*BOTH, *typed.split(), "."])


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("--platform linux/amd64,linux/arm64 .", False),
        ("--platform linux/amd64,linux/arm64 --split .", True),
        ("--platform linux/amd64,linux/arm64 --cache example.com/cache .", True),
        ("--platform linux/amd64,linux/arm64 --load .", True),
        ("--platform linux/amd64,linux/arm64 --load=false .", False),
        ("--platform linux/amd64 --split --cache example.com/cache --load .", False),
        ("--split .", False),
    ],
)
def test_a_build_is_split_where_one_run_would_not_do(typed: str, *, expected: bool) -> None:
    assert parse(typed.split()).apart is expected


PUSHED = "push-by-digest=true,name-canonical=true,push=true"

PARTS: dict[str, tuple[str, str]] = {
    "pushed by its tags": (
        "-t example.com:5000/app:1 --tag example.com:5000/app:2 -t other.com/app --push",
        f'--output type=image,"name=example.com:5000/app,other.com/app",{PUSHED}',
    ),
    "pushed by its output": (
        "--output type=image,name=example.com/app:1,push=true,registry.insecure=true",
        f"--output type=image,name=example.com/app,{PUSHED},registry.insecure=true",
    ),
    "loaded": ("-t app:1 --load", "--output type=docker,name=app:1"),
    "pushed and loaded": (
        "-t app:1 --push --load",
        f"--output type=image,name=app,{PUSHED} --output type=docker,name=app:1",
    ),
    "neither": ("-t app:1", "--output type=cacheonly"),
    "what is not of outputs stays": ("--no-cache -f D", "--output type=cacheonly --no-cache -f D"),
}


@pytest.mark.parametrize(("typed", "expected"), PARTS.values(), ids=PARTS)
def test_a_part_is_told_of_its_platform_alone(typed: str, expected: str) -> None:
    whole = asked(typed)
    own = part(whole, outputs(whole), AMD, Path("/m"), own=True)
    fixed = "--platform linux/amd64 --metadata-file /m --progress plain"
    assert " ".join(own.words) == f"{fixed} {expected} ."
    assert own.platforms == (AMD,)


def test_only_this_machines_platform_is_loaded() -> None:
    whole = asked("-t app:1 --load")
    other = part(whole, outputs(whole), ARM, Path("/m"), own=False)
    assert "type=docker" not in " ".join(other.words)
    assert "type=cacheonly" in other.words


@pytest.mark.parametrize("typed", ["-o out", "-o type=local,dest=out", "-o type=oci,dest=a.tar", "--push"])
def test_what_cannot_be_put_together_is_refused(typed: str) -> None:
    with pytest.raises(UsageError):
        outputs(asked(typed))


@dataclass
class FakeRegistry:
    """Keeps what was named; or is broken."""

    broken: bool = False
    named: list[tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=list)

    def name(self, names: Sequence[str], sources: Sequence[str]) -> str:
        if self.broken:
            raise HostError(Stage.IMAGE, "unauthorized", "docker login")
        self.named.append((tuple(names), tuple(sources)))
        return "sha256:all"


@dataclass
class Part:
    """A dispatcher that knows how its build ends, and writes buildx's metadata."""

    platform: Platform
    end: Callable[[], int]

    def build(self, arguments: BuildArguments, project: str) -> Dispatched:
        assert project == "project"
        (metadata,) = arguments.values("--metadata-file")
        Path(metadata).write_text(json.dumps({"containerimage.digest": f"sha256:{self.platform.arch}"}))
        return Dispatched(self.end())


def split(registry: FakeRegistry, arm: Callable[[], int] = lambda: 0) -> tuple[Dispatched, FakeBuilder]:
    builder = FakeBuilder()
    ends = {AMD: lambda: 0, ARM: arm}
    # Nothing of a Dispatcher is needed but what stands in for it here.
    splitter = Splitter(lambda platform: Part(platform, ends[platform]), builder, registry)  # type: ignore[arg-type, return-value]
    return splitter.build(asked("-t example.com/app:1 --push"), "project", AMD), builder


def test_names_are_given_when_all_parts_are_there() -> None:
    registry = FakeRegistry()
    done, _ = split(registry)
    assert (done.code, done.digest) == (0, "sha256:all")
    assert registry.named == [
        (("example.com/app:1",), ("example.com/app@sha256:amd64", "example.com/app@sha256:arm64"))
    ]


def test_a_part_that_fails_gives_its_code_and_no_name_moves() -> None:
    registry = FakeRegistry()
    done, _ = split(registry, arm=lambda: 17)
    assert done.code == 17
    assert registry.named == []


def test_a_registry_that_refuses_is_told() -> None:
    with pytest.raises(HostError, match=r"example.com/app:1 stay as they were: unauthorized"):
        split(FakeRegistry(broken=True))


def test_a_context_from_a_pipe_cannot_be_split() -> None:
    # Nothing of a Dispatcher is needed but what stands in for it here.
    splitter = Splitter(lambda _: None, FakeBuilder(), FakeRegistry())  # type: ignore[arg-type, return-value]
    with pytest.raises(UsageError, match="standard input"):
        splitter.build(parse([*BOTH, "--split", "-"]), "project", AMD)
