"""From facts to one word a node, with the stage and reason where it is not ready."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fleet.fleet_health import snapshot
from fleet.health import at_rest, node_health, wrong_clock
from fleet.model.facts import ApiFacts, Down, Facts, HostFacts, NodeFacts, Stage
from fleet.model.health import Health
from fleet.model.spec import FleetSpec, HostSpec
from tests.support.values import NOW, api, builder, certificate, daemon, facts, fleet, found, host, node, platforms

SPEC = fleet(host("amd-1"), host("arm-1", "linux/arm64"))
AMD, ARM = SPEC.hosts

REFUSED = Down(Stage.TCP, "amd-1.example:1234 refused the connection", "fleet up --host amd-1")
NO_TLS = Down(Stage.TLS, "the certificate is not accepted", "fleet up --host amd-1")
NO_SSH = Down(Stage.SSH, "no answer from amd-1.example:22 within 10 s", "is the host up?")
NO_DOCKER = Down(Stage.DOCKER, "there is no Docker Engine", "install it")
RUNNING = daemon(SPEC, "amd-1")

TABLE: dict[str, tuple[NodeFacts, Health, str | None]] = {
    "all is well": (NodeFacts(found("x86_64", RUNNING), api()), Health.READY, None),
    "the daemon answers, the host was not asked": (NodeFacts(None, api()), Health.READY, None),
    "the daemon answers, the host does not": (
        NodeFacts(NO_SSH, api()),
        Health.DEGRADED,
        "SSH: no answer from amd-1.example:22 within 10 s",
    ),
    "the daemon answers, Docker does not": (
        NodeFacts(NO_DOCKER, api()),
        Health.DEGRADED,
        "Docker: there is no Docker Engine",
    ),
    "the daemon is of another architecture": (
        NodeFacts(found("x86_64", RUNNING), api("aarch64")),
        Health.DEGRADED,
        "not native: the host is x86_64, but its daemon runs as linux/arm64",
    ),
    "the host would emulate": (
        NodeFacts(found("x86_64", RUNNING, emulated=("arm64", "s390x")), api()),
        Health.DEGRADED,
        "not native: its kernel would emulate arm64, s390x (binfmt handlers)",
    ),
    "nothing answers": (NodeFacts(NO_SSH, REFUSED), Health.DOWN, "SSH: no answer from amd-1.example:22 within 10 s"),
    "Docker is gone": (NodeFacts(NO_DOCKER, REFUSED), Health.DOWN, "Docker: there is no Docker Engine"),
    "there is no container": (NodeFacts(found(), REFUSED), Health.DOWN, "container: there is no daemon"),
    "the container stopped": (
        NodeFacts(found("x86_64", daemon(SPEC, "amd-1", state="exited", detail="Exited (137) 1 minute ago")), REFUSED),
        Health.DOWN,
        "container: fleet.acme.amd-1: Exited (137) 1 minute ago",
    ),
    "the container crashes": (
        NodeFacts(found("x86_64", daemon(SPEC, "amd-1", state="restarting", detail="")), REFUSED),
        Health.DOWN,
        "container: fleet.acme.amd-1: restarting",
    ),
    "the container is frozen": (
        NodeFacts(found("x86_64", daemon(SPEC, "amd-1", state="paused", detail="Up 2 hours (Paused)")), NO_TLS),
        Health.DOWN,
        "container: fleet.acme.amd-1: Up 2 hours (Paused)",
    ),
    "somebody else has the name": (
        NodeFacts(found(foreign=("fleet.acme.amd-1",)), REFUSED),
        Health.DOWN,
        "container: fleet.acme.amd-1 on amd-1 is not fleet's (it lacks fleet's label)",
    ),
    "the port is shut": (
        NodeFacts(found("x86_64", RUNNING), REFUSED),
        Health.DOWN,
        "TCP: amd-1.example:1234 refused the connection",
    ),
    "the certificate is refused": (
        NodeFacts(found("x86_64", RUNNING), NO_TLS),
        Health.DOWN,
        "TLS: the certificate is not accepted",
    ),
    "the port is shut and the host was not asked": (
        NodeFacts(None, REFUSED),
        Health.DOWN,
        "TCP: amd-1.example:1234 refused the connection",
    ),
    "the host is well, the daemon was not asked": (
        NodeFacts(found("x86_64", RUNNING), None),
        Health.UNKNOWN,
        "TLS: there is no client certificate to ask it with",
    ),
    "the daemon is alive but slow": (
        NodeFacts(found("x86_64", RUNNING), replace(NO_TLS, late=True)),
        Health.UNKNOWN,
        "TLS: the certificate is not accepted",
    ),
    "nothing was asked": (NodeFacts(), Health.UNKNOWN, "API: nothing has answered in time"),
}


@pytest.mark.parametrize(("seen", "health", "reason"), TABLE.values(), ids=TABLE)
def test_health(seen: NodeFacts, health: Health, reason: str | None) -> None:
    row = node_health(SPEC, AMD, seen, ())
    assert (row.health, row.reason) == (health, reason)
    assert (row.remedy is None) is (health is Health.READY)


GB = 10**9

DISKS: dict[str, tuple[int | None, int | None, int | None, str | None]] = {
    "there is room": (50 * GB, 100 * GB, 30 * GB, None),
    "a tenth is free": (8 * GB, 80 * GB, 30 * GB, None),
    "less than a tenth is free": (7 * GB, 80 * GB, 30 * GB, "fleet prune amd-1 --keep 29GB"),
    "a large disk needs no tenth": (10 * GB, 4000 * GB, 30 * GB, None),
    "a large disk with less than 10 GB": (9 * GB, 4000 * GB, 1 * GB, "fleet prune amd-1"),
    "a small disk with a tenth": (1 * GB, 8 * GB, 0, None),
    "nothing is free": (0, 8 * GB, 1 * GB, "fleet prune amd-1"),
    "the cache is not what fills it": (
        *(1 * GB, 80 * GB, 2 * GB),
        "fleet ssh amd-1 docker system df; what fills it is not the cache (2.0 GB)",
    ),
    "nobody knows the cache": (1 * GB, 80 * GB, None, "fleet prune amd-1; fleet ssh amd-1 docker system df"),
    "nobody knows what is free": (None, 80 * GB, 2 * GB, None),
    "nobody knows the disk": (1 * GB, None, 2 * GB, None),
}


@pytest.mark.parametrize(("free", "disk", "cache", "remedy"), DISKS.values(), ids=DISKS)
def test_a_disk_that_fills_up_is_told(
    free: int | None, disk: int | None, cache: int | None, remedy: str | None
) -> None:
    seen = NodeFacts(found("x86_64", RUNNING, free_bytes=free, disk_bytes=disk), api(cache_bytes=cache))
    row = node_health(SPEC, AMD, seen, ())
    assert (row.health, row.remedy) == (Health.DEGRADED if remedy else Health.READY, remedy)
    assert (row.reason or "").startswith("Docker: only ") is bool(remedy)


def test_what_keeps_a_node_from_building_natively_counts_more_than_its_disk() -> None:
    seen = NodeFacts(found("x86_64", RUNNING, free_bytes=0, disk_bytes=GB, emulated=("arm64",)), api())
    assert (node_health(SPEC, AMD, seen, ()).reason or "").startswith("not native: ")


def test_a_node_that_lacks_a_wanted_platform_is_degraded() -> None:
    spec = fleet(host("amd-1", "linux/amd64", "linux/amd64/v4"))
    row = node_health(spec, spec.hosts[0], NodeFacts(found("x86_64", daemon(spec, "amd-1")), api()), ())
    assert row.health is Health.DEGRADED
    assert row.reason == "not native: the inventory wants linux/amd64/v4 of it, which it cannot run itself"
    assert row.platforms == platforms("linux/amd64")


def test_the_figures_are_those_of_the_facts() -> None:
    seen = NodeFacts(found("aarch64", daemon(SPEC, "arm-1", "aarch64")), api("aarch64", active_builds=2))
    row = node_health(SPEC, ARM, seen, platforms("linux/arm64"))
    assert (row.name, row.address, row.arch) == ("arm-1", "arm-1.example", "arm64")
    assert (row.platforms, row.owns) == (platforms("linux/arm64"), platforms("linux/arm64"))
    assert (row.buildkit, row.active_builds, row.latency_ms) == ("0.32.2", 2, 4.2)
    assert (row.cache_bytes, row.free_bytes) == (1000, 50_000_000_000)
    assert row.certificate == certificate()


def test_what_is_unknown_is_none_and_never_zero() -> None:
    row = node_health(SPEC, AMD, NodeFacts(NO_SSH, REFUSED), ())
    assert (row.arch, row.buildkit, row.active_builds, row.certificate) == (None, None, None, None)
    assert (row.cache_bytes, row.free_bytes, row.latency_ms, row.platforms) == (None, None, None, ())


def test_the_architecture_of_a_host_that_was_not_asked_is_the_workers() -> None:
    assert node_health(SPEC, ARM, NodeFacts(None, api("aarch64")), ()).arch == "arm64"


def test_the_certificate_in_use_counts_and_else_that_of_the_container() -> None:
    old, new = certificate(10), certificate(300)
    seen = found("x86_64", daemon(SPEC, "amd-1", certificate=old))
    assert node_health(SPEC, AMD, NodeFacts(seen, api(certificate=new)), ()).certificate == new
    assert node_health(SPEC, AMD, NodeFacts(seen, NO_TLS), ()).certificate == old


def test_a_snapshot_has_a_row_a_host_in_the_inventorys_order_and_says_who_owns_what() -> None:
    registered = builder(node("arm-1", "linux/arm64"), node("gone", "linux/386"))
    seen = facts({"arm-1": NodeFacts(None, api("aarch64")), "amd-1": NodeFacts(NO_SSH, REFUSED)}, registered=registered)
    taken = snapshot(SPEC, seen, NOW)
    assert (taken.fleet, taken.taken, taken.builder) == ("acme", NOW, registered)
    assert [(row.name, row.owns, row.health) for row in taken.nodes] == [
        ("amd-1", (), Health.DOWN),
        ("arm-1", platforms("linux/arm64"), Health.READY),
    ]


# -------------------------------------------------------------------------------------------------- clocks

FLEET = fleet(host("amd-1"), host("amd-2"), host("arm-1"))
NAMES = [one.name for one in FLEET.hosts]


@pytest.mark.parametrize(
    ("skews", "said"),
    [
        pytest.param((0.0, 1.0, -1.0), {}, id="all is well"),
        pytest.param((30.0, 0.0, -30.0), {}, id="just tolerable"),
        pytest.param(
            (31.0, 0.0, 0.0), {"amd-1": "the clock of amd-1 is 31 s ahead of the other hosts'"}, id="one ahead"
        ),
        pytest.param(
            (0.0, -99.0, 0.0), {"amd-2": "the clock of amd-2 is 99 s behind the other hosts'"}, id="one behind"
        ),
        pytest.param(
            (99.0, 100.0, 101.0),
            dict.fromkeys(NAMES, "this machine's clock is 100 s behind its hosts'"),
            id="this machine's, which is slow",
        ),
        pytest.param(
            (-99.0, -100.0, 0.0),
            {
                "amd-1": "this machine's clock is 99 s ahead of its hosts'",
                "amd-2": "this machine's clock is 99 s ahead of its hosts'",
                "arm-1": "the clock of arm-1 is 99 s ahead of the other hosts'",
            },
            id="this machine's, and a host's that goes with it",
        ),
        pytest.param(
            (40.0, 0.0),
            {"amd-1": "the clock of amd-1 is 40 s ahead of this machine's"},
            id="two cannot tell who is wrong",
        ),
    ],
)
def test_whose_clock_is_wrong(skews: tuple[float, ...], said: dict[str, str]) -> None:
    spec = replace(FLEET, hosts=FLEET.hosts[: len(skews)])
    nodes = {
        one.name: NodeFacts(found("x86_64", daemon(spec, one.name), clock_skew=skew), NO_TLS)
        for one, skew in zip(spec.hosts, skews, strict=True)
    }
    seen = facts(nodes)
    judged = {one.name: wrong_clock(one, host, seen.common_skew) for one, host in hosts_of(spec, seen)}
    assert {name: why.reason for name, why in judged.items() if why} == said
    # Where a certificate is not accepted, the clock is named before it.
    shown = {one.name: one.reason for one in snapshot(spec, seen, NOW).nodes}
    assert shown == {name: f"TLS: {said.get(name, NO_TLS.reason)}" for name in nodes}


def hosts_of(spec: FleetSpec, seen: Facts) -> list[tuple[HostSpec, HostFacts]]:
    answers = {name: node.host for name, node in seen.nodes.items()}
    return [(one, found) for one in spec.hosts if isinstance(found := answers[one.name], HostFacts)]


@pytest.mark.parametrize(
    ("skews", "common"),
    [
        pytest.param((), None, id="nobody"),
        pytest.param((1.0, 2.0), None, id="two"),
        pytest.param((9.0, 1.0, 2.0), 2.0, id="the one in the middle"),
        pytest.param((9.0, 1.0, 2.0, 3.0), 3.0, id="of an even number the upper one"),
        pytest.param((1.0, None, 2.0), None, id="silent hosts do not count"),
    ],
)
def test_the_clock_that_most_hosts_have(skews: tuple[float | None, ...], common: float | None) -> None:
    nodes = {
        f"node-{number}": NodeFacts(NO_SSH if skew is None else found("x86_64", clock_skew=skew))
        for number, skew in enumerate(skews)
    }
    assert facts(nodes).common_skew == common


@pytest.mark.parametrize(
    ("answer", "rest"),
    [
        pytest.param(api(), True, id="no build"),
        pytest.param(replace(api(), active_builds=2), False, id="builds"),
        pytest.param(replace(api(), active_builds=None), False, id="not said"),
        pytest.param(REFUSED, True, id="nobody there"),
        pytest.param(replace(REFUSED, late=True), False, id="slow to answer"),
    ],
)
def test_what_is_not_known_is_no_rest(answer: ApiFacts | Down, rest: bool) -> None:
    assert at_rest(answer) is rest
