"""Builds that lose their node, fail by their own fault, or find no room: on two real hosts of one architecture."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fleet.dispatching.spread import order
from tests.e2e.conftest import Operator
from tests.support import pushed

if TYPE_CHECKING:
    from tests.lab import Lab

PORT = 1263

AMD = ("amd-1", "amd-2")

DOCKERFILE = """\
ARG BASE
FROM $BASE
ARG SALT
RUN echo $SALT > /one
RUN echo under way; sleep 4; echo $SALT > /two
"""

NOTICED = 5.0
"""Seconds within which a node that has fallen silent has to be noticed."""


@pytest.fixture(scope="module", autouse=True)
def _up(operator: Operator) -> None:
    operator.inventory(AMD)
    inventory = operator.home / "inventory.yaml"
    # JSON is YAML.
    inventory.write_text(json.dumps(json.loads(inventory.read_text()) | {"max_builds": 2}))
    operator.json("up")


@pytest.fixture
def healed(lab: Lab, operator: Operator) -> Iterator[None]:
    yield
    for name in AMD:
        lab.hosts[name].heal()
        on(operator, name, "docker unpause DAEMON 2> /dev/null; docker start DAEMON")
    operator.settled_status()


def on(operator: Operator, name: str, command: str) -> str:
    """Run this on a host; DAEMON stands for the container of this fleet's daemon."""
    return operator.lab.hosts[name].ssh(command.replace("DAEMON", f"fleet.{operator.name}.{name}"))


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    return tmp_path


def typed(operator: Operator, context: Path, *options: str) -> tuple[str, ...]:
    """A build that is not cached."""
    env = operator.lab.env()
    return (
        *("fleet", "build", "--progress", "plain", *(() if "--platform" in options else ("--platform", "linux/amd64"))),
        *("--build-arg", f"BASE={env['LAB_BASE_IMAGE']}", "--build-arg", f"SALT={context}", *options, str(context)),
    )


@dataclass(frozen=True, slots=True)
class Told:
    """What a build said on stderr, each line with the moment it came (time.monotonic)."""

    code: int
    lines: list[tuple[float, str]]

    @property
    def fleet(self) -> list[tuple[float, str]]:
        return [(at, line) for at, line in self.lines if line.startswith("fleet: ")]

    def __str__(self) -> str:
        return f"exit {self.code}\n" + "".join(line for _, line in self.lines)


