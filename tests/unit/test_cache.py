"""The build caches: what they hold, what pruning would take, and asking and pruning many nodes."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.adapters.vault import FileVault
from fleet.applying.report import Event
from fleet.cache import CacheRecord, Pruning, Usage, summed, would_go
from fleet.cli.cache import Held, _held_json, clean, look
from fleet.model.facts import Down, Stage
from fleet.model.spec import Connection, FleetSpec
from tests.support.fakes import Machine
from tests.support.values import IMAGE, NOW, fleet, host
from tests.support.world import FakeWorld
from tests.unit.conftest import Run

HOUR = timedelta(hours=1)
OLD = CacheRecord(100, last_used=NOW - 48 * HOUR)
NEW = CacheRecord(30, last_used=NOW - HOUR)
NEVER = CacheRecord(5)
BUSY = CacheRecord(1000, in_use=True, last_used=NOW - 99 * HOUR)
FRONTEND = CacheRecord(7, kind="frontend", last_used=NOW - 99 * HOUR)
INTERNAL = CacheRecord(2, kind="internal", last_used=NOW - 99 * HOUR)
SHARED = CacheRecord(3, shared=True, last_used=NOW - 99 * HOUR)
ALL = (NEW, OLD, NEVER, BUSY, FRONTEND, INTERNAL, SHARED)

GOES: dict[str, tuple[Pruning, int, int]] = {
    "what no build uses": (Pruning(), 135, 3),
    "everything but what is in use": (Pruning(everything=True), 147, 6),
    "what is older": (Pruning(older=2 * HOUR), 105, 2),
    "everything that is older": (Pruning(everything=True, older=2 * HOUR), 117, 5),
    "nothing is so old, but what was never used": (Pruning(older=1000 * HOUR), 5, 1),
    "there is less than may stay": (Pruning(keep=2000), 0, 0),
    "the least recently used until it is little enough": (Pruning(keep=1100), 105, 2),
    "what is in use counts, and stays": (Pruning(keep=1), 135, 3),
    "as much as may stay, and of that what is older": (Pruning(keep=1, older=2 * HOUR), 105, 2),
}


@pytest.mark.parametrize(("wanted", "count", "records"), GOES.values(), ids=GOES)
def test_what_would_go(wanted: Pruning, count: int, records: int) -> None:
    assert would_go(ALL, wanted, NOW) == Usage(count, count, records)


def test_a_cache_is_summed_up() -> None:
    usage = summed(ALL)
    assert (usage.total, usage.reclaimable, usage.in_use, usage.records) == (1147, 147, 1000, 7)
    assert summed(()) == Usage(0, 0, 0)


RECORDS = st.lists(
    st.builds(
        CacheRecord,
        size=st.integers(0, 1000),
        in_use=st.booleans(),
        shared=st.booleans(),
        kind=st.sampled_from(["regular", "frontend", "internal", "exec.cachemount"]),
        last_used=st.none() | st.timedeltas(timedelta(0), 100 * HOUR).map(lambda ago: NOW - ago),
    ),
    max_size=12,
)
PRUNINGS = st.builds(
    Pruning, keep=st.integers(0, 3000), everything=st.booleans(), older=st.timedeltas(timedelta(0), 50 * HOUR)
)


@given(RECORDS, PRUNINGS)
def test_what_is_in_use_never_goes_and_enough_stays(records: list[CacheRecord], wanted: Pruning) -> None:
    going = would_go(records, wanted, NOW)
    assert going.in_use == 0
    assert going.total <= summed(records).reclaimable
    if wanted.keep:
        largest = max((record.size for record in records), default=0)
        private = sum(record.size for record in records if not record.shared)
        assert going.total == 0 or private - going.total >= wanted.keep - largest - sum(
            record.size for record in records if record.shared
        )


# ------------------------------------------------------------------------------------------------- many nodes

SPEC = fleet(host("amd-1", address="10.0.0.1"), host("arm-1", address="10.0.0.2"))


@pytest.fixture
def world() -> FakeWorld:
    """A fleet that is up, with something in both caches."""
    made = FakeWorld.of(Machine("10.0.0.1", images={IMAGE}), Machine("10.0.0.2", "aarch64", images={IMAGE}))
    assert made.apply(SPEC) == {}
    for machine, volume in zip(made.machines.values(), ("fleet.acme.amd-1", "fleet.acme.arm-1"), strict=True):
        assert volume in machine.volumes
        machine.cache[volume] = [OLD, NEW, BUSY]
    return made


def test_every_node_says_what_it_holds(world: FakeWorld) -> None:
    disk = (50_000_000 * 1024, 100_000_000 * 1024)
    assert look(SPEC, SPEC.hosts, world.ports()) == [
        Held(name, Usage(1130, 130, 3), *disk) for name in ("amd-1", "arm-1")
    ]


def test_a_node_that_does_not_answer_is_told_and_so_is_a_host(world: FakeWorld) -> None:
    world.machines["10.0.0.1"].network = False
    world.machines["10.0.0.2"].login = False
    amd, arm = look(SPEC, SPEC.hosts, world.ports())
    assert isinstance(amd.cache, Down)
    assert (amd.cache.stage, amd.free) == (Stage.TCP, 50_000_000 * 1024)
    assert (arm.cache, arm.free) == (Usage(1130, 130, 3), None)
    assert arm.warning
    assert arm.warning.stage is Stage.SSH


def test_on_a_machine_that_has_joined_nobody_logs_in(world: FakeWorld) -> None:
    joined = FleetSpec(SPEC.name, SPEC.buildkit, tuple(replace(one, connection=Connection.NONE) for one in SPEC.hosts))
    for machine in world.machines.values():
        machine.login = False
    assert look(joined, joined.hosts, world.ports()) == [Held(name, Usage(1130, 130, 3)) for name in ("amd-1", "arm-1")]


def test_all_nodes_are_pruned_and_tell_how_far_they_are(world: FakeWorld) -> None:
    told: list[Event] = []
    freed = clean(SPEC.hosts, world.prober(), Pruning(), told.append)
    assert {name: (one.bytes, one.records, one.failure) for name, one in freed.items()} == {
        "amd-1": (130, 2, None),
        "arm-1": (130, 2, None),
    }
    assert [event.text for event in told if event.subject == "amd-1"] == ["freed 100 B", "freed 130 B"]
    assert world.machines["10.0.0.1"].cache["fleet.acme.amd-1"] == [BUSY]


def test_a_node_that_fails_while_it_is_pruned_stops_no_other(world: FakeWorld) -> None:
    world.machines["10.0.0.1"].breaks_off = True
    freed = clean(SPEC.hosts, world.prober(), Pruning(), lambda _: None)
    assert freed["amd-1"].failure
    assert (freed["amd-1"].records, freed["arm-1"].bytes) == (0, 130)


# ----------------------------------------------------------------------------------------- the command line

MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "no such node": (("prune", "amd-9"), "the inventory has no host 'amd-9'"),
    "no such node to look at": (("du", "amd-9"), "the inventory has no host 'amd-9'"),
    "no size": (("prune", "--keep", "lots"), "--keep: 'lots' is not a size such as 10GB"),
    "no duration": (("prune", "--older", "7"), "--older: '7' is not a duration such as 10m"),
    "no time": (("logs", "--since", "noon"), "--since: 'noon' is neither a duration"),
    "no such node to log in to": (("ssh", "amd-9"), "the inventory has no host 'amd-9'"),
    "a tail of what": (("logs", "-n", "-1"), "Invalid value for '-n'"),
}


@pytest.mark.parametrize(("typed", "complaint"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_in_plain_words(run: Run, typed: tuple[str, ...], complaint: str) -> None:
    code, out, err = run(*typed)
    assert (code, out) == (2, "")
    assert complaint in err


@pytest.mark.parametrize("command", ["du", "prune"])
def test_before_up_there_is_nothing_to_ask_with(run: Run, command: str) -> None:
    code, out, err = run(command)
    assert (code, out) == (1, "")
    assert "there is no client certificate" in err


@pytest.fixture
def keys(home: Path) -> FileVault:
    """Keys for the fleet of the inventory."""
    vault = FileVault(home / "vaults" / "acme")
    vault.create_authority("acme", NOW)
    vault.issue_client("operator", NOW)
    return vault


@pytest.mark.usefixtures("keys")
def test_a_fleet_of_which_nothing_answers_has_no_cache_to_show(run: Run) -> None:
    code, out, err = run("du")
    assert code == 1
    assert out.splitlines()[1].split() == ["amd-1", *"––––––"]
    assert "amd-1: TCP: 127.0.0.1:1 refused the connection" in err
    assert "amd-1: SSH: " in err
    code, out, _ = run("du", "--json")
    [node] = json.loads(out)["nodes"]
    assert code == 1
    assert (node["cache_bytes"], node["free_bytes"]) == (None, None)
    assert (node["failure"]["stage"], node["warning"]["stage"]) == ("TCP", "SSH")


@pytest.mark.usefixtures("keys")
def test_pruning_a_fleet_of_which_nothing_answers_asks_nothing(run: Run) -> None:
    code, out, err = run("prune")
    assert code == 1
    assert out == "amd-1  freed 0 B (0 records)\n"
    assert "amd-1: TCP: 127.0.0.1:1 refused the connection" in err
    [node] = json.loads(run("prune", "--json")[1])["nodes"]
    assert (node["name"], node["freed_bytes"], node["records"]) == ("amd-1", 0, 0)
    assert node["failure"]["stage"] == "TCP"


@pytest.mark.parametrize("form", [(), ("--json",), ("-f",)], ids=str)
def test_logs_of_a_fleet_of_which_nothing_answers(run: Run, form: tuple[str, ...]) -> None:
    code, out, err = run("logs", *form)
    assert (code, out) == (1, "")
    assert "amd-1: SSH: " in err


def test_the_shape_of_a_node_of_du() -> None:
    full = Held("amd-1", Usage(3, 2, 1), 4, 5, Down(Stage.DOCKER, "full", "fleet prune amd-1"))
    assert _held_json(full) == {
        "name": "amd-1",
        "cache_bytes": 3,
        "reclaimable_bytes": 2,
        "in_use_bytes": 1,
        "records": 1,
        "free_bytes": 4,
        "disk_bytes": 5,
        "failure": None,
        "warning": {"stage": "Docker", "reason": "full", "remedy": "fleet prune amd-1"},
    }
