"""`fleet tui` and `fleet status --watch` without a terminal, and what the dashboard is handed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fleet.applying.report import Event
from fleet.cli import tui
from fleet.cli.deeds import Deeds
from fleet.errors import UsageError, VaultError
from fleet.model.spec import Connection, Joined, TlsSpec
from fleet.observing.recording import Recorder, Recording
from tests.support.canned import SMALL, Canned, day
from tests.support.fakes import Machine
from tests.support.values import IMAGE, NOW, fleet, host
from tests.support.world import FakeWorld, at_once
from tests.unit.conftest import Run
from tui.outside import Outside

JOINED = replace(
    SMALL,
    joined=Joined("ci", NOW),
    hosts=tuple(replace(one, connection=Connection.NONE) for one in SMALL.hosts),
)
SPEC = fleet(host("amd-1"), host("amd-2"))


def test_an_operator_may_do_everything_and_who_has_joined_what_takes_no_operator() -> None:
    operator, member = tui.outside(SMALL), tui.outside(JOINED)
    assert sorted(operator.deeds) == ["drain", "prune", "restart", "resume", "up"]
    assert sorted(member.deeds) == ["prune"]
    assert all((operator.logs, operator.history, operator.shell, operator.builds))
    assert (member.logs, member.history, member.shell) == (None, None, None)
    assert member.builds


def test_without_a_terminal_there_is_no_dashboard(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs a terminal"):
        tui.tui(tmp_path / "inventory.yaml", read_only=False, bell=False, record=None)
    with pytest.raises(UsageError, match="needs a terminal"):
        tui.replay(tmp_path / "day.gz")


def test_recording_and_replaying_at_once_is_refused(run: Run) -> None:
    code, _, told = run("tui", "--record", "a", "--replay", "b")
    assert code == 2
    assert "cannot go together" in told


def test_a_recording_that_fails_is_told_and_the_watching_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = Canned([day(), day(), day()])
    written: list[object] = []

    def full(snapshot: object) -> None:
        if written:
            raise OSError(28, "No space left on device")
        written.append(snapshot)

    with Recorder(tmp_path / "day.gz", SMALL) as recorder:
        monkeypatch.setattr(recorder, "write", full)
        put = tui.taped(Outside(SMALL, feed.open, lambda: NOW), recorder)
        assert put.sign() == "● recording"
        feed.stop()
        with put.watch() as watching:
            seen = list(watching.snapshots())
    assert [len(taken.problems) for taken in seen] == [0, 1, 1]
    assert seen[2].problems[0].reason == "nothing is recorded any more: No space left on device"
    assert Recording.open(tmp_path / "day.gz").spec.name == "acme"


# --------------------------------------------------------------------------------------------------- deeds


@pytest.fixture
def world() -> FakeWorld:
    world = FakeWorld.of(*(Machine(one.address, images={IMAGE}) for one in SPEC.hosts))
    assert not world.apply(SPEC)
    return world


@pytest.fixture
def told() -> list[Event]:
    return []


def test_draining_and_resuming_is_noted_at_the_daemons(world: FakeWorld, told: list[Event]) -> None:
    deeds = Deeds(SPEC, world.ports)
    said = deeds.drain(["amd-1"], told.append)
    assert said[0] == "amd-1: done"
    assert [event.state for event in told if event.subject == "amd-1"] == ["begun", "done"]
    assert "drain" in world.machines["amd-1.example"].notes["fleet.acme.amd-1"]
    assert not world.machines["amd-2.example"].notes.get("fleet.acme.amd-2")
    deeds.resume(["amd-1"], told.append)
    assert "drain" not in world.machines["amd-1.example"].notes["fleet.acme.amd-1"]


def test_a_node_that_cannot_be_told_says_why_and_does_not_stop_the_others(world: FakeWorld, told: list[Event]) -> None:
    world.machines["amd-1.example"].network = False
    said = Deeds(SPEC, world.ports).drain(["amd-1", "amd-2"], told.append)
    assert said[0].startswith("amd-1: TCP: ")
    assert said[1] == "amd-2: done"


def test_up_brings_back_what_was_lost(world: FakeWorld, told: list[Event]) -> None:
    world.machines["amd-2.example"].containers.clear()
    with at_once():
        said = Deeds(SPEC, world.ports).up(["amd-2"], told.append)
    assert said[0] == "amd-2: done"
    assert [one.state for one in world.machines["amd-2.example"].containers] == ["running"]


def test_restart_replaces_the_daemon(world: FakeWorld, told: list[Event]) -> None:
    before = [one.id for one in world.machines["amd-1.example"].containers]
    with at_once():
        assert Deeds(SPEC, world.ports).restart(["amd-1"], told.append)[0] == "amd-1: done"
    assert [one.id for one in world.machines["amd-1.example"].containers] != before


def test_a_sealed_key_is_not_asked_for_on_a_screen(
    world: FakeWorld, told: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLEET_CA_PASSPHRASE", raising=False)
    sealed = replace(world.vault.read(), sealed=True)
    monkeypatch.setattr(world.vault, "read", lambda: sealed)
    with pytest.raises(VaultError, match="cannot ask for its passphrase"):
        Deeds(SPEC, world.ports).restart(["amd-1"], told.append)
    asked = replace(SPEC, tls=TlsSpec(ca_passphrase_command=("pass",)))
    with at_once():
        assert Deeds(asked, world.ports).restart(["amd-1"], told.append)[0] == "amd-1: done"


def test_pruning_says_what_it_freed(world: FakeWorld, told: list[Event]) -> None:
    assert Deeds(SPEC, world.ports).prune(["amd-1", "amd-2"], told.append) == ["amd-1: freed 0 B", "amd-2: freed 0 B"]