def watched(
    operator: Operator, argv: Sequence[str], moment: str, act: Callable[[], object], stdout: int | None = None
) -> tuple[Told, float]:
    """Run to the end, and do something when a line has this in it; what was said, and when it was done."""
    acted, lines = 0.0, list[tuple[float, str]]()
    with subprocess.Popen(
        argv, env=operator.env, cwd=operator.home, stdout=stdout, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        for line in process.stderr:
            lines.append((time.monotonic(), line))
            if moment in line and not acted:
                act()
                acted = time.monotonic()
    told = Told(process.returncode, lines)
    assert acted, told
    return told, acted


def affine(name: str) -> str:
    """A project whose node is this one."""
    return next(key for key in map(str, range(100)) if order(key, dict.fromkeys(AMD, 2))[0] == name)


def nothing_is_left(operator: Operator) -> None:
    """No buildx, nothing reserved, no configuration of a run."""
    folder = operator.vault / "buildx"
    assert [path for place in ("runs", "reserved") for path in (folder / place).glob("[!.]*")] == []
    for found in Path("/proc").glob("[0-9]*/environ"):
        try:
            environment = found.read_bytes().split(b"\0")
        except OSError:
            continue
        own = int(found.parent.name) == os.getpid()
        assert own or not any(entry.startswith(f"BUILDX_CONFIG={folder}".encode()) for entry in environment)


@pytest.mark.usefixtures("healed")
@pytest.mark.parametrize("name", AMD)
def test_when_the_daemon_is_killed_the_other_finishes_and_the_image_is_whole(
    lab: Lab, operator: Operator, context: Path, name: str
) -> None:
    registry, repository = lab.env()["LAB_REGISTRY"], f"e2e/dispatch-{name}"
    output = f"type=image,name={registry}/{repository}:1,push=true,registry.insecure=true"
    argv = typed(operator, context, "--affinity", affine(name), "--output", output)
    told, _ = watched(operator, argv, "under way", lambda: on(operator, name, "docker kill DAEMON"))
    assert told.code == 0, told
    other = next(host for host in AMD if host != name)
    assert [
        line for _, line in told.fleet if f"{name} is lost (" in line and f"linux/amd64 goes on on {other}" in line
    ], told
    image = pushed.read(registry, repository, "1")["linux/amd64"]
    assert {image.files[step].decode().strip() for step in ("one", "two")} == {str(context)}
    nothing_is_left(operator)


@pytest.mark.usefixtures("healed")
@pytest.mark.parametrize(("fault", "terminal"), [("frozen", False), ("frozen", True), ("black-holed", False)])
def test_a_node_that_falls_silent_is_noticed_and_left(
    lab: Lab, operator: Operator, context: Path, fault: str, terminal: bool
) -> None:
    """On a terminal docker would keep the signal that ends buildx to itself."""

    def break_it() -> None:
        if fault == "frozen":
            on(operator, "amd-1", "docker pause DAEMON")
        else:
            lab.hosts["amd-1"].blackhole()

    argv = typed(operator, context, "--affinity", affine("amd-1"), "--output", "type=cacheonly")
    ours, theirs = pty.openpty()
    try:
        told, acted = watched(operator, argv, "under way", break_it, theirs if terminal else None)
    finally:
        os.close(ours)
        os.close(theirs)
    assert told.code == 0, told
    at = next(at for at, line in told.fleet if "amd-1 is lost (" in line and "goes on on amd-2" in line)
    # What was said before is that buildx was ended.
    assert at - acted < NOTICED + 2, told
    nothing_is_left(operator)


def test_a_node_that_is_drained_lets_its_build_end(operator: Operator, context: Path) -> None:
    argv = typed(operator, context, "--affinity", affine("amd-1"), "--output", "type=cacheonly")
    try:
        told, _ = watched(operator, argv, "under way", lambda: operator.json("drain", "amd-1"))
    finally:
        operator.json("resume", "amd-1")
    assert told.code == 0, told
    ((_, built),) = told.fleet
    assert built.startswith("fleet: linux/amd64  amd-1  native  "), told


def test_a_step_that_fails_is_tried_once(operator: Operator, context: Path) -> None:
    (context / "Dockerfile").write_text(DOCKERFILE.replace("sleep 4", "exit 42"))
    told, _ = watched(operator, typed(operator, context), "under way", lambda: None)
    assert told.code == 1
    assert told.fleet == []
    assert sum("exit code: 42" in line and line.startswith("ERROR") for _, line in told.lines) == 1, told


def test_many_at_once_are_spread_and_no_node_has_more_than_it_may(operator: Operator, context: Path) -> None:
    begun = [
        subprocess.Popen(
            typed(operator, context, "--build-arg", f"NUMBER={number}", "--output", "type=cacheonly", "--no-cache"),
            env=operator.env,
            cwd=operator.home,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(8)
    ]
    most, used = 0, Counter[str]()
    while any(process.poll() is None for process in begun):
        held = Counter(path.name.partition("@")[0] for path in (operator.vault / "buildx/reserved").glob("[!.]*"))
        most, used = max(most, *held.values(), 0), used | held
        time.sleep(0.05)
    said = [process.communicate()[1] for process in begun]
    assert [process.returncode for process in begun] == [0] * 8, said
    assert (most, set(used)) == (2, set(AMD))
    assert any("waiting for room for linux/amd64" in text for text in said)
    nothing_is_left(operator)


VARIANTS = "linux/amd64,linux/amd64/v2"
"""Two platforms that every amd64 host runs itself."""


def test_platforms_that_are_built_apart_make_one_image_and_have_caches_of_their_own(
    lab: Lab, operator: Operator, context: Path
) -> None:
    registry, repository = lab.env()["LAB_REGISTRY"], "e2e/dispatch-split"
    (context / "Dockerfile").write_text(DOCKERFILE.replace("sleep 4", "true"))
    argv = (
        *typed(operator, context, "--platform", VARIANTS, "--split", "--push", "-t", f"{registry}/{repository}:1"),
        *("--cache", f"{registry}/{repository}-cache", "--metadata-file", "metadata.json"),
    )
    done = operator.run(*argv)
    assert done.returncode == 0, done.stderr
    before = pushed.read(registry, repository, "1")
    assert set(before) == set(VARIANTS.split(","))
    assert {image.files["two"].decode().strip() for image in before.values()} == {str(context)}
    assert set(pushed.tags(registry, f"{repository}-cache")) == {"main-linux-amd64", "main-linux-amd64-v2"}
    told = json.loads((operator.home / "metadata.json").read_text())
    assert {built["platforms"][0]: built["digest"][:7] for built in told["fleet"]["builds"]} == dict.fromkeys(
        before, "sha256:"
    )
    assert "linux/amd64/v2 | " in done.stderr
    (context / "Dockerfile").write_text(
        DOCKERFILE.replace("sleep 4;", "test -z $TARGETVARIANT &&").replace("ARG SALT", "ARG SALT\nARG TARGETVARIANT")
    )
    failed = operator.run(*argv)
    assert failed.returncode == 1, failed.stderr
    assert {platform: image.digest for platform, image in pushed.read(registry, repository, "1").items()} == {
        platform: image.digest for platform, image in before.items()
    }
    nothing_is_left(operator)


def test_the_targets_of_a_bake_are_built_natively(operator: Operator, context: Path) -> None:
    base = operator.lab.env()["LAB_BASE_IMAGE"]
    target = {"context": str(context), "args": {"BASE": base, "SALT": str(context)}, "output": ["type=cacheonly"]}
    (context / "Dockerfile").write_text(DOCKERFILE.replace("sleep 4", "true"))
    file = context / "docker-bake.json"
    targets = {"web": target | {"platforms": ["linux/amd64"]}, "api": target | {"platforms": ["linux/amd64/v2"]}}
    file.write_text(json.dumps({"group": {"default": {"targets": [*targets]}}, "target": targets}))
    told = operator.json("bake", "-f", str(file), "--progress", "plain", "--allow", f"fs.read={context}")
    assert sorted(built["platforms"] for built in told["builds"]) == [["linux/amd64"], ["linux/amd64/v2"]]
    assert {built["native"] for built in told["builds"]} == {True}
    file.write_text(json.dumps({"target": {"web": target | {"platforms": ["linux/riscv64"]}}}))
    refused = operator.fleet("bake", "-f", str(file), "web", expect=1)
    assert "no healthy node runs linux/riscv64 natively" in refused.stderr
    nothing_is_left(operator)


def test_ctrl_c_ends_buildx_and_leaves_nothing(operator: Operator, context: Path) -> None:
    argv = typed(operator, context, "--output", "type=cacheonly", "--no-cache")
    with subprocess.Popen(
        argv, env=operator.env, cwd=operator.home, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr
        for line in process.stderr:
            if "under way" in line:
                os.killpg(process.pid, 2)
    assert process.returncode == 130
    nothing_is_left(operator)
