"""`fleet build`: which builder buildx is given, and what is refused before anything is sent."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest

from fleet import dispatch as dispatch_module
from fleet import notes
from fleet.dispatch import Dispatcher
from fleet.errors import RoutingError, UsageError
from fleet.model import ApiFacts, Down, HostSpec, Platform, Stage
from tests.support.fakes import FakeBuilder
from tests.support.values import NOW, OPTIONS, WORKER_PLATFORMS, fleet, host, platforms

SPEC = fleet(host("amd-1"), host("amd-2"), host("arm-1"))
AMD, ARM = WORKER_PLATFORMS["x86_64"], WORKER_PLATFORMS["aarch64"]
DEAD = Down(Stage.TCP, "refused the connection")


@dataclass
class Answers:
    """A prober that knows what each node says."""

    by_name: Mapping[str, ApiFacts | Down]
    asked: list[str] = field(default_factory=list)

    def probe(self, host: HostSpec, *, timeout: float) -> ApiFacts | Down:
        assert timeout <= 1
        self.asked.append(host.name)
        return self.by_name[host.name]


def api(*reported: str) -> ApiFacts:
    return ApiFacts("v0.32.2", "worker", platforms(*reported), 1.0)


def dispatcher(
    answers: Mapping[str, ApiFacts | Down] | None = None, owners: Mapping[Platform, str] | None = None
) -> tuple[Dispatcher, FakeBuilder, list[str]]:
    builder, told = FakeBuilder(), list[str]()
    everyone = {"amd-1": api(*AMD), "amd-2": api(*AMD), "arm-1": api(*ARM), **(answers or {})}
    return Dispatcher(SPEC, Answers(everyone), builder, OPTIONS, owners or {}, told.append), builder, told


def test_a_build_does_not_wait_for_nodes_that_it_does_not_need() -> None:
    release = threading.Event()

    class Slow(Answers):
        def probe(self, host: HostSpec, *, timeout: float) -> ApiFacts | Down:
            if host.name != "amd-1":
                assert release.wait(30)
            return super().probe(host, timeout=timeout)

    dispatch, builder, _ = dispatcher(owners={Platform("linux", "amd64"): "amd-1"})
    dispatch = replace(dispatch, prober=Slow({"amd-1": api(*AMD), "amd-2": api(*AMD), "arm-1": api(*ARM)}))
    try:
        assert dispatch.build(("--platform", "linux/amd64", ".")) == 0
    finally:
        release.set()
    assert pins(builder) == {"amd-1": ("linux/amd64",)}


def pins(builder: FakeBuilder) -> dict[str, tuple[str, ...]]:
    """Node -> platforms of the builder that the build was given."""
    name = builder.ran[-1][builder.ran[-1].index("--builder") + 1]
    return {node.name: tuple(map(str, node.platforms)) for node in builder.read(name).nodes}


def test_a_builder_of_exactly_the_chosen_nodes_is_used() -> None:
    dispatch, builder, _ = dispatcher()
    assert dispatch.build(("--platform", "linux/arm64,linux/amd64", "--push", ".")) == 0
    assert pins(builder) == {"arm-1": ("linux/arm64",), "amd-1": ("linux/amd64",)}
    assert builder.ran[-1][3:] == ("--platform", "linux/arm64,linux/amd64", "--push", ".")


def test_the_owner_of_a_platform_builds_it_while_it_can() -> None:
    owners = dict.fromkeys(platforms(*AMD), "amd-2")
    dispatch, builder, _ = dispatcher(owners=owners)
    dispatch.build(("--platform", "linux/amd64", "."))
    assert pins(builder) == {"amd-2": ("linux/amd64",)}
    dispatch, builder, _ = dispatcher({"amd-2": DEAD}, owners)
    dispatch.build(("--platform", "linux/amd64", "."))
    assert pins(builder) == {"amd-1": ("linux/amd64",)}


PASSING = replace(api(*ARM), notes={notes.DRAIN: notes.Drain("anna@laptop", NOW, passing=True).text()})
DRAINED = replace(api(*ARM), notes={notes.DRAIN: notes.Drain("anna@laptop", NOW).text()})


@dataclass
class InTurn(Answers):
    """arm-1 says one thing after the other, the last for good."""

    says: list[ApiFacts | Down] = field(default_factory=list)

    def probe(self, host: HostSpec, *, timeout: float) -> ApiFacts | Down:
        if host.name != "arm-1":
            return super().probe(host, timeout=timeout)
        return self.says.pop(0) if len(self.says) > 1 else self.says[0]


@pytest.mark.parametrize(
    "before",
    [pytest.param([DEAD, DEAD], id="restarting"), pytest.param([PASSING, DEAD, PASSING], id="being replaced")],
)
def test_a_node_that_comes_back_is_waited_for_when_nobody_else_runs_it(
    before: list[ApiFacts | Down], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch_module, "LOOK_EVERY", 0.0)
    dispatch, builder, told = dispatcher(owners={Platform("linux", "arm64"): "arm-1"})
    dispatch = replace(dispatch, prober=InTurn({"amd-1": api(*AMD), "amd-2": api(*AMD)}, says=[*before, api(*ARM)]))
    assert dispatch.build(("--platform", "linux/arm64", ".")) == 0
    assert pins(builder) == {"arm-1": ("linux/arm64",)}
    assert len(told) == 1
    assert told[0].startswith("waiting for arm-1: ")


def test_a_node_that_is_being_replaced_may_be_gone_for_longer_than_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("LOOK_EVERY", "SILENT_TIMEOUT"):
        monkeypatch.setattr(dispatch_module, limit, 0.0)
    dispatch, builder, _ = dispatcher(owners={Platform("linux", "arm64"): "arm-1"})
    says: list[ApiFacts | Down] = [PASSING, DEAD, DEAD, api(*ARM)]
    dispatch = replace(dispatch, prober=InTurn({"amd-1": api(*AMD), "amd-2": api(*AMD)}, says=says))
    assert dispatch.build(("--platform", "linux/arm64", ".")) == 0
    assert pins(builder) == {"arm-1": ("linux/arm64",)}


@pytest.mark.parametrize(
    ("answer", "owner"),
    [
        pytest.param(DEAD, "arm-1", id="a dead owner"),
        pytest.param(PASSING, None, id="a replacement that does not end"),
    ],
)
def test_waiting_has_an_end(answer: ApiFacts | Down, owner: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("LOOK_EVERY", "SILENT_TIMEOUT", "PASSING_TIMEOUT"):
        monkeypatch.setattr(dispatch_module, limit, 0.01)
    dispatch, builder, told = dispatcher({"arm-1": answer}, {Platform("linux", "arm64"): owner} if owner else None)
    dispatch = replace(dispatch, prober=InTurn({"amd-1": api(*AMD), "amd-2": api(*AMD)}, says=[answer]))
    with pytest.raises(RoutingError, match="no healthy node runs linux/arm64"):
        dispatch.build(("--platform", "linux/arm64", "."))
    assert len(told) == 1
    assert builder.ran == []


def test_a_drained_node_is_not_waited_for() -> None:
    dispatch, _, told = dispatcher({"arm-1": DRAINED}, {Platform("linux", "arm64"): "arm-1"})
    with pytest.raises(RoutingError, match="drained: by anna@laptop"):
        dispatch.build(("--platform", "linux/arm64", "."))
    assert told == []


def test_the_same_choice_is_the_same_builder_and_is_made_once() -> None:
    dispatch, builder, _ = dispatcher()
    dispatch.build(("--platform", "linux/amd64", "."))
    made = len(builder.ran)
    dispatch.build(("--platform", "linux/amd64", "."))
    assert len(builder.ran) == made + 1


def test_the_exit_code_is_that_of_buildx() -> None:
    dispatch, builder, _ = dispatcher()
    builder.exit_code = 17
    assert dispatch.build((".",)) == 17


@pytest.mark.parametrize(
    "answers",
    [{"arm-1": DEAD}, {"arm-1": api(*AMD)}, {"arm-1": api("linux/amd64", "linux/arm64")}],
    ids=["dead", "another machine", "would emulate"],
)
def test_a_platform_that_no_node_runs_natively_is_refused_with_every_nodes_reason(
    answers: Mapping[str, ApiFacts | Down],
) -> None:
    dispatch, builder, _ = dispatcher(answers)
    with pytest.raises(RoutingError) as refused:
        dispatch.build(("--platform", "linux/amd64,linux/arm64", "."))
    assert "no healthy node runs linux/arm64 natively" in refused.value.message
    assert all(f"  {name}: " in refused.value.message for name in ("amd-1", "amd-2", "arm-1"))
    assert builder.ran == []


def test_without_a_platform_the_machines_own_is_built_and_said() -> None:
    dispatch, builder, told = dispatcher()
    dispatch.build((".",))
    (platform,) = pins(builder).values()
    own = Platform.parse(os.uname().machine)
    assert platform == (str(own),)
    assert told == [f"no --platform given: building for {own}"]
    assert ("--platform", str(own)) == builder.ran[-1][3:5]


def test_the_environments_default_platform_counts_as_for_buildx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_DEFAULT_PLATFORM", "linux/arm64")
    dispatch, builder, told = dispatcher()
    dispatch.build((".",))
    assert pins(builder) == {"arm-1": ("linux/arm64",)}
    assert told == []
    dispatch.build(("--platform", "linux/amd64", "."))
    assert pins(builder) == {"amd-1": ("linux/amd64",)}


@pytest.mark.parametrize("arguments", [("--builder", "other", "."), ("--builder=other", ".")])
def test_a_builder_named_by_the_user_is_refused(arguments: tuple[str, ...]) -> None:
    dispatch, builder, _ = dispatcher()
    with pytest.raises(UsageError, match="chooses the nodes itself"):
        dispatch.build(arguments)
    assert builder.ran == []


def test_no_node_at_all_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_DEFAULT_PLATFORM", raising=False)
    dispatch, builder, _ = dispatcher(dict.fromkeys(("amd-1", "amd-2", "arm-1"), DEAD))
    with pytest.raises(RoutingError, match="no node answers"):
        dispatch.build((".",))
    assert builder.ran == []
