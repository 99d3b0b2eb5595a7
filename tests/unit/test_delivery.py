"""Images that are sent, and files for registries: what is planned, what is done, what is told when it fails."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fleet.applying.report import Result
from fleet.containers.buildkitd import CONFIG_PATH
from fleet.model.facts import Down, Image, Stage
from fleet.model.spec import Delivery, FleetSpec, pull_mark
from fleet.planning.actions import SendImage
from fleet.planning.lane import Lane
from tests.support.fakes import Machine
from tests.support.runs import down, of, results, up
from tests.support.values import IMAGE, fleet, host
from tests.support.world import FakeWorld

SENT = fleet(*(host(name, delivery=Delivery.STREAM) for name in ("amd-1", "amd-2", "arm-1")))
MARK = pull_mark("acme", IMAGE)


def cut_off(**changed: bool) -> FakeWorld:
    """Hosts that reach no registry."""
    amd = [Machine(f"amd-{n}.example", pulls=False) for n in (1, 2)]
    world = FakeWorld.of(*amd, Machine("arm-1.example", "aarch64", pulls=False))
    for name, value in changed.items():
        setattr(world.machines["amd-2.example"], name, value)
    return world


def lanes(world: FakeWorld, spec: FleetSpec = SENT) -> dict[str, Lane]:
    return dict(world.plan(spec).lanes)


def test_hosts_that_cannot_pull_get_the_image_of_their_architecture_once() -> None:
    world = cut_off()
    report, events = up(world, SENT)
    assert report.exit_code == 0
    assert [machine.marks for machine in world.machines.values()] == [{MARK: IMAGE}] * 3
    offers = [world.registry.offer(IMAGE, arch).digest for arch in ("amd64", "arm64")]
    assert sorted(world.registry.fetched) == sorted(offers)
    assert any(text.startswith(f"send {IMAGE} (") for text, _ in of(events, "amd-1"))
    assert any(text.startswith("sent ") and " of " in text for text, _ in of(events, "amd-1"))
    assert world.plan(SENT).empty
    down(world, SENT, volumes=True)
    assert not any(machine.images for machine in world.machines.values())


def test_a_plan_says_what_is_sent_and_how_much() -> None:
    action = lanes(cut_off())["amd-1"].actions[0]
    assert isinstance(action, SendImage)
    assert str(action) == f"send {IMAGE} ({action.offer.size} B)"


def test_an_image_that_is_there_is_not_sent_and_no_registry_is_missed() -> None:
    world = cut_off()
    world.registry.answers = False
    for machine in world.machines.values():
        machine.images.add(IMAGE)
    report, _ = up(world, SENT)
    assert report.exit_code == 0
    assert not world.registry.fetched


def test_without_the_image_here_a_host_that_lacks_it_cannot_be_planned_and_the_others_can() -> None:
    world = cut_off()
    world.registry.arches = ("amd64",)
    planned = lanes(world)
    why = planned["arm-1"].blocked
    assert why
    assert (why.stage, why.remedy) == (Stage.IMAGE, "is the reference right?")
    assert planned["amd-1"].actions


def test_one_host_may_pull_and_another_be_sent_to() -> None:
    mixed = replace(SENT, hosts=(replace(SENT.hosts[0], delivery=Delivery.REGISTRY), *SENT.hosts[1:]))
    world = cut_off()
    world.machines["amd-1.example"].pulls = True
    first = {name: str(lane.actions[0]).partition(" ")[0] for name, lane in lanes(world, mixed).items()}
    assert first == {"amd-1": "pull", "amd-2": "send", "arm-1": "send"}


def test_a_disk_that_is_full_is_said_once_and_the_other_hosts_are_done() -> None:
    world = cut_off(full=True)
    report, _ = up(world, SENT)
    assert results(report) == {
        "amd-1": Result.DONE,
        "amd-2": Result.FAILED,
        "arm-1": Result.DONE,
        "builder": Result.DONE,
    }
    [failure] = [outcome.failure for outcome in report.nodes if outcome.failure]
    assert (failure.stage, failure.reason) == (Stage.IMAGE, "Docker said: no space left on device")
    assert failure.remedy == (
        "make room; only 0 B of 102 GB are free where Docker keeps its files: "
        "fleet prune amd-2; fleet ssh amd-2 docker system df"
    )
    machine = world.machines["amd-2.example"]
    assert (machine.images, machine.marks, machine.containers) == (set(), {}, [])
    machine.full = False
    up(world, SENT)
    assert machine.marks == {MARK: IMAGE}
    assert world.plan(SENT).empty


def test_where_there_is_a_hurry_no_registry_is_asked() -> None:
    facts = cut_off().facts(SENT)
    assert {node.host.image for node in facts.nodes.values() if not isinstance(node.host, Down) and node.host} == {
        Image.ABSENT
    }
    assert set(facts.offers) == {(IMAGE, "amd64"), (IMAGE, "arm64")}


# ------------------------------------------------------------------------------------ files for registries

AUTHORITY = "/here/ca.pem"
TRUSTING = fleet(host("amd-1"), config={"registry": {"r.example": {"ca": (AUTHORITY,)}}})
PLACE = "/etc/buildkit/registries/r.example/ca-0.pem"


@pytest.fixture
def trusting() -> FakeWorld:
    world = FakeWorld.of(Machine("amd-1.example"))
    world.files[AUTHORITY] = b"one"
    return world


def test_an_authority_is_delivered_beside_the_configuration_that_names_it(trusting: FakeWorld) -> None:
    up(trusting, TRUSTING)
    [container] = trusting.machines["amd-1.example"].containers
    assert container.files[PLACE][0] == b"one"
    assert PLACE in container.files[CONFIG_PATH][0].decode()
    assert trusting.plan(TRUSTING).empty


def test_another_authority_in_the_file_is_a_change(trusting: FakeWorld) -> None:
    up(trusting, TRUSTING)
    trusting.files[AUTHORITY] = b"two"
    [reason] = lanes(trusting, TRUSTING)["amd-1"].why
    assert reason.startswith("registries: ")
    up(trusting, TRUSTING)
    [container] = trusting.machines["amd-1.example"].containers
    assert container.files[PLACE][0] == b"two"
    assert trusting.plan(TRUSTING).empty


def test_a_file_that_cannot_be_read_stops_its_host(trusting: FakeWorld) -> None:
    del trusting.files[AUTHORITY]
    why = lanes(trusting, TRUSTING)["amd-1"].blocked
    assert why == Down(Stage.CONTAINER, f"{AUTHORITY}: No such file or directory", "correct buildkit.config.registry")
