"""One table a topic: what a host answered → how the topic is, and in which words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fleet.check.ground import Ground, Port, Reach
from fleet.check.judgement import Answers, Case, Judgement, State, Topic
from fleet.check.node import judge
from fleet.model.facts import Down, Image, Offer, Stage
from fleet.model.spec import Delivery, HostSpec, Limits
from tests.support.values import IMAGE, INFO, daemon, fleet, found, host, platforms, vault

SPEC = fleet(host("amd-1"), config={"registry": {"docker.io": {"mirrors": ["mirror.example"]}}})
HUB, MIRROR = "registry-1.docker.io:443", "mirror.example:443"
OURS = "fleet.acme.amd-1"
TAKEN, NGINX = {1234: Port(taken=True)}, Port(taken=True, by="nginx (process 7)")

GROUND = Ground(
    machine_id="m1",
    boot_id="b1",
    file_system="ext4",
    inodes=1_000_000,
    free_inodes=900_000,
    nic="eth0",
    nic_mtu=1500,
    ports={1234: Port(taken=False)},
    nameservers=("10.0.0.53",),
    reach={HUB: Reach.OPEN, MIRROR: Reach.OPEN},
)
GB = 10**9

HEALTHY = Answers(found(), INFO, GROUND, here=Reach.REFUSED)
SERVING = replace(
    HEALTHY,
    host=found("x86_64", daemon(SPEC, "amd-1")),
    info=replace(INFO, published={1234: OURS}),
    ground=replace(GROUND, ports=TAKEN),
    here=Reach.OPEN,
)
NO_SSH = Down(Stage.SSH, "no answer from amd-1.example:22 within 10 s", "is the host up?")
NO_DOCKER = Down(Stage.DOCKER, "there is no Docker Engine", "install it")
LOST = Down(Stage.SSH, "sh did not end within 30 s")

OK, WARNING, PROBLEM, UNKNOWN = State.OK, State.WARNING, State.PROBLEM, State.UNKNOWN


def case(answers: Answers, node: HostSpec | None = None, skew: float | None = None, **keys: Any) -> Case:
    return Case(SPEC, node or SPEC.hosts[0], answers, replace(vault(), **keys), skew)


def of_info(**changed: Any) -> Answers:
    return replace(HEALTHY, info=replace(INFO, **changed))


def of_ground(**changed: Any) -> Answers:
    return replace(HEALTHY, ground=replace(GROUND, **changed))


def of_host(**changed: Any) -> Answers:
    return replace(HEALTHY, host=found(**changed))


def assert_judged(judged: Judgement, state: State, words: str) -> None:
    assert (judged.state, words in judged.text) == (state, True), judged
    if state in {WARNING, PROBLEM}:
        assert judged.remedy


def test_a_healthy_host_is_ok_in_every_topic_before_and_after_up() -> None:
    for answers in (HEALTHY, SERVING):
        judged = judge(case(answers))
        assert {topic: one for topic, one in judged.items() if one.state is not OK} == {}
        assert [topic for topic in Topic if topic in judged] == list(judged)


TABLE: dict[str, tuple[Topic, Answers, State, str]] = {
    # login
    "the login fails": (Topic.LOGIN, Answers(NO_SSH), PROBLEM, "no answer from amd-1.example:22"),
    "the login is late": (Topic.LOGIN, Answers(None), UNKNOWN, "no answer in time"),
    "the shell answers, all else is late": (Topic.LOGIN, Answers(None, None, GROUND), OK, "can be logged in to"),
    "Docker is frozen": (Topic.DOCKER, Answers(None, None, GROUND), UNKNOWN, "Docker has not answered in time"),
    "the login is alive and late": (Topic.LOGIN, Answers(replace(NO_SSH, late=True)), UNKNOWN, "no answer from"),
    "no Docker is no matter of the login": (Topic.LOGIN, replace(HEALTHY, host=NO_DOCKER), OK, ""),
    # Docker
    "no Docker": (Topic.DOCKER, replace(HEALTHY, host=NO_DOCKER), PROBLEM, "there is no Docker Engine"),
    "the oldest Docker": (Topic.DOCKER, of_host(engine="20.10.0"), OK, "20.10.0"),
    "an older Docker": (Topic.DOCKER, of_host(engine="19.03.15"), PROBLEM, "19.03.15 is older than 20.10"),
    "a new Docker": (Topic.DOCKER, of_host(engine="100.0.1-rc1"), OK, "100.0.1-rc1"),
    "another engine": (Topic.DOCKER, of_host(engine=""), UNKNOWN, "is not Docker's"),
    "Windows containers": (Topic.DOCKER, of_info(os="windows"), PROBLEM, "windows containers"),
    "user namespaces": (Topic.DOCKER, of_info(security=frozenset({"userns"})), PROBLEM, "userns-remap"),
    "rootless": (Topic.DOCKER, of_info(security=frozenset({"rootless"})), WARNING, "without root"),
    "Docker does not answer": (Topic.DOCKER, replace(HEALTHY, info=None), UNKNOWN, "no answer in time"),
    # emulation
    "binfmt handlers": (Topic.EMULATION, of_host(emulated=("arm64",)), WARNING, "would emulate arm64"),
    # cgroups
    "no memory controller": (Topic.CGROUPS, of_info(unlimited=("memory", "pids")), WARNING, "limit memory, pids"),
    "cgroups of version 1": (Topic.CGROUPS, of_info(cgroups="1"), OK, "version 1"),
    "no word of cgroups": (Topic.CGROUPS, of_info(cgroups=None), UNKNOWN, "does not say"),
    "Docker cannot be used, which shows as a lost connection": (
        Topic.CGROUPS,
        Answers(NO_DOCKER, LOST, GROUND),
        UNKNOWN,
        "Docker: there is no Docker Engine",
    ),
    # storage
    "overlayfs of containerd": (Topic.STORAGE, of_info(driver="overlayfs"), OK, "overlayfs on ext4"),
    "xfs that Docker has tried": (Topic.STORAGE, of_ground(file_system="xfs"), OK, "overlay2 on xfs"),
    "an overlay": (Topic.STORAGE, of_ground(file_system="overlay"), WARNING, "an overlay itself"),
    "eCryptfs": (Topic.STORAGE, of_ground(file_system="ecryptfs"), WARNING, "eCryptfs"),
    "ZFS": (Topic.STORAGE, of_ground(file_system="zfs"), WARNING, "OpenZFS 2.2"),
    "memory as disk": (Topic.STORAGE, of_ground(file_system="tmpfs"), WARNING, "gone after a reboot"),
    "NFS": (Topic.STORAGE, of_ground(file_system="nfs4"), PROBLEM, "on nfs4, which overlays"),
    "a fuse file system": (Topic.STORAGE, of_ground(file_system="fuse.sshfs"), PROBLEM, "fuse.sshfs"),
    "vfs": (Topic.STORAGE, of_info(driver="vfs"), WARNING, "by copying (vfs)"),
    "devicemapper says nothing of overlays on ext4": (Topic.STORAGE, of_info(driver="devicemapper"), OK, "on ext4"),
    "a file system nobody knows": (Topic.STORAGE, of_ground(file_system="reiserfs"), UNKNOWN, "work on reiserfs"),
    "no word of the file system": (Topic.STORAGE, of_ground(file_system=None), UNKNOWN, "does not tell on which"),
    "no answer of the shell": (Topic.STORAGE, replace(HEALTHY, ground=LOST), UNKNOWN, "SSH: sh did not end"),
    # disk and inodes
    "a full disk": (Topic.DISK, of_host(free_bytes=0), PROBLEM, "0 B of 100 GB free"),
    "hardly a disk": (Topic.DISK, of_host(free_bytes=GB - 1), PROBLEM, "too little for BuildKit"),
    "little of a disk": (Topic.DISK, of_host(free_bytes=GB), WARNING, "1.0 GB of 100 GB free"),
    "less than a tenth": (Topic.DISK, of_host(free_bytes=10 * GB - 1), WARNING, "one larger build may fill it"),
    "a tenth": (Topic.DISK, of_host(free_bytes=10 * GB), OK, "10 GB of 100 GB free"),
    "enough of a large disk": (Topic.DISK, of_host(free_bytes=10 * GB, disk_bytes=4000 * GB), OK, "10 GB of 4.0 TB"),
    "a tenth of a small disk": (Topic.DISK, of_host(free_bytes=GB // 2, disk_bytes=5 * GB), OK, "500 MB of 5.0 GB"),
    "a small disk": (Topic.DISK, of_host(free_bytes=GB // 2 - 1, disk_bytes=5 * GB), PROBLEM, "too little for"),
    "no word of the disk": (Topic.DISK, of_host(free_bytes=None), UNKNOWN, "does not tell"),
    "no word of its size": (Topic.DISK, of_host(disk_bytes=None), UNKNOWN, "does not tell"),
    "no inodes": (Topic.INODES, of_ground(free_inodes=9_999), PROBLEM, "9999 of 1000000"),
    "few inodes": (Topic.INODES, of_ground(free_inodes=49_999), WARNING, "49999 of 1000000"),
    "enough inodes": (Topic.INODES, of_ground(free_inodes=50_000), OK, "50000 of 1000000"),
    "btrfs counts none": (Topic.INODES, of_ground(file_system="btrfs", inodes=0, free_inodes=0), OK, "btrfs"),
    "no word of inodes": (Topic.INODES, of_ground(inodes=None, free_inodes=None), UNKNOWN, "does not tell"),
    "inodes of which there are none": (Topic.INODES, of_ground(inodes=0, free_inodes=0), UNKNOWN, "does not tell"),
    # memory
    "little memory": (Topic.MEMORY, of_info(memory=999_999_999, cpus=1), WARNING, "1.0 GB, 1 CPU:"),
    "enough memory": (Topic.MEMORY, HEALTHY, OK, "16.0 GB, 8 CPUs"),
    "no word of memory": (Topic.MEMORY, of_info(memory=None), UNKNOWN, "does not say"),
    # clock, without a median
    "the clock is off by little": (Topic.CLOCK, of_host(clock_skew=-30.0), OK, "off by 30 s"),
    "the clock is off": (Topic.CLOCK, of_host(clock_skew=-31.0), WARNING, "31 s behind this machine's"),
    "the clock is off by more than certificates stand": (Topic.CLOCK, of_host(clock_skew=301.0), PROBLEM, "ahead of"),
    # container
    "somebody else's container": (Topic.CONTAINER, of_host(foreign=(OURS,)), PROBLEM, "is not fleet's"),
    "another vault's daemon": (
        Topic.CONTAINER,
        replace(HEALTHY, host=found("x86_64", daemon(SPEC, "amd-1", settings={"authority": "0" * 16}))),
        PROBLEM,
        "not in this vault",
    ),
    # port
    "the port is free": (Topic.PORT, HEALTHY, OK, "port 1234 is free"),
    "the port is ours": (Topic.PORT, SERVING, OK, f"is {OURS}'s"),
    "a container has the port": (Topic.PORT, of_info(published={1234: "web"}), PROBLEM, "taken by the container web"),
    "a program has the port": (
        Topic.PORT,
        of_ground(ports={1234: NGINX}),
        PROBLEM,
        "taken by nginx (process 7)",
    ),
    "somebody has the port": (Topic.PORT, of_ground(ports=TAKEN), PROBLEM, "may not see"),
    "the port without Docker": (
        Topic.PORT,
        Answers(NO_DOCKER, NO_DOCKER, replace(GROUND, ports={1234: NGINX})),
        PROBLEM,
        "nginx",
    ),
    "no word of the port": (Topic.PORT, of_ground(ports={}), UNKNOWN, "does not tell"),
    "no answer about the port": (Topic.PORT, replace(HEALTHY, ground=None), UNKNOWN, "no answer in time"),
    # reachable
    "refused where nothing listens": (Topic.REACHABLE, HEALTHY, OK, "a firewall that rejects looks the same"),
    "refused where it listens": (
        Topic.REACHABLE,
        replace(SERVING, here=Reach.REFUSED),
        PROBLEM,
        "is refused: a firewall",
    ),
    "silent where it listens": (Topic.REACHABLE, replace(SERVING, here=Reach.SILENT), PROBLEM, "is silent: a firewall"),
    "silent where nothing listens": (Topic.REACHABLE, replace(HEALTHY, here=Reach.SILENT), WARNING, "nothing listens"),
    "silent where somebody else listens": (
        Topic.REACHABLE,
        replace(of_info(published={1234: "web"}), here=Reach.SILENT),
        UNKNOWN,
        "once it is fleet's",
    ),
    "refused where it is not known who listens": (
        Topic.REACHABLE,
        replace(of_ground(ports={}), here=Reach.REFUSED),
        UNKNOWN,
        "is not known",
    ),
    "no route": (Topic.REACHABLE, replace(HEALTHY, here=Reach.UNROUTED), PROBLEM, "no route from here"),
    "no such name": (Topic.REACHABLE, replace(HEALTHY, here=Reach.UNRESOLVED), PROBLEM, "cannot resolve amd-1.example"),
    "it was not tried": (Topic.REACHABLE, replace(HEALTHY, here=None), UNKNOWN, "whether"),
    "open on a host that cannot be logged in to": (Topic.REACHABLE, Answers(NO_SSH, here=Reach.OPEN), OK, "reached"),
    "silent on a host that is down": (Topic.REACHABLE, Answers(NO_SSH, here=Reach.SILENT), UNKNOWN, "is silent"),
    "silent on a host that is late": (Topic.REACHABLE, Answers(None, here=Reach.SILENT), UNKNOWN, "is silent"),
    # MTU
    "the bridge's MTU is larger": (Topic.MTU, of_ground(nic_mtu=1450), WARNING, "1500 bytes, eth0 takes 1450"),
    "the bridge's MTU is smaller": (Topic.MTU, of_ground(nic_mtu=9000), OK, "9000 on eth0"),
    "no bridge": (Topic.MTU, of_info(mtu=None), UNKNOWN, "of its bridge"),
    "no default route": (Topic.MTU, of_ground(nic=None, nic_mtu=None), UNKNOWN, "of its default route"),
    # DNS
    "name servers on the host itself": (Topic.DNS, of_ground(nameservers=("127.0.0.1", "::1")), WARNING, "8.8.8.8"),
    "one that others can reach": (Topic.DNS, of_ground(nameservers=("127.0.0.1", "10.0.0.1")), OK, "10.0.0.1"),
    "systemd-resolved": (Topic.DNS, of_ground(nameservers=("127.0.0.53",)), OK, "127.0.0.53"),
    "no name server": (Topic.DNS, of_ground(nameservers=()), WARNING, "no name server"),
    "no word of name servers": (Topic.DNS, of_ground(nameservers=None), UNKNOWN, "resolv.conf"),
    # registry
    "a registry that refuses": (
        Topic.REGISTRY,
        of_ground(reach={HUB: Reach.OPEN, MIRROR: Reach.REFUSED}),
        WARNING,
        f"does not reach {MIRROR} (refused)",
    ),
    "registries that are lost": (
        Topic.REGISTRY,
        of_ground(reach={HUB: Reach.SILENT, MIRROR: Reach.UNRESOLVED}),
        WARNING,
        f"{HUB} (no answer), {MIRROR} (the name cannot be resolved)",
    ),
    "a registry that refuses a host without Docker": (
        Topic.REGISTRY,
        Answers(NO_DOCKER, LOST, replace(GROUND, reach={HUB: Reach.OPEN, MIRROR: Reach.REFUSED})),
        WARNING,
        f"does not reach {MIRROR} (refused)",
    ),
    "a registry behind a proxy": (
        Topic.REGISTRY,
        replace(of_ground(reach={HUB: Reach.UNROUTED}), info=replace(INFO, proxied=True)),
        UNKNOWN,
        "has a proxy",
    ),
    "a registry that was not tried": (Topic.REGISTRY, of_ground(reach={HUB: Reach.OPEN}), UNKNOWN, MIRROR),
    # image
    "the image is there": (Topic.IMAGE, HEALTHY, OK, f"{IMAGE} is there"),
    "the image can be pulled": (
        Topic.IMAGE,
        replace(of_host(image=Image.ABSENT), image=frozenset(platforms("linux/amd64", "linux/arm64"))),
        OK,
        "can be pulled",
    ),
    "the image is for others": (
        Topic.IMAGE,
        replace(of_host(image=Image.ABSENT), image=frozenset(platforms("linux/s390x", "linux/arm64"))),
        PROBLEM,
        "for linux/arm64, linux/s390x only, and this is amd64",
    ),
    "the registry does not say for whom": (
        Topic.IMAGE,
        replace(of_host(image=Image.ABSENT), image=frozenset()),
        UNKNOWN,
        "for which platforms",
    ),
    "the registry says no": (
        Topic.IMAGE,
        replace(of_host(image=Image.ABSENT), image=Down(Stage.IMAGE, "manifest unknown", "is it right?")),
        PROBLEM,
        "cannot be pulled: manifest unknown",
    ),
    "Docker is lost meanwhile": (
        Topic.IMAGE,
        replace(of_host(image=Image.ABSENT), image=Down(Stage.DOCKER, "it does not answer")),
        UNKNOWN,
        "Docker: it does not answer",
    ),
    "the image can be sent": (
        Topic.IMAGE,
        replace(of_host(image=Image.ABSENT), image=Offer(IMAGE, "sha256:d", "sha256:c", 58_000_000)),
        OK,
        "can be sent there (58 MB)",
    ),
    "the registry is late": (Topic.IMAGE, of_host(image=Image.ABSENT), UNKNOWN, "has not answered Docker in time"),
}


@pytest.mark.parametrize(("topic", "answers", "state", "words"), TABLE.values(), ids=TABLE)
def test_a_topic(topic: Topic, answers: Answers, state: State, words: str) -> None:
    assert_judged(judge(case(answers))[topic], state, words)


def test_a_host_that_the_image_is_sent_to_needs_no_registry_for_it() -> None:
    there = replace(SPEC.hosts[0], delivery=Delivery.STREAM)
    lost = replace(of_ground(reach={HUB: Reach.SILENT, MIRROR: Reach.OPEN}), image=None)
    other = fleet(there, image="registry.example/buildkit:1")
    judged = judge(Case(other, there, lost, vault(), None))
    assert_judged(judged[Topic.REGISTRY], OK, "it needs none for itself")
    refused = replace(of_host(image=Image.ABSENT), image=Down(Stage.IMAGE, "this machine cannot get it", "log in"))
    assert_judged(
        judge(Case(other, there, refused, vault(), None))[Topic.IMAGE], PROBLEM, "cannot be sent: this machine"
    )
    late = judge(Case(other, there, of_host(image=Image.ABSENT), vault(), None))
    assert_judged(late[Topic.IMAGE], UNKNOWN, "has not answered us in time")


LIMITS: dict[str, tuple[Limits, State, str]] = {
    "all CPUs": (Limits(cpus=8), OK, "8 CPUs"),
    "more CPUs than there are": (Limits(cpus=9), PROBLEM, "Docker does not give a container 9"),
    "most of the memory": (Limits(memory=8_000_000_000), OK, "16.0 GB, 8 CPUs, of which BuildKit may have 8.0 GB"),
    "little of the memory": (Limits(memory=500_000_000), WARNING, "of which BuildKit may have 0.5 GB"),
    "more memory than there is": (Limits(memory=32_000_000_000), OK, "16.0 GB"),
}


@pytest.mark.parametrize(("limits", "state", "words"), LIMITS.values(), ids=LIMITS)
def test_limits(limits: Limits, state: State, words: str) -> None:
    assert_judged(judge(case(HEALTHY, replace(SPEC.hosts[0], limits=limits)))[Topic.MEMORY], state, words)


PLATFORMS: dict[str, tuple[tuple[str, ...], str, State, str]] = {
    "all that it runs": ((), "x86_64", OK, "x86_64: amd64"),
    "its own": (("linux/amd64", "linux/386"), "x86_64", OK, ""),
    "another's": (
        ("linux/amd64", "linux/arm64"),
        "x86_64",
        PROBLEM,
        "wants linux/arm64 of it, but uname -m says x86_64",
    ),
    "a variant": (("linux/amd64/v3",), "x86_64", UNKNOWN, "runs linux/amd64/v3"),
    "32 bits of arm": (("linux/arm64", "linux/arm/v7"), "aarch64", UNKNOWN, "runs linux/arm/v7"),
}


@pytest.mark.parametrize(("wanted", "machine", "state", "words"), PLATFORMS.values(), ids=PLATFORMS)
def test_the_platforms_that_the_inventory_wants(
    wanted: tuple[str, ...], machine: str, state: State, words: str
) -> None:
    judged = judge(case(of_host(machine=machine), host("amd-1", *wanted)))
    assert_judged(judged[Topic.ARCHITECTURE], state, words)


CLOCKS: dict[str, tuple[float, float, State, str]] = {
    "as the others": (2.0, 1.0, OK, "off by 1 s"),
    "this machine is wrong, not the host": (100.0, 100.0, OK, "off by 0 s"),
    "the host is wrong": (100.0, 0.0, WARNING, "100 s ahead of the other hosts'"),
    "the host is wrong, and the others are": (0.0, 100.0, WARNING, "100 s behind the other hosts'"),
}


@pytest.mark.parametrize(("skew", "common", "state", "words"), CLOCKS.values(), ids=CLOCKS)
def test_a_clock_beside_the_other_hosts(skew: float, common: float, state: State, words: str) -> None:
    assert_judged(judge(case(of_host(clock_skew=skew), skew=common))[Topic.CLOCK], state, words)


def test_a_certificate_of_its_own_that_cannot_be_used_is_in_the_way() -> None:
    torn = Down(Stage.TLS, "amd-1.pem is torn", "bring another")
    judged = judge(case(HEALTHY, brought={"amd-1": torn}))
    assert judged[Topic.CONTAINER] == Judgement(PROBLEM, "amd-1.pem is torn", "bring another")


@pytest.mark.parametrize("answers", [Answers(NO_SSH), Answers(None), Answers(NO_DOCKER), Answers(found())], ids=str)
def test_what_was_not_answered_is_never_ok(answers: Answers) -> None:
    by_host = {Topic.ARCHITECTURE, Topic.EMULATION, Topic.DISK, Topic.CLOCK, Topic.CONTAINER, Topic.IMAGE}
    known = {Topic.LOGIN} | (by_host if answers.host == found() else set())
    known -= {Topic.LOGIN} if answers.host in {NO_SSH, None} else set()
    judged = judge(case(answers))
    assert {topic for topic, one in judged.items() if one.state is OK} == known
