"""`fleet down` does what was agreed to, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fleet.cli import commands, output
from fleet.errors import Busy
from tests.support.fakes import Container, Machine
from tests.support.values import fleet, host
from tests.support.world import FakeWorld

if TYPE_CHECKING:
    from collections.abc import Callable

TWO = fleet(host("amd-1"), host("arm-1"))


def standing() -> FakeWorld:
    world = FakeWorld.of(Machine("amd-1.example"), Machine("arm-1.example", "aarch64"))
    assert world.apply(TWO) == {}
    return world


def begun_meanwhile(world: FakeWorld) -> None:
    machine = world.machines["arm-1.example"]
    machine.containers.append(Container("another", "fleet.acme.arm-1.aside", fleet=TWO.name, node="arm-1"))


def gone_meanwhile(world: FakeWorld) -> None:
    world.machines["arm-1.example"].docker = False


@pytest.fixture
def down(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[FakeWorld, Callable[[FakeWorld], None]], int]:
    """`fleet down`, while whose question is asked something happens."""

    def run(world: FakeWorld, happens: Callable[[FakeWorld], None]) -> int:
        monkeypatch.setenv("FLEET_HOME", str(tmp_path))
        monkeypatch.setattr(commands, "load", lambda *_: TWO)
        monkeypatch.setattr(commands, "world_of", lambda _: world.ports())
        monkeypatch.setattr(output, "ask", lambda *_: happens(world))
        given = dict.fromkeys(("volumes", "any_vault", "yes", "as_json", "verbose"), False)
        return commands.down(tmp_path, (), **given)

    return run


def containers(world: FakeWorld) -> list[str]:
    return [container.name for machine in world.machines.values() for container in machine.containers]


def test_what_was_agreed_to_is_removed(down: Callable[..., int]) -> None:
    world = standing()
    assert down(world, lambda _: None) == 0
    assert containers(world) == []


def test_what_somebody_has_begun_since_is_not(down: Callable[..., int]) -> None:
    world = standing()
    with pytest.raises(Busy, match="somebody has changed the fleet meanwhile: nothing was removed"):
        down(world, begun_meanwhile)
    assert containers(world) == ["fleet.acme.amd-1", "fleet.acme.arm-1", "fleet.acme.arm-1.aside"]
    assert world.builder.read(TWO.name).registered


def test_a_host_whose_docker_went_since_keeps_nobody_from_the_others(down: Callable[..., int]) -> None:
    world = standing()
    assert down(world, gone_meanwhile) == 3
    assert containers(world) == ["fleet.acme.arm-1"]
