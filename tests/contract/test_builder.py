"""What every Builder keeps: the fake, and docker buildx itself, whose behaviour `buildx.after` has to describe."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.adapters.builder import BuildxBuilder
from fleet.adapters.vault import FileVault
from fleet.buildx import (
    AppendNode,
    CreateBuilder,
    LeaveNode,
    RemoveBuilder,
    Step,
    after,
    arguments,
    same,
    steps,
    to_front,
)
from fleet.dispatching.build_arguments import OWN, SHORT_SWITCHES, SWITCHES
from fleet.errors import BuilderError
from tests.support.fakes import FakeBuilder
from tests.support.lab import eventually
from tests.support.values import OPTIONS, node
from tests.unit.test_buildx import STEPS, Nodes, any_step, reachable_nodes, wanted_nodes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from fleet.model.facts import BuilderNode
    from fleet.ports import Builder
    from tests.lab import Lab

NAME = "contract"


@pytest.fixture
def buildx(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BuildxBuilder:
    """The lab's buildx with a store of its own."""
    env = lab.env()
    for name in ("PATH", "DOCKER_CONFIG"):
        monkeypatch.setenv(name, env[name])
    monkeypatch.delenv("BUILDX_BUILDER", raising=False)
    return BuildxBuilder(tmp_path / "buildx")


@pytest.fixture(params=["fake", "buildx"])
def builder(request: pytest.FixtureRequest) -> Builder:
    if request.param == "fake":
        return FakeBuilder()
    real: BuildxBuilder = request.getfixturevalue("buildx")
    return real


def run(builder: Builder, *taken: Step) -> Nodes:
    """The nodes that the builder has after these steps."""
    for step in taken:
        builder.run(arguments(NAME, step))
    return builder.read(NAME).nodes


def equal(one: Sequence[BuilderNode], other: Sequence[BuilderNode]) -> bool:
    return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))


def test_a_builder_that_is_not_there_is_read_as_nothing(builder: Builder) -> None:
    facts = builder.read(NAME)
    assert (facts.nodes, facts.registered, facts.default) == ((), False, False)


def test_a_builder_is_read_as_it_was_made(builder: Builder) -> None:
    options = OPTIONS | {"cacert": '/a "quoted", comma/ca.pem', "servername": "amd64.acme.fleet.internal"}
    made = node("amd-1", "linux/amd64", "linux/amd64/v2", "linux/386", options=options)
    arm = node("arm-1", "linux/arm64", "linux/arm/v7", "linux/arm/v6", endpoint="tcp://[fd00::1]:1234")
    assert run(builder, CreateBuilder(made), AppendNode(arm)) == (made, arm)
    facts = builder.read(NAME)
    assert (facts.driver, facts.registered) == ("remote", True)


A, B = node("a", "linux/amd64", "linux/386"), node("b", "linux/arm64")
STANDBY = node("b")
THIEF = node("b", "linux/amd64", "linux/arm64")

SEQUENCES: dict[str, tuple[Step, ...]] = {
    "a pin is taken from its owner": (CreateBuilder(A), AppendNode(THIEF)),
    "an edit without platforms keeps the pins": (CreateBuilder(A), AppendNode(B), AppendNode(STANDBY)),
    "an edit with platforms replaces the pins": (CreateBuilder(A), AppendNode(node("a", "linux/riscv64"))),
    "an edit takes pins from another": (CreateBuilder(A), AppendNode(STANDBY), AppendNode(THIEF)),
    "an edit replaces options and endpoint": (
        CreateBuilder(A),
        AppendNode(B),
        AppendNode(node("b", "linux/arm64", endpoint="tcp://b.example:9", options=OPTIONS | {"servername": "x"})),
    ),
    "a node leaves and its pins with it": (CreateBuilder(A), AppendNode(B), LeaveNode("b")),
    "the first node leaves": (CreateBuilder(A), AppendNode(B), LeaveNode("a")),
    "an endpoint is free again": (
        CreateBuilder(A),
        AppendNode(B),
        LeaveNode("b"),
        AppendNode(node("c", endpoint=B.endpoint)),
    ),
    "a node with platforms goes behind another by a copy": (CreateBuilder(A), AppendNode(B), *to_front((A, B), "b")),
    "a builder is removed and made anew": (CreateBuilder(A), RemoveBuilder(), CreateBuilder(B)),
    "a platform in another spelling": (CreateBuilder(node("a", "linux/arm/v7", "linux/arm64/v8", "linux/amd64/v1")),),
}


