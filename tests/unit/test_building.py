"""What is built on several nodes, as it happens: begun, gone on, ended, and nodes that fall silent."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from fleet.builds import BuildRecord, Outcome, Step, Steps, StepState
from fleet.model.facts import Down, Stage
from fleet.notes import DRAIN
from fleet.observing import building
from fleet.parallel import Stop
from tests.support.fakes import FakeProber, Machine
from tests.support.values import IMAGE, NOW, fleet, host
from tests.support.world import FakeWorld

SPEC = fleet(host("amd-1"), host("amd-2"))
BEGUN = BuildRecord("amd-1", "r1", NOW)
ENDED = replace(BEGUN, completed=NOW, outcome=Outcome.DONE, steps=Steps(2, 2, 1))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> FakeWorld:
    monkeypatch.setattr(building, "AGAIN", 0.01)
    monkeypatch.setattr(building, "STEPS_EVERY", 0.0)
    world = FakeWorld.of(*(Machine(one.address, images={IMAGE}) for one in SPEC.hosts))
    assert not world.apply(SPEC)
    return world


@contextmanager
def following(world: FakeWorld, *, steps: bool = False) -> Iterator[Iterator[building.Told]]:
    before, stop = set(threading.enumerate()), Stop()
    told = building.follow(SPEC.hosts, world.ports().prober, stop, steps=steps)
    yield told
    stop.set()
    for _ in told:
        pass
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()


def until(told: Iterator[building.Told], wanted: building.Told) -> list[building.Told]:
    """What comes before it."""
    before: list[building.Told] = []
    for said in told:
        if said == wanted:
            return before
        before.append(said)
    pytest.fail(f"{wanted} never came, but {before}")


def built(world: FakeWorld, node: str) -> list[BuildRecord]:
    return world.machines[f"{node}.example"].built.setdefault(f"fleet.acme.{node}", [])


def test_builds_are_told_as_they_begin_and_end(world: FakeWorld) -> None:
    built(world, "amd-1").append(BEGUN)
    with following(world) as told:
        assert ("amd-1", None) in until(told, ("amd-1", BEGUN))
        built(world, "amd-1").append(ENDED)
        assert ("amd-1", BEGUN) not in until(told, ("amd-1", ENDED))


def test_what_a_running_build_has_done_is_told_too(world: FakeWorld) -> None:
    steps = world.machines["amd-1.example"].steps.setdefault("r1", [])
    with following(world, steps=True) as told:
        built(world, "amd-1").append(BEGUN)
        until(told, ("amd-1", BEGUN))
        steps.append(Step("a", "a", StepState.CACHED, NOW, NOW))
        until(told, ("amd-1", replace(BEGUN, steps=Steps(1, 1, 1))))
        steps.append(Step("b", "b", StepState.RUNNING, NOW))
        until(told, ("amd-1", replace(BEGUN, steps=Steps(1, 2, 1))))
        built(world, "amd-1").append(ENDED)
        until(told, ("amd-1", ENDED))


def test_a_node_that_does_not_answer_is_told_and_the_others_go_on(world: FakeWorld) -> None:
    world.machines["amd-1.example"].network = False
    with following(world) as told:
        built(world, "amd-2").append(replace(BEGUN, node="amd-2"))
        before = until(told, ("amd-2", replace(BEGUN, node="amd-2")))
        silent = next(said for name, said in itertools.chain(before, told) if name == "amd-1")
        assert isinstance(silent, Down)
        assert silent.stage is Stage.TCP
        world.machines["amd-1.example"].network = True
        until(told, ("amd-1", None))


def test_a_drained_node_is_asked_again_and_again_and_not_listened_to(world: FakeWorld) -> None:
    world.machines["amd-1.example"].notes["fleet.acme.amd-1"] = {DRAIN: "by anna"}
    built(world, "amd-1").append(BEGUN)
    with following(world) as told:
        for _ in range(3):
            until(told, ("amd-1", BEGUN))


def test_a_mistake_of_ours_is_a_reason(world: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object) -> Iterator[BuildRecord]:
        raise KeyError("no")

    monkeypatch.setattr(FakeProber, "feed", wrong)
    with following(world) as told:
        name, said = next(told)
    assert name in {"amd-1", "amd-2"}
    assert isinstance(said, Down)
    assert said.reason == "unexpected KeyError: 'no'"
