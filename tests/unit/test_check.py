"""`fleet check` as a whole: hosts side by side, this machine, how it is asked, what it comes to and how it is shown."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from fleet.check.judgement import Answers, State, Topic
from fleet.check.preflight import ask
from fleet.check.verdict import Asked, Checked, Finding, Fitness, check
from fleet.cli.check import checked_json, show_checked
from fleet.errors import BuilderError, EngineError, VaultError
from fleet.model.facts import BuilderFacts, Down, HostFacts, Image, Stage
from fleet.model.vault import VaultFacts
from fleet.observing.observe import Connections
from tests.support.fakes import FakeEngine, FakeHost, Machine
from tests.support.values import (
    IMAGE,
    INFO,
    NOW,
    builder,
    certificate,
    fleet,
    found,
    host,
    node,
    platforms,
    vault,
)
from tests.support.world import FakeWorld
from tests.unit.conftest import Run
from tests.unit.test_check_topics import GROUND, HEALTHY, NO_DOCKER, NO_SSH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fleet.model.spec import FleetSpec

NAMES = ("amd-1", "amd-2", "amd-3")
SPEC = fleet(*map(host, NAMES), config={"registry": {"docker.io": {"mirrors": ["mirror.example"]}}})


def machine(name: str, **ground: Any) -> Answers:
    """A healthy machine of that name; `ground` replaces what its shell says."""
    own = {"machine_id": f"machine-{name}", "boot_id": f"boot-{name}"}
    return replace(HEALTHY, info=replace(INFO, id=f"E:{name}"), ground=replace(GROUND, **own | ground))


def checked(
    *,
    spec: FleetSpec = SPEC,
    nodes: Mapping[str, Answers] | None = None,
    facts: BuilderFacts | Down = BuilderFacts(),  # noqa: B008 - frozen
    keys: VaultFacts | Down | None = None,
) -> Checked:
    answers = {one.name: machine(one.name) for one in spec.hosts} | dict(nodes or {})
    return check(spec, Asked(answers, facts, keys or vault()), NOW)


def one(result: Checked, subject: str | None, topic: Topic) -> Finding:
    [finding] = [finding for finding in result.of(subject) if finding.topic is topic]
    return finding


def test_a_healthy_fleet_has_a_finding_a_topic_and_all_are_ok() -> None:
    result = checked()
    assert {finding.state for finding in result.findings} == {State.OK}
    assert set(result.nodes.values()) == {Fitness.READY}
    assert result.exit_code == 0
    own = {Topic.CLOCK, Topic.BUILDX, Topic.CERTIFICATES}
    assert {finding.topic for finding in result.of(None)} == own
    for name in NAMES:
        topics = [finding.topic for finding in result.of(name)]
        assert topics == [topic for topic in Topic if topic not in own - {Topic.CLOCK} | {Topic.BUILDER, Topic.GATEWAY}]


FITNESS: dict[str, tuple[dict[str, Answers], dict[str, Fitness], int]] = {
    "a host that is down": (
        {"amd-2": Answers(NO_SSH)},
        {"amd-1": Fitness.READY, "amd-2": Fitness.PROBLEMS, "amd-3": Fitness.READY},
        3,
    ),
    "a host that is late": (
        {"amd-2": Answers(None)},
        {"amd-1": Fitness.READY, "amd-2": Fitness.UNKNOWN, "amd-3": Fitness.READY},
        3,
    ),
    "a Docker that is late": (
        {"amd-2": replace(machine("amd-2"), info=None)},
        {"amd-1": Fitness.READY, "amd-2": Fitness.UNKNOWN, "amd-3": Fitness.READY},
        3,
    ),
    "an image that nobody has heard of": (
        {"amd-2": replace(machine("amd-2"), host=found(image=Image.ABSENT))},
        {"amd-1": Fitness.READY, "amd-2": Fitness.UNKNOWN, "amd-3": Fitness.READY},
        3,
    ),
    "none that is fit": (
        {"amd-1": Answers(None), "amd-2": Answers(NO_SSH), "amd-3": Answers(NO_DOCKER)},
        {"amd-1": Fitness.UNKNOWN, "amd-2": Fitness.PROBLEMS, "amd-3": Fitness.PROBLEMS},
        1,
    ),
    "warnings and unknowns alone": (
        {"amd-1": machine("amd-1", nic_mtu=1400), "amd-2": machine("amd-2", nameservers=None)},
        dict.fromkeys(NAMES, Fitness.READY),
        0,
    ),
}


@pytest.mark.parametrize(("nodes", "fitness", "code"), FITNESS.values(), ids=FITNESS)
def test_what_the_findings_come_to(nodes: dict[str, Answers], fitness: dict[str, Fitness], code: int) -> None:
    result = checked(nodes=nodes)
    assert result.nodes == fitness
    assert result.exit_code == code


def test_only_what_was_asked_is_judged() -> None:
    result = check(SPEC, Asked({"amd-2": machine("amd-2")}, BuilderFacts(), vault()), NOW)
    assert list(result.nodes) == ["amd-2"]
    assert {finding.node for finding in result.findings} == {"amd-2", None}


# ----------------------------------------------------------------------------------------- one machine twice

SAME_BOOT = {"boot_id": "b"}
TWINS: dict[str, tuple[dict[str, Any], dict[str, Any], int, State, str]] = {
    "two machines": ({}, {}, 1234, State.OK, "no other name"),
    "one machine": (
        {"machine_id": "m", "boot_id": "b"},
        {"machine_id": "m", "boot_id": "b"},
        1234,
        State.PROBLEM,
        "port 1234",
    ),
    "one machine with two ports": (
        {"machine_id": "m", "boot_id": "b"},
        {"machine_id": "m", "boot_id": "b"},
        1235,
        State.WARNING,
        "share its CPUs",
    ),
    "a copy": ({"machine_id": "m"}, {"machine_id": "m"}, 1234, State.WARNING, "it is a copy of"),
    "two containers on one kernel": (SAME_BOOT, SAME_BOOT, 1234, State.OK, "no other name"),
    "neither has a machine-id": ({"machine_id": None}, {"machine_id": None}, 1234, State.OK, "no other name"),
    "no word of its boot": ({"machine_id": "m", "boot_id": None}, {"machine_id": "m"}, 1234, State.UNKNOWN, "whether"),
}


@pytest.mark.parametrize(("first", "second", "port", "state", "words"), TWINS.values(), ids=TWINS)
def test_two_names(first: dict[str, Any], second: dict[str, Any], port: int, state: State, words: str) -> None:
    spec = fleet(host("amd-1"), host("amd-2", port=port))
    result = checked(spec=spec, nodes={"amd-1": machine("amd-1", **first), "amd-2": machine("amd-2", **second)})
    finding = one(result, "amd-1", Topic.MACHINE)
    assert (finding.state, words in finding.text) == (state, True), finding
    if state in {State.WARNING, State.PROBLEM}:
        assert one(result, "amd-2", Topic.MACHINE).state is state
        assert "amd-2" in finding.text
        assert finding.remedy


def test_without_machine_ids_docker_tells_one_machine() -> None:
    alike = replace(machine("amd-1", machine_id=None), info=replace(INFO, id="E:same"))
    result = checked(nodes={"amd-1": alike, "amd-2": alike})
    assert {one(result, name, Topic.MACHINE).state for name in ("amd-1", "amd-2")} == {State.PROBLEM}
    assert one(result, "amd-3", Topic.MACHINE).state is State.OK


# ------------------------------------------------------------------------------------------- this machine


def off(name: str, skew: float) -> Answers:
    return replace(machine(name), host=found(clock_skew=skew))


CLOCKS: dict[str, tuple[tuple[float, float, float], State, dict[str, State]]] = {
    "all agree": ((0.0, 1.0, 2.0), State.OK, dict.fromkeys(NAMES, State.OK)),
    "this machine is off": ((100.0, 101.0, 100.0), State.WARNING, dict.fromkeys(NAMES, State.OK)),
    "this machine is off by much": ((-400.0, -400.0, -401.0), State.PROBLEM, dict.fromkeys(NAMES, State.OK)),
    "one host is off": ((0.0, 0.0, 60.0), State.OK, dict(zip(NAMES, (State.OK, State.OK, State.WARNING), strict=True))),
}


@pytest.mark.parametrize(("skews", "here", "there"), CLOCKS.values(), ids=CLOCKS)
def test_whose_clock_is_wrong(skews: tuple[float, float, float], here: State, there: dict[str, State]) -> None:
    result = checked(nodes={name: off(name, skew) for name, skew in zip(NAMES, skews, strict=True)})
    assert one(result, None, Topic.CLOCK).state is here
    assert {name: one(result, name, Topic.CLOCK).state for name in NAMES} == there


UNFIT = Down(Stage.BUILDER, "docker buildx 0.37.0 is not fit", "upgrade")
HERE: dict[str, tuple[dict[str, Any], Topic, State, str]] = {
    "buildx is missing": ({"facts": BuilderFacts(unusable=UNFIT)}, Topic.BUILDX, State.PROBLEM, "is not fit"),
    "what buildx stored is torn": ({"facts": UNFIT}, Topic.BUILDX, State.PROBLEM, "is not fit"),
    "a builder of that name": (
        {"facts": builder(node("x"), driver="docker-container")},
        Topic.BUILDER,
        State.PROBLEM,
        "did not make",
    ),
    "the fleet's own builder": ({"facts": builder(node("amd-1"))}, Topic.BUILDER, State.OK, "is this fleet's"),
    "a torn vault": (
        {"keys": Down(Stage.TLS, "client.pem is torn", "restore it")},
        Topic.CERTIFICATES,
        State.PROBLEM,
        "client.pem is torn",
    ),
    "no vault yet": ({"keys": vault(None)}, Topic.CERTIFICATES, State.OK, "made by fleet up"),
    "a certificate near its end": (
        {"keys": vault(client=certificate(3))},
        Topic.CERTIFICATES,
        State.WARNING,
        "expires in 3 days",
    ),
}


@pytest.mark.parametrize(("given", "topic", "state", "words"), HERE.values(), ids=HERE)
def test_this_machine(given: dict[str, Any], topic: Topic, state: State, words: str) -> None:
    result = checked(**given)
    finding = one(result, None, topic)
    assert (finding.state, words in finding.text) == (state, True), finding
    assert result.exit_code == (3 if state is State.PROBLEM else 0)
    assert set(result.nodes.values()) == {Fitness.READY}


def test_a_ca_that_has_expired_is_a_problem() -> None:
    result = checked(keys=replace(vault(), authority=certificate(-1)))
    said = [finding for finding in result.of(None) if finding.topic is Topic.CERTIFICATES]
    assert State.PROBLEM in {finding.state for finding in said}


# -------------------------------------------------------------------------------------------------- asking


def asked(world: FakeWorld, spec: FleetSpec, *, seconds: float = 20.0, only: tuple[str, ...] = ()) -> Asked:
    ports = world.ports()
    with Connections(ports.connect) as connections:
        return ask(spec, ports, connections, deadline=time.monotonic() + seconds, only=only)


def test_everything_is_asked_of_every_host() -> None:
    spec = fleet(host("amd-1"), host("amd-2"))
    have, lack = Machine("amd-1.example", images={IMAGE}), Machine("amd-2.example", ground="boot-id 7\n")
    answers = asked(FakeWorld.of(have, lack), spec).nodes
    assert list(answers) == ["amd-1", "amd-2"]
    assert isinstance(answers["amd-1"].host, HostFacts)
    assert answers["amd-1"].info == INFO
    assert answers["amd-1"].image is None
    assert answers["amd-2"].image == frozenset(platforms("linux/amd64", "linux/arm64"))
    assert answers["amd-2"].ground
    assert getattr(answers["amd-2"].ground, "boot_id", None) == "7"
    assert {str(one.here) for one in answers.values()} == {"refused"}


def test_only_the_named_hosts_are_asked() -> None:
    spec = fleet(host("amd-1"), host("amd-2"))
    world = FakeWorld.of(Machine("amd-1.example"), Machine("amd-2.example"))
    assert list(asked(world, spec, only=("amd-2",)).nodes) == ["amd-2"]


def test_what_fails_is_told_and_the_rest_is_answered() -> None:
    spec = fleet(*map(host, ("amd-1", "amd-2", "amd-3")))
    world = FakeWorld.of(
        Machine("amd-1.example", login=False, network=False),
        Machine("amd-2.example", docker=False, docker_words="absent", ground="boot-id 7\n"),
        Machine("amd-3.example", pulls=False),
    )
    world.builder.unfit = "docker buildx 0.31.0 is too old"
    answers = asked(world, spec)
    dead, bare, cut = answers.nodes.values()
    assert isinstance(dead.host, Down)
    assert str(dead.here) == "silent"
    assert isinstance(bare.host, Down)
    assert isinstance(bare.info, Down)
    assert getattr(bare.ground, "boot_id", None) == "7"
    assert isinstance(cut.image, Down)
    assert cut.image.stage is Stage.IMAGE
    assert isinstance(answers.builder, BuilderFacts)
    assert answers.builder.unusable
    assert "too old" in answers.builder.unusable.reason


def test_a_torn_vault_and_a_torn_builder_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    world = FakeWorld.of(Machine("amd-1.example"))

    def torn(*_: object) -> None:
        raise VaultError("client.pem is torn")

    def unreadable(*_: object) -> None:
        raise BuilderError("what buildx has stored is torn")

    monkeypatch.setattr(type(world.vault), "read", torn)
    monkeypatch.setattr(type(world.builder), "read", unreadable)
    answers = asked(world, fleet(host("amd-1")))
    assert isinstance(answers.vault, Down)
    assert isinstance(answers.builder, Down)


@pytest.mark.parametrize("stuck", ["info", "survey", "distribution", "connect"])
def test_a_host_that_hangs_delays_nobody_and_keeps_what_it_has_said(
    monkeypatch: pytest.MonkeyPatch, stuck: str
) -> None:
    spec = fleet(host("amd-1"), host("amd-2"))
    world = FakeWorld.of(Machine("amd-1.example"), Machine("amd-2.example"))
    release = threading.Event()

    def hang(engine: FakeEngine, *_: object) -> None:
        if engine.machine.address == "amd-1.example":
            release.wait(30)
        raise EngineError(Stage.DOCKER, "it does not answer")

    if stuck == "connect":
        made = FakeHost.__init__

        def slow(connected: FakeHost, machine: Machine) -> None:
            made(connected, machine)
            if machine.address == "amd-1.example":
                release.wait(30)

        monkeypatch.setattr(FakeHost, "__init__", slow)
    else:
        monkeypatch.setattr(FakeEngine, stuck, hang)
    started = time.monotonic()
    try:
        answers = asked(world, spec, seconds=0.5)
        assert time.monotonic() - started < 5
    finally:
        release.set()
    late, prompt = answers.nodes.values()
    unanswered = {name for name in ("host", "info", "ground", "image") if getattr(late, name) is None}
    expected = {
        "info": {"info"},
        "survey": {"host", "image"},
        "distribution": {"image"},
        "connect": {"host", "info", "ground", "image"},
    }
    assert unanswered == expected[stuck]
    assert str(late.here) == "refused"
    assert prompt.ground is not None


# ------------------------------------------------------------------------------------------------- showing


def finding_of(state: State, text: str, *, topic: Topic = Topic.PORT, node: str | None = "amd-1") -> Finding:
    return Finding(node, topic, state, text, None if state in {State.OK, State.UNKNOWN} else "try this")


MIXED = Checked(
    (
        finding_of(State.OK, "fine", topic=Topic.LOGIN),
        finding_of(State.UNKNOWN, "no answer in time", topic=Topic.DISK),
        finding_of(State.PROBLEM, "port 1234 is taken"),
        finding_of(State.UNKNOWN, "no answer in time", topic=Topic.MTU),
        finding_of(State.OK, "fine", node="amd-2"),
        finding_of(State.PROBLEM, "too old", topic=Topic.BUILDX, node=None),
    ),
    {"amd-1": Fitness.PROBLEMS, "amd-2": Fitness.READY},
)

SHOWN = """\
amd-1
  ? disk, MTU: no answer in time
  ✗ port: port 1234 is taken
      try: try this