@pytest.mark.parametrize("sequence", SEQUENCES.values(), ids=SEQUENCES)
def test_after_describes_what_buildx_does(builder: Builder, sequence: tuple[Step, ...]) -> None:
    assert equal(run(builder, *sequence), after((), sequence))


REFUSED: dict[str, tuple[tuple[Step, ...], Step]] = {
    "the last node leaves": ((CreateBuilder(A),), LeaveNode("a")),
    "a stranger leaves": ((CreateBuilder(A), AppendNode(B)), LeaveNode("c")),
    "a new node with another's endpoint": ((CreateBuilder(A),), AppendNode(node("b", endpoint=A.endpoint))),
    "a node moves to another's endpoint": (
        (CreateBuilder(A), AppendNode(B)),
        AppendNode(node("b", endpoint=A.endpoint)),
    ),
    "an existing builder is made": ((CreateBuilder(A),), CreateBuilder(B)),
    "appending to nothing": ((), AppendNode(A)),
}


@pytest.mark.parametrize(("before", "step"), REFUSED.values(), ids=REFUSED)
def test_buildx_refuses_what_after_refuses_and_changes_no_node(
    builder: Builder, before: tuple[Step, ...], step: Step
) -> None:
    nodes = run(builder, *before)
    with pytest.raises(ValueError, match=r"."):
        after(nodes, [step])
    with pytest.raises(BuilderError, match="docker buildx create failed: ") as caught:
        builder.run(arguments(NAME, step))
    assert caught.value.remedy
    assert {entry.name for entry in builder.read(NAME).nodes} == {entry.name for entry in nodes}


def test_a_builder_that_is_not_there_cannot_be_removed(builder: Builder) -> None:
    with pytest.raises(BuilderError, match="docker buildx rm failed: "):
        builder.run(arguments(NAME, RemoveBuilder()))


@pytest.mark.parametrize(("current", "wanted", "decided"), STEPS.values(), ids=STEPS)
def test_the_steps_that_fleet_decides_on_lead_where_it_wants(
    builder: Builder, current: Nodes, wanted: Nodes, decided: tuple[Step, ...]
) -> None:
    before = [CreateBuilder(entry) if first == 0 else AppendNode(entry) for first, entry in enumerate(current)]
    assert equal(run(builder, *before), current)
    reached = {entry.name: entry for entry in run(builder, *decided)}
    assert reached.keys() == {entry.name for entry in wanted}
    assert all(same(reached[entry.name], entry) for entry in wanted)


def fresh(name: str, buildx: BuildxBuilder) -> Callable[..., Nodes]:
    def take(*taken: Step) -> Nodes:
        for step in taken:
            buildx.run(arguments(name, step))
        return buildx.read(name).nodes

    return take


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(any_step, max_size=6))
def test_any_steps_do_to_buildx_what_after_says(buildx: BuildxBuilder, taken: list[Step]) -> None:
    name = f"x{len(list((buildx._directory / 'instances').glob('*')))}"
    take, nodes = fresh(name, buildx), after((), ())
    for step in taken:
        try:
            nodes = after(nodes, [step])
        except ValueError:
            continue
        if isinstance(step, RemoveBuilder) and not buildx.read(name).registered:
            continue
        assert equal(take(step), nodes)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(reachable_nodes(), wanted_nodes())
def test_any_stored_builder_becomes_any_other(buildx: BuildxBuilder, current: Nodes, wanted: list[BuilderNode]) -> None:
    name = f"y{len(list((buildx._directory / 'instances').glob('*')))}"
    take = fresh(name, buildx)
    take(*steps((), current) if current else ())
    reached = take(*steps(buildx.read(name).nodes, wanted))
    assert len(reached) == len(wanted)
    assert all(any(same(entry, one) for entry in reached) for one in wanted)


# ------------------------------------------------------------------------------------------- buildx alone


def test_a_node_that_hangs_holds_up_no_registration(buildx: BuildxBuilder, tmp_path: Path) -> None:
    """buildx would look at each node, with its lock held: who builds meanwhile would wait for that."""
    vault = FileVault(tmp_path / "vault")
    vault.create_authority("acme", datetime.now(UTC))
    vault.issue_client("operator", datetime.now(UTC))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        stored = run(buildx, CreateBuilder(node("a", "linux/amd64", endpoint=endpoint, options=vault.client_files)))
        assert time.monotonic() - began < 4.5
        assert [entry.endpoint for entry in stored] == [endpoint]


