"""What `fleet check` says of a gateway: one finding on its host, for its ports, its image and the way there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fleet.check.ground import Port, Reach
from fleet.check.judgement import Answers, Case, State, Topic
from fleet.check.node import judge
from fleet.model.facts import DaemonFacts, Down, Image, Offer, ProxyFacts, Stage
from fleet.model.spec import Delivery, FleetSpec, GatewaySpec
from tests.support.values import CA, INFO, fleet, found, host, platforms, vault
from tests.support.world import FakeWorld
from tests.unit.test_check import asked
from tests.unit.test_check_topics import GROUND, HEALTHY, NO_DOCKER, NO_SSH, OK, PROBLEM, UNKNOWN, WARNING
from tests.unit.test_gateway import ONE, new_world, world_with

IMAGE = "haproxy:3.2"
SPEC = replace(
    fleet(host("amd-1"), host("amd-2")), gateway=GatewaySpec(("amd-1",), IMAGE, {"amd64": 1250, "arm64": 1251})
)
NAME = "fleet.acme.gateway"
FREE = {port: Port(taken=False) for port in (1234, 1250, 1251)}
TAKEN = FREE | {1250: Port(taken=True, by="nginx (process 7)")}
OURS = DaemonFacts("id", NAME, "", "running", {"authority": CA[:16]}, None)
ANY = frozenset(platforms("linux/amd64", "linux/arm64"))


def proxy(*containers: DaemonFacts, image: Image = Image.FOUND, **changed: Any) -> dict[str, Any]:
    return {"host": found(proxy=ProxyFacts(containers, image, **changed))}


def answers(**changed: Any) -> Answers:
    """A host on which there could be one."""
    fit: dict[str, Any] = {
        **proxy(),
        "ground": replace(GROUND, ports=FREE),
        "gates": {1250: Reach.REFUSED, 1251: Reach.REFUSED},
    }
    return replace(HEALTHY, **fit | changed)


LISTENING = replace(GROUND, ports=dict.fromkeys(FREE, Port(taken=True)))
OPEN = {1250: Reach.OPEN, 1251: Reach.OPEN}
AT_WORK: dict[str, Any] = {**proxy(OURS), "ground": LISTENING, "gates": OPEN}

TABLE: dict[str, tuple[Answers, State, str]] = {
    "there could be one": (answers(), OK, f"port 1250 is free; port 1251 is free; {IMAGE} is there"),
    "it is at work": (answers(**AT_WORK), OK, f"port 1250 is {NAME}'s; port 1251 is {NAME}'s"),
    "a program has a port": (
        answers(ground=replace(GROUND, ports=TAKEN), gates=OPEN),
        PROBLEM,
        "port 1250 is taken by nginx (process 7)",
    ),
    "a container has a port": (
        answers(info=replace(INFO, published={1251: "web"})),
        PROBLEM,
        "port 1251 is taken by the container web",
    ),
    "it runs, and a program has a port that it is to have": (
        answers(**AT_WORK | {"ground": replace(GROUND, ports=TAKEN)}),
        PROBLEM,
        "port 1250 is taken by nginx (process 7)",
    ),
    "one that has stopped has no port": (
        answers(**proxy(replace(OURS, state="exited")), ground=replace(GROUND, ports=TAKEN)),
        PROBLEM,
        "nginx",
    ),
    "no word of its ports": (answers(ground=GROUND), UNKNOWN, "whether port 1250 is free"),
    "silent before it is there": (
        answers(gates={1250: Reach.SILENT, 1251: Reach.REFUSED}),
        WARNING,
        "from here to amd-1.example:1250 is silent: builds would go to the nodes without it",
    ),
    "refused where it is at work": (
        answers(**AT_WORK | {"gates": OPEN | {1251: Reach.REFUSED}}),
        WARNING,
        "amd-1.example:1251 is refused",
    ),
    "no way there was tried": (answers(gates={}), UNKNOWN, "whether amd-1.example:1250 can be reached"),
    "its image can be pulled": (answers(**proxy(image=Image.ABSENT), gateway_image=ANY), OK, f"{IMAGE} can be pulled"),
    "its image is for others": (
        answers(**proxy(image=Image.ABSENT), gateway_image=frozenset(platforms("linux/arm64"))),
        PROBLEM,
        f"has {IMAGE} for linux/arm64 only, and this is amd64",
    ),
    "its image cannot be had": (
        answers(**proxy(image=Image.ABSENT), gateway_image=Down(Stage.IMAGE, "manifest unknown", "is it right?")),
        PROBLEM,
        f"{IMAGE} is not there, and cannot be pulled: manifest unknown",
    ),
    "somebody else's container has its name": (answers(**proxy(foreign=(NAME,))), WARNING, f"{NAME} is not fleet's"),
    "it is of another vault": (
        answers(**AT_WORK | proxy(replace(OURS, settings={"authority": "0" * 16}))),
        WARNING,
        "not in this vault",
    ),
    "the worst comes first and all is told": (
        answers(ground=replace(GROUND, ports=TAKEN), gates={1250: Reach.OPEN, 1251: Reach.SILENT}),
        PROBLEM,
        "taken by nginx (process 7); a connection from here to amd-1.example:1251 is silent",
    ),
    "its host cannot be logged in to": (Answers(NO_SSH), UNKNOWN, "it cannot be logged in to"),
    "there is no Docker": (Answers(NO_DOCKER, NO_DOCKER, GROUND), UNKNOWN, "Docker: there is no Docker Engine"),
}


@pytest.mark.parametrize(("said", "state", "words"), TABLE.values(), ids=TABLE)
def test_a_gateway(said: Answers, state: State, words: str) -> None:
    judged = judge(Case(SPEC, SPEC.hosts[0], said, vault(), None))[Topic.GATEWAY]
    assert (judged.state, words in judged.text) == (state, True), judged
    if state in {WARNING, PROBLEM}:
        assert judged.remedy


def test_an_image_that_cannot_be_sent_stops_no_up() -> None:
    there = replace(SPEC.hosts[0], delivery=Delivery.STREAM)
    lacking = answers(**proxy(image=Image.ABSENT), gateway_image=Down(Stage.IMAGE, "no such image", "name another"))
    judged = judge(Case(replace(SPEC, hosts=(there,)), there, lacking, vault(), None))[Topic.GATEWAY]
    assert (judged.state, "cannot be sent: no such image" in judged.text) == (WARNING, True)


def test_only_its_own_host_is_judged() -> None:
    assert Topic.GATEWAY not in judge(Case(SPEC, SPEC.hosts[1], answers(), vault(), None))


@pytest.mark.parametrize("up", [False, True], ids=["before up", "after it"])
def test_everything_is_asked_of_its_host(up: bool) -> None:
    world: FakeWorld = world_with(ONE) if up else new_world()
    spec: FleetSpec = ONE
    said = asked(world, spec).nodes
    assert said["amd-1"].gates == dict.fromkeys((1250, 1251), Reach.OPEN if up else Reach.REFUSED)
    assert isinstance(said["amd-1"].gateway_image, frozenset | Offer) is not up
    assert (said["amd-2"].gates, said["amd-2"].gateway_image) == ({}, None)