this machine
  ✗ buildx: too old
      try: try this
2 nodes: 1 ready for fleet up, 1 with problems; this machine has problems
"""


def test_what_is_not_ok_is_shown_node_by_node(capsys: pytest.CaptureFixture[str]) -> None:
    show_checked(MIXED, verbose=False)
    assert capsys.readouterr().out == SHOWN


def test_verbose_shows_what_is_ok_too(capsys: pytest.CaptureFixture[str]) -> None:
    show_checked(MIXED, verbose=True)
    assert "amd-2\n  ✓ port: fine\n" in capsys.readouterr().out


def test_the_shape_of_a_check() -> None:
    printed = json.loads(json.dumps(checked_json("acme", MIXED)))
    assert {key: type(value) for key, value in printed.items()} == {
        "fleet": str,
        "exit_code": int,
        "nodes": list,
        "this_machine": list,
    }
    assert [(entry["name"], entry["fitness"]) for entry in printed["nodes"]] == [
        ("amd-1", "problems"),
        ("amd-2", "ready"),
    ]
    assert printed["nodes"][0]["findings"][2] == {
        "topic": "port",
        "state": "problem",
        "text": "port 1234 is taken",
        "remedy": "try this",
    }
    assert printed["this_machine"] == [{"topic": "buildx", "state": "problem", "text": "too old", "remedy": "try this"}]


def test_a_host_that_is_not_there_is_a_problem_with_its_remedy(run: Run) -> None:
    code, out, err = run("check", "--json")
    printed = json.loads(out)
    assert (code, printed["exit_code"], err) == (1, 1, "")
    [entry] = printed["nodes"]
    login = entry["findings"][0]
    assert (entry["name"], entry["fitness"], login["topic"], login["state"]) == (
        "amd-1",
        "problems",
        "login",
        "problem",
    )
    assert login["remedy"]
    assert {finding["state"] for finding in entry["findings"][1:]} == {"unknown"}


def test_an_unknown_host_cannot_be_checked(run: Run) -> None:
    code, out, err = run("check", "amd-9")
    assert (code, out) == (2, "")
    assert "the inventory has no host 'amd-9'" in err