def test_a_run_gives_buildxs_own_exit_code(builder: Builder, capfd: pytest.CaptureFixture[str]) -> None:
    with builder.start(("version",)) as started:
        assert started.wait() == 0
    if isinstance(builder, BuildxBuilder):
        assert "buildx" in capfd.readouterr().out
        with builder.start(("inspect", "nobody")) as started:
            assert started.wait() == 1


def test_a_run_that_hangs_can_be_ended_and_leaves_nothing(
    buildx: BuildxBuilder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stub = tmp_path / "docker"
    stub.write_text(f"#!/bin/sh\ntrap '' INT TERM\ntouch {tmp_path}/deaf\nwhile :; do sleep 0.1; done\n")
    stub.chmod(0o755)
    buildx.check()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with buildx.start(("build",)) as started:
        eventually(lambda: (tmp_path / "deaf").exists() or None)
        started.end()
        assert started.wait() == 128 + signal.SIGKILL
        assert not started.interrupted
    assert list((buildx._directory / "runs").iterdir()) == []


def test_an_interrupt_of_the_terminal_breaks_off_no_change(
    buildx: BuildxBuilder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The terminal tells all processes of a group: what changes the builder is in one of its own."""
    stub = tmp_path / "docker"
    stub.write_text("#!/bin/sh\ncut -d' ' -f5 /proc/self/stat\n")
    stub.chmod(0o755)
    buildx.check()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert int(BuildxBuilder(tmp_path, buildx._fitness).run(("rm", NAME))) != os.getpgid(0)


def test_a_run_knows_its_own_builds_and_keeps_them(
    buildx: BuildxBuilder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stub = tmp_path / "docker"
    stub.write_text('#!/bin/sh\nmkdir -p "$BUILDX_CONFIG/refs/b/amd-1"\ntouch "$BUILDX_CONFIG/refs/b/amd-1/$$"\n')
    stub.chmod(0o755)
    buildx.check()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    known = []
    for _ in range(2):
        with buildx.start(("build",)) as started:
            assert started.wait() == 0
            known.append(started.refs())
    assert [(list(refs), len(refs["amd-1"])) for refs in known] == [(["amd-1"], 1)] * 2
    assert known[0] != known[1]
    assert len(list((buildx._directory / "refs/b/amd-1").iterdir())) == 2


def test_the_default_builder_is_told(buildx: BuildxBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    run(buildx, CreateBuilder(A))
    assert not buildx.read(NAME).default
    buildx.run(("use", NAME))
    assert buildx.read(NAME).default
    monkeypatch.setenv("BUILDX_BUILDER", "other")
    assert not buildx.read(NAME).default
    monkeypatch.setenv("BUILDX_BUILDER", NAME)
    assert buildx.read(NAME).default


def test_a_stored_builder_that_is_torn_is_an_error(buildx: BuildxBuilder) -> None:
    run(buildx, CreateBuilder(A))
    (buildx._directory / "instances" / NAME).write_text("{")
    with pytest.raises(BuilderError, match="not as expected"):
        buildx.read(NAME)


def test_a_machine_without_docker_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuilderError, match="docker cannot be run here: No such file") as caught:
        BuildxBuilder(tmp_path).run(("ls",))
    assert "install" in (caught.value.remedy or "")


def test_a_docker_without_buildx_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", lab.env()["PATH"])
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with pytest.raises(BuilderError, match="docker buildx does not run: ") as caught:
        BuildxBuilder(tmp_path / "buildx").run(("ls",))
    assert "install" in (caught.value.remedy or "")


@pytest.mark.parametrize("command", ["build", "bake"])
def test_the_switches_of_a_build_are_those_that_buildx_lists(buildx: BuildxBuilder, command: str) -> None:
    """A flag without a type in the help takes no value; that decides which word is a platform."""
    printed = subprocess.run(
        ("docker", "buildx", command, "--help"), env=dict(os.environ), capture_output=True, text=True, check=True
    ).stdout
    assert buildx.read(NAME).nodes == ()
    listed = re.findall(r"^ +(?:-(\w), |    )(--[a-z-]+)(?: (\S+))?  ", printed, re.MULTILINE)
    assert len(listed) > 15
    long = {flag for _, flag, kind in listed if not kind}
    valued = {flag for _, flag, kind in listed if kind}
    assert long <= SWITCHES
    assert not valued & SWITCHES
    assert not OWN & (long | valued | {f"-{short}" for short, _, _ in listed if short})
    assert {short for short, _, kind in listed if short and not kind} <= SHORT_SWITCHES
    assert not {short for short, _, kind in listed if short and kind} & SHORT_SWITCHES
