"""The decider: tables of what is found and what is done about it, and the law that doing it leaves nothing to do."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from certs.lifetimes import RENEWAL_DAYS
from fleet import notes
from fleet.buildx import AppendNode, CreateBuilder, LeaveNode, RemoveBuilder, Step
from fleet.containers import buildkitd
from fleet.containers.daemon import RECIPE
from fleet.model.facts import (
    BuilderFacts,
    CertificateFacts,
    DaemonFacts,
    Down,
    Facts,
    HostFacts,
    Image,
    NodeFacts,
    Stage,
)
from fleet.model.spec import Connection, FleetSpec, HostSpec, Limits, TlsSpec, pull_mark
from fleet.model.vault import VaultFacts
from fleet.planning.actions import (
    AwaitIdle,
    AwaitReady,
    CreateAuthority,
    CreateDaemon,
    Drain,
    ForgetHistory,
    IssueClient,
    LaneAction,
    PullImage,
    PutBack,
    RemoveDaemon,
    RemoveImage,
    RemoveVolume,
    Resume,
    SetAside,
    StartDaemon,
)
from fleet.planning.lane import daemon_spec
from fleet.planning.plan import Plan, plan, plan_down, without_daemon
from tests.support.values import (
    CA,
    IMAGE,
    NOW,
    OPTIONS,
    OTHER_CA,
    api,
    builder,
    certificate,
    daemon,
    facts,
    fleet,
    found,
    host,
    node,
    running,
    vault,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fleet.model.facts import ApiFacts

ONE = fleet(host("amd-1"))
NAME = "fleet.acme.amd-1"
WANTED = daemon_spec(ONE, ONE.hosts[0], "amd64", vault())
RUNNING = daemon(ONE, "amd-1")

REFUSED = Down(Stage.TCP, "amd-1.example:1234 refused the connection", "fleet up --host amd-1")
NO_SSH = Down(Stage.SSH, "no answer", "is the host up?")

MARK = pull_mark("acme", IMAGE)
PULL = PullImage(IMAGE, MARK)
REMOVE_OLD_IMAGE = RemoveImage("old:1", pull_mark("acme", "old:1"))

READY: tuple[LaneAction, ...] = (AwaitReady("amd-1"), Resume("amd-1"))
CREATE: tuple[LaneAction, ...] = (CreateDaemon(WANTED), StartDaemon(NAME), AwaitReady("amd-1"))
REMADE: tuple[LaneAction, ...] = (RemoveDaemon("id-amd-1", NAME), *CREATE, Resume("amd-1"))
"""What was never whole, or cannot be again."""
EXCHANGED: tuple[LaneAction, ...] = (
    SetAside("id-amd-1", NAME),
    *CREATE,
    Resume("amd-1"),
    RemoveDaemon("id-amd-1", f"{NAME}.aside"),
)
"""What may be put back, and has no builds."""
REPLACED: tuple[LaneAction, ...] = (Drain("amd-1"), AwaitIdle("amd-1", alone=True), *EXCHANGED)
"""What is at work."""

AMD_PINS = ("linux/amd64", "linux/amd64/v2", "linux/amd64/v3", "linux/386")
REGISTERED = builder(node("amd-1", *AMD_PINS))


def lane_of(seen: HostFacts | Down | None, answer: ApiFacts | Down | None, spec: FleetSpec = ONE) -> Any:
    return plan(spec, facts({"amd-1": NodeFacts(seen, answer)}, registered=REGISTERED), NOW).lanes["amd-1"]


# ---------------------------------------------------------------------------------------------- one lane


def settings(**changed: str | None) -> dict[str, str]:
    return {key: value for key, value in (WANTED.settings | changed).items() if value is not None}


def became(**changed: Any) -> HostFacts:
    """The host whose daemon is as it is wanted but for this."""
    return found("x86_64", daemon(ONE, "amd-1", **changed))


LANES: dict[str, tuple[HostFacts, ApiFacts | Down | None, tuple[LaneAction, ...], str | None]] = {
    "a fresh host": (
        found(image=Image.ABSENT),
        REFUSED,
        (PULL, *CREATE),
        "there is no daemon",
    ),
    "a fresh host that has the image": (found(), REFUSED, CREATE, "there is no daemon"),
    "a host whose pulled image lost its daemon": (
        found(image=Image.PULLED),
        REFUSED,
        CREATE,
        "there is no daemon",
    ),
    "a node as it is wanted": (became(), api(), (), None),
    "a node as it is wanted, its image pruned": (found("x86_64", RUNNING, image=Image.ABSENT), api(), (), None),
    "a restarting daemon": (
        became(state="restarting"),
        REFUSED,
        READY,
        "TCP: amd-1.example:1234 refused the connection",
    ),
    "a running daemon that does not answer": (
        became(),
        REFUSED,
        READY,
        "TCP: amd-1.example:1234 refused the connection",
    ),
    "a running daemon that was not asked": (
        became(),
        None,
        READY,
        "it has not been asked over mutual TLS yet",
    ),
    "a stopped daemon": (
        became(state="exited", detail="Exited (0) 3 hours ago"),
        REFUSED,
        (StartDaemon(NAME), *READY),
        "stopped: Exited (0) 3 hours ago",
    ),
    "a paused daemon": (became(state="paused"), REFUSED, EXCHANGED, "it is paused"),
    "a daemon whose making was interrupted": (became(state="created"), REFUSED, REMADE, "it is created"),
    "a dead daemon": (became(state="dead"), REFUSED, REMADE, "it is dead"),
    "a daemon under removal": (became(state="removing"), REFUSED, REMADE, "it is removing"),
    "another image, and the new one is there": (
        became(settings=settings(image="old:1")),
        api(),
        (*REPLACED, REMOVE_OLD_IMAGE),
        f"image: old:1 → {IMAGE}",
    ),
    "another image, and the new one is missing": (
        found("x86_64", daemon(ONE, "amd-1", settings=settings(image="old:1")), image=Image.ABSENT),
        api(),
        (PULL, *REPLACED, REMOVE_OLD_IMAGE),
        f"image: old:1 → {IMAGE}",
    ),
    "another port, at which nobody answers": (
        became(settings=settings(port=":1299")),
        REFUSED,
        EXCHANGED,
        "port: :1299 → :1234",
    ),
    "another port, at which somebody else answers": (
        became(settings=settings(port=":1299")),
        api(),
        EXCHANGED,
        "port: :1299 → :1234",
    ),
    "another configuration": (
        became(settings=settings(config="0123456789abcdef")),
        api(),
        REPLACED,
        f"config: 0123456789abcdef → {WANTED.settings['config']}",
    ),
    "other names": (
        became(settings=settings(names="10.0.0.9 amd-1 amd64.acme.fleet.internal")),
        api(),
        REPLACED,
        "names: 10.0.0.9 amd-1 amd64.acme.fleet.internal → amd-1.example amd-1 amd64.acme.fleet.internal",
    ),
    "an older recipe": (became(settings=settings(recipe="0")), api(), REPLACED, f"recipe: 0 → {RECIPE}"),
    "a label without its recipe": (
        became(settings=settings(recipe=None)),
        api(),
        REPLACED,
        f"recipe: unset → {RECIPE}",
    ),
    "an unreadable label": (became(settings={}), api(), EXCHANGED, f"recipe: unset → {RECIPE}"),
    "an unknown certificate": (became(certificate=None), api(), REPLACED, "its certificate is unknown"),
    "a certificate about to expire": (
        became(certificate=certificate(30)),
        api(),
        REPLACED,
        "its certificate expires on 2030-05-31",
    ),
    "an expired certificate": (
        became(certificate=certificate(-1)),
        REFUSED,
        EXCHANGED,
        "its certificate expires on 2030-04-30",
    ),
    "a certificate with a month and a day left": (became(certificate=certificate(31)), api(), (), None),
    "a stopped daemon of another configuration": (
        became(state="exited", settings=settings(config="0123456789abcdef")),
        REFUSED,
        EXCHANGED,
        f"config: 0123456789abcdef → {WANTED.settings['config']}",
    ),
}


@pytest.mark.parametrize(("seen", "answer", "actions", "why"), LANES.values(), ids=LANES)
def test_a_lane(
    seen: HostFacts, answer: ApiFacts | Down | None, actions: tuple[LaneAction, ...], why: str | None
) -> None:
    lane = lane_of(seen, answer)
    assert lane.actions == actions
    assert (lane.why[:1] or (None,))[0] == why
    assert lane.blocked is None


def test_every_difference_is_a_reason() -> None:
    changed = settings(image="old:1", recipe="0")
    lane = lane_of(became(settings=changed, certificate=None, state="paused"), REFUSED)
    assert set(lane.why) == {
        f"recipe: 0 → {RECIPE}",
        f"image: old:1 → {IMAGE}",
        "its certificate is unknown",
        "it is paused",
    }


def enforced(**changed: str) -> dict[str, str]:
    return WANTED.enforced | changed


BY_HAND: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "nothing": ({"enforced": enforced()}, ()),
    "nothing, and it was not looked into": ({}, ()),
    "nothing, of an image that is known by its mark": ({"enforced": enforced(image=MARK)}, ()),
    "its memory": ({"enforced": enforced(limits="memory=268435456")}, ("limits: memory=268435456 → none",)),
    "its restart policy": ({"enforced": enforced(restart="no")}, ("restart: no → unless-stopped",)),
    "its network": ({"enforced": enforced(network="")}, ("network: none → bridge",)),
    "made anew without its rights": ({"enforced": enforced(privileged="no")}, ("privileged: no → yes",)),
    "the image of that name": (
        {"enforced": enforced(image="sha256:c0ffee")},
        (f"image: sha256:c0ffee → {IMAGE}",),
    ),
    "two things": (
        {"enforced": enforced(image="mine:1", port=":1299")},
        (f"image: mine:1 → {IMAGE}", "port: :1299 → :1234"),
    ),
    "a file": (
        {"enforced": enforced(), "changed": (buildkitd.CONFIG_PATH,)},
        ("/etc/buildkit/buildkitd.toml was changed by hand",),
    ),
    "its name": ({"name": "mine"}, (f"name: mine → {NAME}",)),
}


@pytest.mark.parametrize(("changed", "why"), BY_HAND.values(), ids=BY_HAND)
def test_what_was_changed_by_hand_is_said_and_the_daemon_is_replaced_by_turns(
    changed: dict[str, Any], why: tuple[str, ...]
) -> None:
    lane = lane_of(became(**changed), api())
    # The old one has nothing but fleet's mark.
    mark = (RemoveImage(MARK, MARK),) if "sha256" in "".join(why) else ()
    assert (lane.why, lane.actions) == (why, (*REPLACED, *mark) if why else ())
    assert lane.turn == ("amd64" if why else None)


def test_an_image_without_a_name_is_not_replaced_by_one_that_is_not_there() -> None:
    unnamed = replace(became(enforced=enforced(image="sha256:c0ffee")), image=Image.ABSENT)
    assert lane_of(unnamed, api()).actions == ()


def test_a_setting_that_is_to_be_another_one_is_told_once() -> None:
    limited = fleet(replace(host("amd-1"), limits=Limits(cpus=4)))
    assert lane_of(became(enforced=enforced()), api(), limited).why == ("limits: none → cpus=4",)


NO_DAEMON: dict[str, tuple[HostFacts | Down | None, bool, bool]] = {
    "it has one": (found("x86_64", daemon(ONE, "amd-1")), False, False),
    "it has a broken one": (found("x86_64", daemon(ONE, "amd-1", state="dead")), True, False),
    "it has none": (found(), False, True),
    "it has none any more": (found(), True, True),
    "it cannot be looked at and is new": (NO_SSH, False, True),
    "it cannot be looked at and has been there": (NO_SSH, True, False),
    "nobody has looked": (None, False, False),
}


@pytest.mark.parametrize(("seen", "registered", "new"), NO_DAEMON.values(), ids=NO_DAEMON)
def test_hosts_without_a_daemon(seen: HostFacts | Down | None, registered: bool, new: bool) -> None:
    there = builder(node("amd-1", "linux/amd64")) if registered else None
    assert without_daemon(ONE, facts({"amd-1": NodeFacts(seen)}, registered=there)) == (("amd-1",) if new else ())


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(fleet(host("amd-1"), image="moby/buildkit:v0.33.0"), id="image"),
        pytest.param(fleet(host("amd-1", port=1299)), id="port"),
        pytest.param(fleet(host("amd-1", address="10.0.0.9")), id="address"),
        pytest.param(fleet(host("amd-1"), config={"log": {"level": "debug"}}), id="configuration"),
        pytest.param(fleet(replace(host("amd-1"), config={"debug": True})), id="its own configuration"),
        pytest.param(fleet(replace(host("amd-1"), limits=Limits(cpus=4))), id="limits"),
        pytest.param(fleet(replace(host("amd-1"), max_builds=4)), id="builds at a time"),
        pytest.param(
            fleet(HostSpec("amd-1", "amd-1.example", connection=Connection.LOCAL)), id="binding to this machine alone"
        ),
    ],
)
def test_a_change_of_the_inventory_replaces_the_daemon(changed: FleetSpec) -> None:
    at_work = changed.hosts[0].port == ONE.hosts[0].port
    lane = lane_of(became(), api(), changed)
    quiet = [Drain, AwaitIdle] if at_work else []
    clean = [] if changed.buildkit.image == IMAGE else [RemoveImage]
    assert [type(action) for action in lane.actions] == [
        *(*quiet, SetAside, CreateDaemon, StartDaemon, AwaitReady, Resume, RemoveDaemon, *clean)
    ]
    assert len(lane.why) == 1
    assert lane.turn == ("amd64" if at_work else None)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(fleet(host("amd-1", "linux/amd64")), id="platforms"),
        pytest.param(fleet(host("amd-1"), host("amd-2")), id="a further host"),
        pytest.param(fleet(host("amd-1"), config={}), id="an empty configuration"),
    ],
)
def test_a_change_of_the_inventory_that_leaves_the_daemon(changed: FleetSpec) -> None:
    nodes = {"amd-1": NodeFacts(became(), api()), "amd-2": NodeFacts(found(), REFUSED)}
    assert plan(changed, facts(nodes), NOW).lanes["amd-1"].actions == ()


def test_the_order_of_a_configuration_is_of_no_account() -> None:
    one = fleet(host("amd-1"), config={"log": {"level": "debug"}, "debug": True})
    other = fleet(host("amd-1"), config={"debug": True, "log": {"level": "debug"}})
    seen = NodeFacts(found("x86_64", daemon(one, "amd-1")), api())
    assert plan(other, facts({"amd-1": seen}), NOW).lanes["amd-1"].actions == ()


# ------------------------------------------------------------------------- what is put back, and what a drain does

CHANGED = settings(config="0123456789abcdef")
ASIDE = f"{NAME}.aside"
BACK: tuple[LaneAction, ...] = (PutBack("id-amd-1", NAME), *READY)
FORMER_BACK: tuple[LaneAction, ...] = (PutBack("id-former", NAME), *READY)
DROP_FORMER = RemoveDaemon("id-former", ASIDE)
BY_BOB = {notes.DRAIN: notes.Drain("bob@desk", NOW).text()}
PASSING = {notes.DRAIN: notes.Drain("bob@desk", NOW, passing=True).text()}


def with_former(**changed: Any) -> HostFacts:
    """The host on which a run was stopped after it had set a daemon aside; its successor is so."""
    former = daemon(ONE, "amd-1", id="id-former", name=ASIDE, state="exited", settings=CHANGED)
    successor = (daemon(ONE, "amd-1", **changed),) if changed else ()
    return found("x86_64", *successor, former, volumes=(NAME,))


TURNS: dict[str, tuple[HostFacts, ApiFacts | Down, tuple[LaneAction, ...], tuple[LaneAction, ...], str | None]] = {
    "a daemon at work": (became(settings=CHANGED), api(), REPLACED, BACK, "amd64"),
    "one whose successor needs another image": (
        replace(became(settings=CHANGED), image=Image.ABSENT),
        api(),
        (PULL, *REPLACED),
        (*BACK, RemoveImage(IMAGE, MARK)),
        "amd64",
    ),
    "one that an operator has drained": (
        became(settings=CHANGED),
        api(notes=BY_BOB),
        (
            AwaitIdle("amd-1", alone=True),
            SetAside("id-amd-1", NAME),
            *CREATE,
            RemoveDaemon("id-amd-1", ASIDE),
        ),
        (PutBack("id-amd-1", NAME), AwaitReady("amd-1")),
        "amd64",
    ),
    "one that a stopped run has drained": (became(settings=CHANGED), api(notes=PASSING), REPLACED, BACK, "amd64"),
    "one that does not answer": (became(settings=CHANGED), REFUSED, EXCHANGED, BACK, None),
    "one that was stopped": (became(settings=CHANGED, state="exited"), REFUSED, EXCHANGED, BACK, None),
    "one that was never whole": (became(state="created"), REFUSED, REMADE, (), None),
    "one that crashes": (became(settings=CHANGED, state="restarting"), REFUSED, REMADE, (), None),
    "another one is aside, and this one works": (
        with_former(settings=CHANGED),
        api(),
        (DROP_FORMER, *REPLACED),
        BACK,
        "amd64",
    ),
    "another one is aside, and this one has not proved itself": (
        with_former(settings=CHANGED, state="exited"),
        REFUSED,
        (*REMADE, DROP_FORMER),
        FORMER_BACK,
        None,
    ),
    "another one is aside, and this one was never whole": (
        with_former(state="created"),
        REFUSED,
        (*REMADE, DROP_FORMER),
        FORMER_BACK,
        None,
    ),
    "another one is aside, and there is no successor": (
        with_former(),
        REFUSED,
        (*CREATE, Resume("amd-1"), DROP_FORMER),
        FORMER_BACK,
        None,
    ),
    "another one is aside, and its successor is stopped": (
        with_former(state="exited"),
        REFUSED,
        (StartDaemon(NAME), *READY, DROP_FORMER),
        FORMER_BACK,
        None,
    ),
    "another one is aside, and its successor is not ready": (
        with_former(state="restarting"),
        REFUSED,
        (*READY, DROP_FORMER),
        FORMER_BACK,
        None,
    ),
    "another one is aside, and its successor is at work": (
        with_former(state="running"),
        api(notes=PASSING),
        (Resume("amd-1"), DROP_FORMER),
        (),
        None,
    ),
    "as it is wanted, and drained by a stopped run": (became(), api(notes=PASSING), (Resume("amd-1"),), (), None),
    "as it is wanted, and drained by an operator": (became(), api(notes=BY_BOB), (), (), None),
    "as it is wanted, stopped, and perhaps drained": (
        became(state="exited"),
        REFUSED,
        (StartDaemon(NAME), *READY),
        (),
        None,
    ),
    "removed by hand, and perhaps drained": (
        found(volumes=(NAME,)),
        REFUSED,
        (*CREATE, Resume("amd-1")),
        (),
        None,
    ),
}


@pytest.mark.parametrize(("seen", "answer", "actions", "undo", "turn"), TURNS.values(), ids=TURNS)
def test_a_daemon_is_replaced_so_that_it_can_be_put_back(
    seen: HostFacts,
    answer: ApiFacts | Down,
    actions: tuple[LaneAction, ...],
    undo: tuple[LaneAction, ...],
    turn: str | None,
) -> None:
    lane = lane_of(seen, answer)
    assert (lane.actions, lane.undo, lane.turn) == (actions, undo, turn)
    assert bool(lane.why) is bool(actions)


OTHERS: dict[str, tuple[NodeFacts, bool]] = {
    "that runs the same": (NodeFacts(found(), api()), False),
    "that cannot be logged in to": (NodeFacts(NO_SSH, api()), False),
    "that runs less": (NodeFacts(found(), api("x86_64", "linux/amd64")), True),
    "that is drained": (NodeFacts(found(), api(notes=BY_BOB)), True),
    "that is down": (NodeFacts(found(), REFUSED), True),
    "of another architecture": (NodeFacts(found("aarch64"), api("aarch64")), True),
}


@pytest.mark.parametrize(("other", "alone"), OTHERS.values(), ids=OTHERS)
def test_it_is_said_when_nobody_takes_over_beside_a_node(other: NodeFacts, alone: bool) -> None:
    spec = fleet(host("amd-1"), host("amd-2"))
    seen = {"amd-1": NodeFacts(became(settings=CHANGED), api()), "amd-2": other}
    actions = plan(spec, facts(seen), NOW).lanes["amd-1"].actions
    [waiting] = [action for action in actions if isinstance(action, AwaitIdle)]
    assert waiting.alone is alone
    assert ("the only one" in str(waiting)) is alone


# ------------------------------------------------------------------------------------------ blocked lanes

ON_ARM = found("aarch64")
STALE_CA = daemon(ONE, "amd-1", settings=settings(authority=OTHER_CA[:16]))

BLOCKED: dict[str, tuple[FleetSpec, HostFacts | Down | None, Stage, str]] = {
    "a host that cannot be logged in to": (ONE, NO_SSH, Stage.SSH, "no answer"),
    "a host that was not asked": (ONE, None, Stage.SSH, "it was not asked"),
    "a foreign container of the node's name": (
        ONE,
        found(foreign=(NAME,)),
        Stage.CONTAINER,
        "fleet.acme.amd-1 on amd-1 is not fleet's",
    ),
    "a foreign volume beside our container": (
        ONE,
        found("x86_64", RUNNING, foreign=(NAME,)),
        Stage.CONTAINER,
        "fleet.acme.amd-1 on amd-1 is not fleet's",
    ),
    "a wish for what the machine cannot run": (
        fleet(host("amd-1", "linux/amd64")),
        ON_ARM,
        Stage.NATIVE,
        "the inventory wants linux/amd64 of it, but uname -m says aarch64",
    ),
    "one impossible wish among others": (
        fleet(host("amd-1", "linux/arm64", "linux/riscv64")),
        ON_ARM,
        Stage.NATIVE,
        "wants linux/riscv64 of it",
    ),
    "a daemon of another authority": (
        ONE,
        found("x86_64", STALE_CA),
        Stage.TLS,
        "fleet.acme.amd-1 trusts a certificate authority that is not in this vault",
    ),
    "a daemon of another authority that was set aside": (
        ONE,
        found("x86_64", replace(STALE_CA, name=ASIDE)),
        Stage.TLS,
        "fleet.acme.amd-1.aside trusts a certificate authority that is not in this vault",
    ),
}


@pytest.mark.parametrize(("spec", "seen", "stage", "reason"), BLOCKED.values(), ids=BLOCKED)
def test_a_lane_is_blocked_by(spec: FleetSpec, seen: HostFacts | Down | None, stage: Stage, reason: str) -> None:
    decided = plan(spec, facts({"amd-1": NodeFacts(seen, REFUSED)}), NOW)
    lane = decided.lanes["amd-1"]
    assert lane.actions == ()
    assert lane.blocked is not None
    assert (lane.blocked.stage, reason in lane.blocked.reason) == (stage, True)
    assert decided.blocked == {"amd-1": lane.blocked}
    assert decided.empty


def test_a_daemon_for_another_architecture_is_replaced_by_one_of_another_image() -> None:
    other = fleet(host("amd-1"), image="moby/buildkit:v0.33.0")
    assert lane_of(became(), api("aarch64"), other).blocked is None


def test_a_daemon_of_another_authority_is_blocked_before_the_vault_is_made_too() -> None:
    seen = facts({"amd-1": NodeFacts(found("x86_64", RUNNING), None)}, keys=vault(None))
    decided = plan(ONE, seen, NOW)
    assert decided.lanes["amd-1"].blocked is not None
    assert decided.vault == ()


WARNED: dict[str, tuple[FleetSpec, HostFacts, ApiFacts, str]] = {
    "the host emulates": (
        ONE,
        found("x86_64", RUNNING, emulated=("arm64",)),
        api(),
        "its kernel would emulate arm64 (binfmt handlers)",
    ),
    "the CPU lacks a wanted variant": (
        fleet(host("amd-1", "linux/amd64", "linux/amd64/v4")),
        became(),
        api(),
        "the inventory wants linux/amd64/v4 of it, which it cannot run itself",
    ),
    "its clock is off": (
        ONE,
        replace(became(), clock_skew=-61.0),
        api(),
        "the clock of amd-1 is 61 s behind this machine's",
    ),
}


@pytest.mark.parametrize(("spec", "seen", "answer", "reason"), WARNED.values(), ids=WARNED)
def test_a_node_that_is_not_native_is_warned_of(
    spec: FleetSpec, seen: HostFacts, answer: ApiFacts, reason: str
) -> None:
    lane = lane_of(seen, answer, spec)
    assert lane.actions == ()
    assert lane.warning is not None
    assert lane.warning.reason == reason
    assert lane.blocked is None


USELESS: dict[str, tuple[FleetSpec, HostFacts, ApiFacts, str]] = {
    "the image is for another architecture": (
        ONE,
        became(),
        api("aarch64"),
        "the host is x86_64, but its daemon runs as linux/arm64",
    ),
    "the CPU has nothing that is wanted, whatever the configuration": (
        fleet(host("amd-1", "linux/amd64/v4"), config={"debug": True}),
        became(),
        api(),
        "the inventory wants linux/amd64/v4 of it, which it cannot run itself",
    ),
    "the CPU has nothing that is wanted": (
        fleet(host("amd-1", "linux/amd64/v4")),
        became(),
        api(),
        "the inventory wants linux/amd64/v4 of it, which it cannot run itself",
    ),
    "its clock is off by more than certificates tolerate": (
        ONE,
        replace(became(), clock_skew=301.0),
        api(),
        "the clock of amd-1 is 301 s ahead of this machine's",
    ),
}


@pytest.mark.parametrize(("spec", "seen", "answer", "reason"), USELESS.values(), ids=USELESS)
def test_a_node_that_would_be_of_no_use_is_blocked(
    spec: FleetSpec, seen: HostFacts, answer: ApiFacts, reason: str
) -> None:
    lane = lane_of(seen, answer, spec)
    assert lane.actions == ()
    assert lane.blocked is not None
    assert lane.blocked.reason == reason


# --------------------------------------------------------------------------------------- stale containers

OLD = daemon(fleet(host("old")), "old")


def stale(**changed: Any) -> DaemonFacts:
    """The container of a node that the inventory no longer has."""
    return daemon(fleet(host("old")), "old", **changed)


REMOVE_OLD = RemoveDaemon("id-old", "fleet.acme.old")


def test_a_renamed_nodes_old_container_goes_before_the_new_one_comes() -> None:
    lane = lane_of(found("x86_64", stale()), REFUSED)
    assert lane.actions == (REMOVE_OLD, *CREATE)


def test_a_stale_container_beside_a_good_one_is_removed() -> None:
    lane = lane_of(found("x86_64", RUNNING, stale(state="exited")), api())
    assert (lane.actions, lane.why) == ((REMOVE_OLD,), ("left over",))


def test_a_renamed_nodes_other_image_goes_once_the_new_daemon_is_there() -> None:
    lane = lane_of(found("x86_64", stale(settings=settings(image="old:1"))), REFUSED)
    assert lane.actions == (REMOVE_OLD, *CREATE, REMOVE_OLD_IMAGE)


def test_a_stale_container_of_another_authority_is_somebody_elses() -> None:
    other = stale(settings=settings(authority=OTHER_CA[:16]))
    assert lane_of(found("x86_64", RUNNING, other), api()).actions == ()


def test_two_nodes_on_one_machine_leave_each_other_alone() -> None:
    spec = fleet(host("amd-1", address="10.0.0.1"), host("amd-2", address="10.0.0.1", port=1299))
    seen = found("x86_64", daemon(spec, "amd-1"), daemon(spec, "amd-2"))
    decided = plan(spec, facts({name: NodeFacts(seen, api()) for name in ("amd-1", "amd-2")}), NOW)
    assert [lane.actions for lane in decided.lanes.values()] == [(), ()]


# -------------------------------------------------------------------------------------------------- vault

VAULTS: dict[str, tuple[VaultFacts, tuple[object, ...]]] = {
    "there is none": (vault(None), (CreateAuthority("acme"), IssueClient("operator"))),
    "complete": (vault(), ()),
    "without a client certificate": (vault(CA, None), (IssueClient("operator"),)),
    "with a client certificate about to expire": (vault(CA, certificate(30)), (IssueClient("operator"),)),
    "with an expired client certificate": (vault(CA, certificate(-3)), (IssueClient("operator"),)),
    "with a client certificate that has a month and a day left": (vault(CA, certificate(31)), ()),
}


@pytest.mark.parametrize(("keys", "actions"), VAULTS.values(), ids=VAULTS)
def test_the_vault(keys: VaultFacts, actions: tuple[object, ...]) -> None:
    seen = running(ONE, "amd-1") if keys.authority else NodeFacts(found(), None)
    decided = plan(ONE, facts({"amd-1": seen}, registered=REGISTERED, keys=keys), NOW)
    assert decided.vault == actions
    assert decided.empty is (actions == ())


def test_no_vault_is_made_when_nothing_can_be_done_anywhere() -> None:
    decided = plan(ONE, facts({"amd-1": NodeFacts(NO_SSH, None)}, keys=vault(None)), NOW)
    assert decided.vault == ()
    assert decided.empty


@pytest.mark.parametrize(
    ("spec", "days"), [(ONE, RENEWAL_DAYS), (replace(ONE, tls=TlsSpec(renew_days=7)), 7)], ids=["unasked", "asked for"]
)
def test_the_renewal_window_is_that_of_the_inventory(spec: FleetSpec, days: int) -> None:
    at = CertificateFacts("1", NOW + timedelta(days=days))
    just_outside = CertificateFacts("1", NOW + timedelta(days=days, seconds=1))
    for dated, renewed in ((at, True), (just_outside, False)):
        seen = running(spec, "amd-1")
        assert isinstance(seen.host, HostFacts)
        there = replace(seen.host, daemons=(replace(seen.host.daemons[0], certificate=dated),))
        decided = plan(spec, facts({"amd-1": NodeFacts(there, seen.api)}, keys=vault(CA, dated)), NOW)
        assert (bool(decided.vault), bool(decided.lanes["amd-1"].actions)) == (renewed, renewed)


# ------------------------------------------------------------------------------------------------ builder

TWO = fleet(host("amd-1"), host("arm-1"))
PAIR = fleet(host("amd-1"), host("amd-2"))
ARM_PINS = ("linux/arm64", "linux/arm/v7", "linux/arm/v6")
AMD_NODE, ARM_NODE = node("amd-1", *AMD_PINS), node("arm-1", *ARM_PINS)
STANDBY = node("amd-2")
ALL_WELL = {"amd-1": running(TWO, "amd-1"), "arm-1": running(TWO, "arm-1", "aarch64")}
PAIR_WELL = {name: running(PAIR, name) for name in ("amd-1", "amd-2")}
LOST = NodeFacts(NO_SSH, REFUSED)

BUILDERS: dict[str, tuple[FleetSpec, Mapping[str, NodeFacts], BuilderFacts, tuple[Step, ...]]] = {
    "none yet": (TWO, ALL_WELL, BuilderFacts(), (CreateBuilder(AMD_NODE), AppendNode(ARM_NODE))),
    "as it is wanted": (TWO, ALL_WELL, builder(AMD_NODE, ARM_NODE), ()),
    "as it is wanted, in another order": (TWO, ALL_WELL, builder(ARM_NODE, AMD_NODE), ()),
    "without one node": (TWO, ALL_WELL, builder(AMD_NODE), (AppendNode(ARM_NODE),)),
    "with a node that the inventory does not have": (
        TWO,
        ALL_WELL,
        builder(AMD_NODE, ARM_NODE, node("gone", "linux/riscv64")),
        (LeaveNode("gone"),),
    ),
    "whose pins somebody took away": (
        TWO,
        ALL_WELL,
        builder(AMD_NODE, node("arm-1")),
        (AppendNode(ARM_NODE),),
    ),
    "with another endpoint": (
        TWO,
        ALL_WELL,
        builder(AMD_NODE, node("arm-1", *ARM_PINS, endpoint="tcp://old:1")),
        (AppendNode(ARM_NODE),),
    ),
    "two of one architecture": (PAIR, PAIR_WELL, BuilderFacts(), (CreateBuilder(AMD_NODE), AppendNode(STANDBY))),
    "the owner stays": (PAIR, PAIR_WELL, builder(node("amd-1"), node("amd-2", *AMD_PINS)), ()),
    "a fresh host is registered for what it will surely run": (
        TWO,
        ALL_WELL | {"arm-1": NodeFacts(found("aarch64"), REFUSED)},
        builder(AMD_NODE),
        (AppendNode(node("arm-1", "linux/arm64")),),
    ),
    "a fresh host with wishes is registered for them": (
        fleet(host("amd-1", "linux/amd64", "linux/386")),
        {"amd-1": NodeFacts(found(), REFUSED)},
        BuilderFacts(),
        (CreateBuilder(node("amd-1", "linux/amd64", "linux/386")),),
    ),
    "a host is down, but its daemon answers": (
        TWO,
        ALL_WELL | {"arm-1": NodeFacts(NO_SSH, api("aarch64"))},
        builder(AMD_NODE, ARM_NODE),
        (),
    ),
    "the only node of an architecture is down and stays its owner": (
        TWO,
        ALL_WELL | {"arm-1": LOST},
        builder(AMD_NODE, ARM_NODE),
        (),
    ),
    "the owner is down and the other takes over": (
        PAIR,
        PAIR_WELL | {"amd-1": LOST},
        builder(AMD_NODE, STANDBY),
        # A build without a platform goes to the first node.
        (AppendNode(node("amd-2", *AMD_PINS)), LeaveNode("amd-1"), AppendNode(node("amd-1"))),
    ),
    "the owner is drained and the other takes over": (
        PAIR,
        PAIR_WELL | {"amd-1": NodeFacts(found("x86_64", RUNNING), api(notes=BY_BOB))},
        builder(AMD_NODE, STANDBY),
        # A build without a platform goes to the first node.
        (AppendNode(node("amd-2", *AMD_PINS)), LeaveNode("amd-1"), AppendNode(node("amd-1"))),
    ),
    "the only node of an architecture is drained and stays its owner": (
        TWO,
        ALL_WELL | {"amd-1": NodeFacts(found("x86_64", RUNNING), api(notes=BY_BOB))},
        builder(AMD_NODE, ARM_NODE),
        (),
    ),
    "what a stopped run has drained stays the owner": (
        PAIR,
        PAIR_WELL | {"amd-1": NodeFacts(found("x86_64", RUNNING), api(notes=PASSING))},
        builder(AMD_NODE, STANDBY),
        (),
    ),
    "a node that is not native leaves": (
        TWO,
        ALL_WELL | {"arm-1": NodeFacts(found("aarch64", daemon(TWO, "arm-1", "aarch64")), api("x86_64"))},
        builder(AMD_NODE, ARM_NODE),
        (LeaveNode("arm-1"),),
    ),
    "everything is down": (TWO, {"amd-1": LOST, "arm-1": LOST}, builder(AMD_NODE, ARM_NODE), ()),
    "everything is down and there is none": (TWO, {"amd-1": LOST, "arm-1": LOST}, BuilderFacts(), ()),
    "a daemon that runs nothing natively": (
        TWO,
        ALL_WELL | {"arm-1": NodeFacts(found("aarch64", daemon(TWO, "arm-1", "aarch64")), api("x86_64"))},
        builder(AMD_NODE),
        (),
    ),
}


@pytest.mark.parametrize(("spec", "nodes", "registered", "steps"), BUILDERS.values(), ids=BUILDERS)
def test_the_builder(
    spec: FleetSpec, nodes: Mapping[str, NodeFacts], registered: BuilderFacts, steps: tuple[Step, ...]
) -> None:
    decided = plan(spec, facts(nodes, registered=registered), NOW)
    assert decided.builder == steps
    assert decided.builder_blocked is None


FOREIGN: dict[str, BuilderFacts] = {
    "of another driver": builder(driver="docker-container"),
    "of another vault": builder(node("amd-1", *AMD_PINS, options=OPTIONS | {"cacert": "/elsewhere/ca.pem"})),
    "without TLS": builder(node("amd-1", *AMD_PINS, options={})),
    "of which one node is another vault's": builder(AMD_NODE, node("arm-1", *ARM_PINS, options={})),
}


@pytest.mark.parametrize("registered", FOREIGN.values(), ids=FOREIGN)
def test_a_builder_that_fleet_did_not_make_is_left_alone(registered: BuilderFacts) -> None:
    seen = facts(ALL_WELL, registered=registered)
    for decided in (plan(TWO, seen, NOW), plan_down(TWO, seen, volumes=True)):
        assert decided.builder == ()
        assert decided.builder_blocked is not None
        assert decided.builder_blocked.stage is Stage.BUILDER
        assert decided.builder_blocked.remedy


# ------------------------------------------------------------------------------------------------- --host


def test_only_the_chosen_host_gets_a_lane_and_the_others_stay_registered() -> None:
    seen = facts(
        {"amd-1": NodeFacts(found(), REFUSED), "arm-1": NodeFacts(None, api("aarch64"))},
        registered=builder(ARM_NODE),
    )
    decided = plan(TWO, seen, NOW, only=["amd-1"])
    assert list(decided.lanes) == ["amd-1"]
    assert decided.builder == (AppendNode(node("amd-1", "linux/amd64")),)


def test_a_host_that_was_not_chosen_stays_registered_even_when_it_is_down() -> None:
    seen = facts(
        {"amd-1": running(TWO, "amd-1"), "arm-1": NodeFacts(None, REFUSED)}, registered=builder(AMD_NODE, ARM_NODE)
    )
    assert plan(TWO, seen, NOW, only=["amd-1"]).empty


def test_a_host_that_was_not_chosen_goes_on_standing_by() -> None:
    seen = facts(
        {"amd-1": running(PAIR, "amd-1"), "amd-2": NodeFacts(None, api())}, registered=builder(AMD_NODE, STANDBY)
    )
    assert plan(PAIR, seen, NOW, only=["amd-1"]).empty


def test_a_host_that_was_not_chosen_is_not_registered_in_passing() -> None:
    seen = facts(
        {"amd-1": running(TWO, "amd-1"), "arm-1": NodeFacts(None, api("aarch64"))}, registered=builder(AMD_NODE)
    )
    assert plan(TWO, seen, NOW, only=["amd-1"]).empty


# ---------------------------------------------------------------------------------------------- the whole


def test_nothing_to_do() -> None:
    decided = plan(TWO, facts(ALL_WELL, registered=builder(AMD_NODE, ARM_NODE)), NOW)
    assert decided.empty
    assert decided == Plan("acme", lanes=decided.lanes)
    assert [lane.actions for lane in decided.lanes.values()] == [(), ()]


def test_a_first_run_reads_as_sentences() -> None:
    seen = facts({"amd-1": NodeFacts(found(image=Image.ABSENT), None)}, keys=vault(None))
    decided = plan(ONE, seen, NOW)
    assert [str(action) for action in decided.vault] == [
        "make a certificate authority for acme",
        "issue a client certificate for operator",
    ]
    assert [str(action) for action in decided.lanes["amd-1"].actions] == [
        f"pull {IMAGE}",
        "create fleet.acme.amd-1 with a new certificate",
        "start fleet.acme.amd-1",
        "wait until it answers over mutual TLS",
    ]
    assert [str(step) for step in decided.builder] == ["create the builder with amd-1 for linux/amd64"]


def test_the_wanted_container_follows_the_inventory() -> None:
    spec = fleet(host("amd-1", address="10.0.0.11", port=1299), config={"debug": True})
    wanted = daemon_spec(spec, spec.hosts[0], "amd64", vault())
    assert (wanted.name, wanted.image, wanted.port, wanted.bind) == (NAME, IMAGE, 1299, "")
    assert wanted.names == ("10.0.0.11", "amd-1", "amd64.acme.fleet.internal")
    assert wanted.config == buildkitd.render({"debug": True}, {buildkitd.LABEL_ARCH: "amd64"})
    assert wanted.authority == CA


def test_what_a_host_emulates_of_its_own_family_is_left_to_clients_in_the_daemons_labels() -> None:
    spec = fleet(host("arm-1"))
    config = daemon_spec(spec, spec.hosts[0], "arm64", vault(), ("amd64", "arm")).config
    assert 'fleet.emulated" = "arm"' in config


def test_a_local_hosts_daemon_listens_to_this_machine_alone() -> None:
    spec = fleet(HostSpec("here", "127.0.0.1", connection=Connection.LOCAL))
    assert daemon_spec(spec, spec.hosts[0], "amd64", vault()).bind == "127.0.0.1"


def test_a_local_host_that_others_reach_listens_where_they_do() -> None:
    spec = fleet(HostSpec("here", "10.0.0.5", connection=Connection.LOCAL))
    assert daemon_spec(spec, spec.hosts[0], "amd64", vault()).bind == "10.0.0.5"


def test_a_container_that_another_vault_made_is_removed_only_when_that_is_said() -> None:
    spec = ONE
    theirs = found("x86_64", replace(RUNNING, settings={**RUNNING.settings, "authority": OTHER_CA[:16]}))
    seen = facts({"amd-1": NodeFacts(theirs)})
    blocked = plan_down(spec, seen, volumes=True).lanes["amd-1"].blocked
    assert blocked
    assert "--any-vault" in str(blocked.remedy)
    assert plan_down(spec, seen, volumes=False, any_vault=True).lanes["amd-1"].actions == (
        RemoveDaemon("id-amd-1", NAME),
    )


# --------------------------------------------------------------------------------------------------- down

BOTH = found("x86_64", daemon(ONE, "amd-1"), OLD, volumes=(NAME, "fleet.acme.old"))

FORGET = ForgetHistory("acme")

DOWN: dict[str, tuple[HostFacts, bool, tuple[LaneAction, ...]]] = {
    "a fresh host": (found(), True, ()),
    "a node": (found("x86_64", RUNNING, volumes=(NAME,)), False, (RemoveDaemon("id-amd-1", NAME),)),
    "a node with its cache": (
        found("x86_64", RUNNING, volumes=(NAME,)),
        True,
        (RemoveDaemon("id-amd-1", NAME), RemoveVolume(NAME), RemoveImage(IMAGE, MARK), FORGET),
    ),
    "a node that was made from another image": (
        found("x86_64", daemon(ONE, "amd-1", settings=settings(image="old:1")), image=Image.PULLED),
        True,
        (RemoveDaemon("id-amd-1", NAME), RemoveImage(IMAGE, MARK), REMOVE_OLD_IMAGE, FORGET),
    ),
    "a node whose label is unreadable": (
        became(settings={}),
        True,
        (RemoveDaemon("id-amd-1", NAME), FORGET),
    ),
    "an image whose daemon was removed by hand": (found(image=Image.PULLED), True, (RemoveImage(IMAGE, MARK), FORGET)),
    "an image that stays with the caches": (found(image=Image.PULLED), False, ()),
    "an image that is absent": (found(image=Image.ABSENT), True, ()),
    "all of this fleet's containers": (BOTH, False, (RemoveDaemon("id-amd-1", NAME), REMOVE_OLD)),
    "all that there is": (
        BOTH,
        True,
        (
            RemoveDaemon("id-amd-1", NAME),
            REMOVE_OLD,
            RemoveVolume(NAME),
            RemoveVolume("fleet.acme.old"),
            RemoveImage(IMAGE, MARK),
            FORGET,
        ),
    ),
    "a cache that was left": (found(volumes=(NAME,)), True, (RemoveVolume(NAME), FORGET)),
    "what is left when all else is gone": (found(history=True), True, (FORGET,)),
    "a history that stays": (found(history=True), False, ()),
    "a cache that stays": (found(volumes=(NAME,)), False, ()),
}


@pytest.mark.parametrize(("seen", "volumes", "actions"), DOWN.values(), ids=DOWN)
def test_down(seen: HostFacts, volumes: bool, actions: tuple[LaneAction, ...]) -> None:
    decided = plan_down(ONE, facts({"amd-1": NodeFacts(seen, None)}), volumes=volumes)
    assert decided.lanes["amd-1"].actions == actions
    assert decided.vault == ()
    assert decided.empty is (actions == ())


def test_down_removes_the_builder() -> None:
    decided = plan_down(TWO, facts(ALL_WELL, registered=builder(AMD_NODE, ARM_NODE)), volumes=False)
    assert decided.builder == (RemoveBuilder(),)


def test_down_leaves_a_host_that_cannot_be_logged_in_to_and_says_so() -> None:
    decided = plan_down(TWO, facts(ALL_WELL | {"arm-1": LOST}), volumes=False)
    assert decided.blocked == {"arm-1": NO_SSH}
    assert decided.lanes["amd-1"].actions == (RemoveDaemon("id-amd-1", NAME),)


def test_all_facts_are_seen() -> None:
    """A host missing in the facts is a mistake of ours, not of the fleet."""
    with pytest.raises(KeyError):
        plan(TWO, Facts({}, BuilderFacts(), vault()), NOW)


def test_a_restart_replaces_a_daemon_that_is_as_it_is_wanted() -> None:
    seen = facts({"amd-1": NodeFacts(became(), api())}, registered=REGISTERED)
    asked = plan(ONE, seen, NOW, restart=("amd-1",)).lanes["amd-1"]
    assert asked.why == ("a restart was asked for",)
    assert CreateDaemon(WANTED) in asked.actions
    assert plan(ONE, seen, NOW).lanes["amd-1"].actions == ()


def test_a_restart_adds_no_reason_to_a_change() -> None:
    seen = facts({"amd-1": NodeFacts(became(settings=settings(recipe="0")), api())}, registered=REGISTERED)
    assert "a restart was asked for" not in plan(ONE, seen, NOW, restart=("amd-1",)).lanes["amd-1"].why
