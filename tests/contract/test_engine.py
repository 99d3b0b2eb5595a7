"""What every Engine keeps: the fake, Docker over its socket, and Docker over SSH."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

import paramiko
import pytest

from certs.authority import create_authority, issue_node
from certs.certificate import Certificate, describe
from fleet.adapters import engine_client, local
from fleet.adapters.engine import DockerEngine
from fleet.adapters.local import LocalHost
from fleet.adapters.ssh import connect
from fleet.containers import buildkitd
from fleet.containers.daemon import DaemonSpec, Files
from fleet.containers.images import Archive
from fleet.errors import EngineError, HostError
from fleet.model.facts import CertificateFacts, DaemonFacts, Image, Offer, Stage
from fleet.model.platforms import Platform
from fleet.model.spec import Limits, pull_mark
from tests.support import pushed
from tests.support.fake_registry import FakeRegistry
from tests.support.fakes import FakeEngine, Machine
from tests.support.lab import docker_socket, eventually, have_image, host_spec, running_lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from fleet.ports import Engine
    from tests.lab import Lab

ABSENT = "172.30.0.1:5000/nowhere:1"
GRACE = 20


@dataclass(frozen=True, slots=True)
class Site:
    """An Engine with BuildKit's image, and a daemon that could be made on it."""

    engine: Engine
    wanted: DaemonSpec
    certificate: Certificate
    files: Files
    small_images: Mapping[str, str]
    """By tag and by digest: images that the host may or may not have, and that may be removed."""

    def mark(self, reference: str) -> str:
        return pull_mark(self.wanted.fleet, reference)

    def create(self, wanted: DaemonSpec | None = None) -> str:
        wanted = wanted or self.wanted
        files = self.files | {buildkitd.CONFIG_PATH: (wanted.config.encode(), 0o644)}
        return self.engine.create(wanted, self.certificate, files)

    def daemon(self) -> DaemonFacts | None:
        return next((d for d in self.engine.survey(self.wanted.fleet).daemons if d.name == self.wanted.name), None)

    def state(self) -> str:
        found = self.daemon()
        return found.state if found else "absent"


def site(
    engine: Engine, fleet: str, node: str, port: int, image: str, small: Mapping[str, str] = MappingProxyType({})
) -> Site:
    authority = create_authority("contract CA", now=datetime.now(UTC))
    credential = issue_node(authority, node, names=[node, "127.0.0.1"], now=datetime.now(UTC))
    certificate = describe(credential.certificate)
    wanted = DaemonSpec(
        fleet=fleet,
        node=node,
        image=image,
        port=port,
        bind="",
        config=buildkitd.render({}),
        names=(node, "127.0.0.1"),
        authority=describe(authority.certificate).fingerprint,
    )
    return Site(engine, wanted, certificate, wanted.files(credential, authority.certificate), small)


ENGINES = ["fake", "socket", "ssh", "ssh arm64"]


def real_engine(kind: str, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Engine:
    if kind == "socket":
        monkeypatch.setattr(local, "DOCKER_SOCKET", str(docker_socket(lab, "amd-1")))
        return LocalHost().engine()
    return _over_ssh("arm-1" if kind == "ssh arm64" else "amd-1")


@cache
def _over_ssh(name: str) -> Engine:
    """One login for all tests, as for all that fleet asks a host."""
    return connect(host_spec(running_lab(name), name, port=1)).engine()


@pytest.fixture
def ground(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, fleet_name: str, port: int
) -> Iterator[Site]:
    if request.param == "fake":
        machine = Machine("10.0.0.1", images={"moby/buildkit:v0.32.2"})
        small = {"tag": "lab/base:latest", "digest": f"lab/base@sha256:{'0' * 64}"}
        yield site(FakeEngine(machine), fleet_name, "amd-1", port, "moby/buildkit:v0.32.2", small)
        return
    lab: Lab = request.getfixturevalue("lab")
    env = lab.env()
    engine = real_engine(request.param, lab, monkeypatch)
    image = env["LAB_BUILDKIT_IMAGE"]
    have_image(engine, fleet_name, image)
    small = request.getfixturevalue("small_images")
    forget_small_images(lab, "arm-1" if request.param == "ssh arm64" else "amd-1")
    ready = site(engine, fleet_name, "amd-1", port, image, small)
    clear(engine, fleet_name)
    yield ready
    clear(engine, fleet_name)


@pytest.fixture(scope="module")
def small_images(lab: Lab) -> dict[str, str]:
    """The lab's base image, by tag and by digest."""
    forget_small_images(lab, "amd-1")
    tagged = lab.env()["LAB_BASE_IMAGE"]
    registry, _, name = tagged.partition("/")
    repository, _, tag = name.partition(":")
    digest = pushed.read(registry, repository, tag)["linux/amd64"].digest
    return {"tag": tagged, "digest": f"{registry}/{repository}@{digest}"}


@cache
def forget_small_images(lab: Lab, host: str) -> None:
    """Remove what an interrupted run has left of them there."""
    lab.hosts[host].ssh(f"docker rmi -f $(docker images -q {lab.env()['LAB_BASE_IMAGE']}) 2>/dev/null || true")


def clear(engine: Engine, fleet: str) -> None:
    for name in (fleet, f"{fleet}-other"):
        left = engine.survey(name)
        for daemon in left.daemons:
            engine.remove(daemon.id, grace=GRACE)
        for volume in left.volumes:
            engine.remove_volume(volume)


on_every_engine = pytest.mark.parametrize("ground", ENGINES, indirect=True)
on_amd64 = pytest.mark.parametrize("ground", ENGINES[:3], indirect=True)


# -------------------------------------------------------------------------------------------------- images


@on_every_engine
def test_an_engine_has_a_version(ground: Site) -> None:
    assert len(ground.engine.version().split(".")) >= 2


@on_every_engine
def test_an_engine_says_what_it_is(ground: Site) -> None:
    info = ground.engine.info()
    assert (info.os, info.root, info.driver) == ("linux", "/var/lib/docker", "overlay2")
    assert info.id
    assert info.cgroups in {"1", "2"}
    assert info.cpus
    assert info.memory
    assert info.memory > 500_000_000
    assert info.mtu == 1500
    assert "seccomp" in info.security
    assert (info.unlimited, info.proxied) == ((), False)


@on_amd64
def test_an_engine_says_who_has_a_port(ground: Site) -> None:
    made = ground.create()
    assert ground.wanted.port not in ground.engine.info().published
    ground.engine.start(made)
    assert ground.engine.info().published[ground.wanted.port] == ground.wanted.name


on_one_host = pytest.mark.parametrize("ground", ["fake", "ssh"], indirect=True)
"""Side by side they would disturb each other."""

by_every_name = pytest.mark.parametrize("kind", ["tag", "digest"])


def make_absent(ground: Site, reference: str) -> str:
    """See to it that the host lacks the image; the mark that it would get."""
    mark = ground.mark(reference)
    ground.engine.pull(reference, mark, lambda _: None)
    ground.engine.remove_image(reference, mark)
    assert ground.engine.image(reference, mark) is Image.ABSENT
    return mark


@on_one_host
@by_every_name
def test_an_image_that_is_not_there_is_pulled_and_removed_again(ground: Site, kind: str) -> None:
    reference = ground.small_images[kind]
    mark = make_absent(ground, reference)
    told: list[str] = []
    ground.engine.pull(reference, mark, told.append)
    assert ground.engine.image(reference, mark) is Image.PULLED
    assert told
    assert all(text.split()[0] in {"downloading", "extracting"} for text in told)
    ground.engine.remove_image(reference, mark)
    assert ground.engine.image(reference, mark) is Image.ABSENT


@on_one_host
@by_every_name
def test_an_image_that_two_fleets_pulled_goes_with_the_last_of_them(ground: Site, kind: str) -> None:
    reference = ground.small_images[kind]
    mark, theirs = make_absent(ground, reference), pull_mark(f"{ground.wanted.fleet}-other", reference)
    ground.engine.pull(reference, theirs, lambda _: None)
    assert ground.engine.image(reference, mark) is Image.FOUND
    ground.engine.remove_image(reference, mark)
    assert ground.engine.image(reference, theirs) is Image.PULLED
    ground.engine.pull(reference, mark, lambda _: None)
    ground.engine.remove_image(reference, theirs)
    assert ground.engine.image(reference, theirs) is Image.FOUND
    ground.engine.remove_image(reference, mark)
    assert ground.engine.image(reference, mark) is Image.ABSENT


@on_one_host
@by_every_name
def test_an_image_is_still_marked_when_its_container_is_gone(ground: Site, kind: str) -> None:
    reference = ground.small_images[kind]
    mark = make_absent(ground, reference)
    ground.engine.pull(reference, mark, lambda _: None)
    ground.engine.remove(ground.create(replace(ground.wanted, image=reference)), grace=0)
    assert ground.engine.image(reference, mark) is Image.PULLED
    ground.engine.remove_image(reference, mark)
    assert ground.engine.image(reference, mark) is Image.ABSENT


@on_one_host
@by_every_name
def test_an_image_in_use_keeps_its_name_and_is_nobodys_from_then_on(ground: Site, kind: str) -> None:
    reference = ground.small_images[kind]
    mark, theirs = make_absent(ground, reference), pull_mark(f"{ground.wanted.fleet}-other", reference)
    for pulled_by in (mark, theirs):
        ground.engine.pull(reference, pulled_by, lambda _: None)
    made = ground.create(replace(ground.wanted, image=reference))
    ground.engine.remove_image(reference, theirs)
    assert ground.engine.image(reference, mark) is Image.PULLED
    ground.engine.remove_image(reference, mark)
    assert ground.engine.image(reference, mark) is Image.FOUND
    ground.engine.remove(made, grace=0)
    ground.engine.remove_image(reference, mark)
    assert ground.engine.image(reference, mark) is Image.FOUND
    make_absent(ground, reference)


def test_an_image_whose_name_another_one_has_by_now_goes_as_a_whole(
    lab: Lab, fleet_name: str, small_images: Mapping[str, str]
) -> None:
    """The name has left a digest behind, which would keep it."""
    host, engine, reference = lab.hosts["amd-1"], _over_ssh("amd-1"), small_images["tag"]
    mark = pull_mark(fleet_name, reference)
    engine.pull(reference, mark, lambda _: None)
    old = host.ssh(f"docker image inspect -f '{{{{.Id}}}}' {mark}").strip()
    new = host.ssh(f"tar -cT /dev/null | docker import - {reference}").strip()
    engine.remove_image(mark, mark)
    left = host.ssh("docker image ls -aq --no-trunc").split()
    host.ssh(f"docker rmi {reference}")
    assert (old in left, new in left) == (False, True)


# ---------------------------------------------------------------------------------- images that are sent

SHELF = FakeRegistry()


@pytest.fixture(params=["tag", "digest"])
def sent(request: pytest.FixtureRequest, ground: Site) -> Iterator[Offer]:
    """A small image that the host lacks, and that fleet may call by its tag or by its digest."""
    reference = f"lab.example/sent:{ground.wanted.fleet}"
    if request.param == "digest":
        reference = f"lab.example/sent@{SHELF.offer(reference, 'amd64').digest}"
    offer = SHELF.offer(reference, "amd64")
    ground.engine.remove_image(reference, ground.mark(reference))
    assert ground.engine.image(reference, ground.mark(reference)) is Image.ABSENT
    yield offer
    ground.engine.remove_image(reference, ground.mark(reference))


def send(ground: Site, offer: Offer, archive: Archive | None = None) -> list[int]:
    """Send what was offered, or that archive; the numbers of bytes that were told."""
    told: list[int] = []
    mark = ground.mark(offer.reference)
    ground.engine.load(archive or SHELF.archive(offer, mark), offer, mark, told.append)
    return told


@on_one_host
def test_an_image_that_was_sent_is_as_good_as_pulled(ground: Site, sent: Offer) -> None:
    mark = ground.mark(sent.reference)
    told = send(ground, sent)
    assert told == sorted(told)
    assert told[-1] == SHELF.archive(sent, mark).size
    assert ground.engine.image(sent.reference, mark) is Image.PULLED
    made = ground.create(replace(ground.wanted, image=sent.reference))
    assert ground.engine.image(sent.reference, mark) is Image.PULLED
    ground.engine.remove(made, grace=0)
    ground.engine.remove_image(sent.reference, mark)
    assert ground.engine.image(sent.reference, mark) is Image.ABSENT


@on_one_host
def test_sending_an_image_again_changes_nothing(ground: Site, sent: Offer) -> None:
    for _ in range(2):
        send(ground, sent)
        assert ground.engine.image(sent.reference, ground.mark(sent.reference)) is Image.PULLED


def damaged(archive: Archive) -> Archive:
    """The same with one bit of the layer turned, near its end."""
    content = bytearray(b"".join(archive.pieces))
    content[content.rindex(b"\x1f\x8b") + 60] ^= 1
    return Archive(archive.size, iter([bytes(content)]))


@on_one_host
def test_an_image_that_was_damaged_on_the_way_is_refused(ground: Site, sent: Offer) -> None:
    mark = ground.mark(sent.reference)
    with pytest.raises(EngineError, match="Docker said") as caught:
        send(ground, sent, damaged(SHELF.archive(sent, mark)))
    assert caught.value.stage is Stage.IMAGE
    assert ground.engine.image(sent.reference, mark) is Image.ABSENT


@on_one_host
def test_another_image_than_was_offered_is_refused(ground: Site, sent: Offer) -> None:
    mark = ground.mark(sent.reference)
    other = SHELF.archive(SHELF.offer("lab.example/other:1", "amd64"), mark)
    with pytest.raises(EngineError, match=f"what arrived as {sent.reference} is sha256:") as caught:
        send(ground, sent, other)
    assert caught.value.stage is Stage.IMAGE
    assert ground.engine.image(sent.reference, mark) is Image.ABSENT


@on_one_host
def test_what_is_broken_off_leaves_nothing_and_is_begun_anew(ground: Site, sent: Offer) -> None:
    mark = ground.mark(sent.reference)
    archive = SHELF.archive(sent, mark)

    def broken_off() -> Iterator[bytes]:
        yield next(archive.pieces)
        raise EngineError(Stage.SSH, "the connection was lost")

    with pytest.raises(EngineError, match="the connection was lost"):
        send(ground, sent, Archive(archive.size, broken_off()))
    assert ground.engine.image(sent.reference, mark) is Image.ABSENT
    send(ground, sent)
    assert ground.engine.image(sent.reference, mark) is Image.PULLED


@on_amd64
def test_a_registry_says_for_which_platforms_it_has_an_image_and_nothing_is_pulled(ground: Site) -> None:
    reference = ground.small_images["tag"]
    before = ground.engine.image(reference, ground.mark(reference))
    offered = ground.engine.distribution(reference)
    assert offered == {Platform("linux", "amd64"), Platform("linux", "arm64")}
    assert ground.engine.image(reference, ground.mark(reference)) is before


@on_amd64
def test_a_registry_that_lacks_an_image_is_an_error_of_that_stage(ground: Site) -> None:
    with pytest.raises(EngineError, match="Docker said: ") as caught:
        ground.engine.distribution(ABSENT)
    assert caught.value.stage is Stage.IMAGE
    assert caught.value.remedy


@on_amd64
def test_an_image_that_nobody_has_is_an_error_of_that_stage(ground: Site) -> None:
    mark = ground.mark(ABSENT)
    with pytest.raises(EngineError, match="Docker said: ") as caught:
        ground.engine.pull(ABSENT, mark, lambda _: None)
    assert caught.value.stage is Stage.IMAGE
    assert caught.value.remedy
    assert ground.engine.image(ABSENT, mark) is Image.ABSENT


@on_amd64
def test_removing_an_image_that_is_absent_is_fine(ground: Site) -> None:
    ground.engine.remove_image(ABSENT, ground.mark(ABSENT))


# ------------------------------------------------------------------------------------------------ containers


@pytest.mark.parametrize("ground", ["ssh"], indirect=True)
@pytest.mark.parametrize(
    ("limits", "said"), [(Limits(), "0 0"), (Limits(cpus=1, memory=256_000_000), "1000000000 256000000")]
)
def test_a_container_has_the_limits_that_are_asked_for(ground: Site, lab: Lab, limits: Limits, said: str) -> None:
    made = ground.create(replace(ground.wanted, limits=limits))
    look = "docker inspect -f '{{.HostConfig.NanoCpus}} {{.HostConfig.Memory}}'"
    assert lab.hosts["amd-1"].ssh(f"{look} {made}").strip() == said


@on_amd64
def test_more_cpus_than_there_are_is_an_error(ground: Site) -> None:
    with pytest.raises(EngineError, match="CPUs available") as caught:
        ground.create(replace(ground.wanted, limits=Limits(cpus=10_000)))
    assert caught.value.stage is Stage.CONTAINER
    assert ground.engine.survey(ground.wanted.fleet).volumes == ()


@on_every_engine
def test_a_new_container_is_surveyed_as_it_was_made(ground: Site) -> None:
    before = ground.engine.survey(ground.wanted.fleet)
    made = ground.create()
    survey = ground.engine.survey(ground.wanted.fleet)
    [daemon] = survey.daemons
    assert (before.daemons, before.volumes) == ((), ())
    assert (daemon.id, daemon.name, daemon.node) == (made, ground.wanted.name, "amd-1")
    assert daemon.state == "created"
    assert dict(daemon.settings) == ground.wanted.settings
    assert daemon.certificate == CertificateFacts.of(ground.certificate)
    assert survey.volumes == (ground.wanted.name,)
    assert ground.wanted.name not in survey.foreign


@on_every_engine
@pytest.mark.parametrize("limits", [Limits(), Limits(cpus=1, memory=256_000_000)], ids=["", "limited"])
def test_docker_does_what_is_wanted_and_the_files_are_what_was_put_there(ground: Site, limits: Limits) -> None:
    wanted = replace(ground.wanted, limits=limits)
    made = ground.create(wanted)
    for running in (False, True):
        if running:
            ground.engine.start(made)
        [daemon] = ground.engine.survey(wanted.fleet, {wanted.name: buildkitd.DIRECTORY}).daemons
        assert daemon.enforced == wanted.enforced
        assert daemon.changed == ()
    assert ground.engine.survey(wanted.fleet, {"nobody": "/etc"}).daemons[0].enforced is None


@pytest.mark.parametrize("ground", ["ssh"], indirect=True)
@pytest.mark.parametrize(
    ("label", "read"),
    [("", False), ("--label dev.fleet.name=FLEET", False), (None, True)],
    ids=["a stranger's", "a daemon's that was made before its keys had a folder of their own", "our own"],
)
def test_files_are_read_only_of_what_keeps_its_keys_elsewhere(
    ground: Site, lab: Lab, label: str | None, read: bool
) -> None:
    name, host = ground.wanted.name, lab.hosts["amd-1"]
    if label is None:
        made = ground.create()
    else:
        marked = label.replace("FLEET", ground.wanted.fleet)
        made = host.ssh(f"docker create --name {name} {marked} {ground.wanted.image}").strip()
    try:
        since = host.ssh("date +%s").strip()
        ground.engine.survey(ground.wanted.fleet, {name: buildkitd.DIRECTORY})
        # Not by name: it was another one's within this very second.
        filters = f"--filter container={made} --filter event=archive-path"
        told = host.ssh(f"docker events --since {since} --until $(($(date +%s) + 1)) {filters}")
    finally:
        host.ssh(f"docker rm -f {name}")
    assert bool(told.strip()) is read


BY_HAND = {
    "updated": (
        "docker update --cpus 0.5 --memory 200m --memory-swap 400m --restart no NAME",
        {"limits": "cpus=0.5 memory=209715200", "restart": "no"},
        (),
    ),
    "given CPUs of its own": ("docker update --cpuset-cpus 0 NAME", {"limits": "CpusetCpus=0"}, ()),
    "taken off the network": ("docker network disconnect bridge NAME", {"network": ""}, ()),
    "edited": ("docker exec NAME sh -c 'echo >> /etc/buildkit/buildkitd.toml'", {}, (buildkitd.CONFIG_PATH,)),
    "robbed": ("docker exec NAME rm -r /etc/buildkit/tls", {}, (buildkitd.CA_PATH, buildkitd.CERT_PATH)),
    "robbed of all": (
        "docker exec NAME rm -r /etc/buildkit",
        {},
        (buildkitd.CONFIG_PATH, buildkitd.CA_PATH, buildkitd.CERT_PATH),
    ),
}


@pytest.mark.parametrize("ground", ["ssh"], indirect=True)
@pytest.mark.parametrize(("strike", "enforced", "changed"), BY_HAND.values(), ids=BY_HAND)
def test_what_was_changed_by_hand_is_seen(
    ground: Site, lab: Lab, strike: str, enforced: dict[str, str], changed: tuple[str, ...]
) -> None:
    name = ground.wanted.name
    ground.engine.start(ground.create())
    lab.hosts["amd-1"].ssh(strike.replace("NAME", name))
    [daemon] = ground.engine.survey(ground.wanted.fleet, {name: buildkitd.DIRECTORY}).daemons
    assert daemon.enforced == ground.wanted.enforced | enforced
    assert daemon.changed == changed


@pytest.mark.parametrize("ground", ["ssh"], indirect=True)
def test_an_image_whose_name_was_given_to_another_or_taken_away_is_seen(ground: Site, lab: Lab) -> None:
    name, shell = f"{ground.wanted.fleet}-name:1", lab.hosts["amd-1"].ssh
    shell(f"docker tag {ground.wanted.image} {name}")
    try:
        ground.create(replace(ground.wanted, image=name))
        identity = shell(f"docker image inspect -f '{{{{.Id}}}}' {name}")[: len("sha256:") + 12]

        def made_from() -> str:
            [daemon] = ground.engine.survey(ground.wanted.fleet, {ground.wanted.name: buildkitd.DIRECTORY}).daemons
            return (daemon.enforced or {})["image"]

        assert made_from() == name
        shell(f"tar -c -T /dev/null | docker import - {name}")
        assert made_from() == identity
    finally:
        shell(f"docker rmi {name}")
    assert made_from() == identity


@on_amd64
def test_what_another_fleet_made_is_foreign(ground: Site) -> None:
    theirs = replace(ground.wanted, fleet=f"{ground.wanted.fleet}-other")
    ground.create(theirs)
    survey = ground.engine.survey(ground.wanted.fleet)
    assert survey.daemons == ()
    assert survey.volumes == ()
    assert theirs.name in survey.foreign


@on_amd64
def test_a_name_that_is_taken_is_an_error(ground: Site) -> None:
    ground.create()
    with pytest.raises(EngineError, match="Docker said: ") as caught:
        ground.create()
    assert caught.value.stage is Stage.CONTAINER


@on_amd64
def test_a_container_of_an_image_that_is_not_there_is_an_error(ground: Site) -> None:
    with pytest.raises(EngineError, match=r"(?i)no such image"):
        ground.create(replace(ground.wanted, image=ABSENT))
    assert ground.daemon() is None


@on_amd64
def test_a_container_is_started_by_name_or_id_and_twice_is_fine(ground: Site) -> None:
    made = ground.create()
    ground.engine.start(ground.wanted.name)
    assert ground.state() == "running"
    ground.engine.start(made)
    assert ground.state() == "running"


@on_amd64
def test_two_containers_cannot_have_one_port(ground: Site) -> None:
    ground.create()
    ground.engine.start(ground.wanted.name)
    other = replace(ground.wanted, node="amd-2")
    ground.create(other)
    with pytest.raises(EngineError, match="already allocated"):
        ground.engine.start(other.name)


@on_amd64
@pytest.mark.parametrize("key", ["fleet.contract.nobody", "0123456789ab"])
def test_what_is_not_there_cannot_be_started_or_read_but_is_removed(ground: Site, key: str) -> None:
    with pytest.raises(EngineError, match=r"(?i)no such container"):
        ground.engine.start(key)
    with pytest.raises(EngineError, match=r"(?i)no such container"):
        ground.engine.logs(key, tail=5)
    with pytest.raises(EngineError, match=r"(?i)no such container"):
        ground.engine.stop(key, grace=0)
    with pytest.raises(EngineError, match=r"(?i)no such container"):
        ground.engine.rename(key, "fleet.contract.somebody")
    with pytest.raises(EngineError, match=r"(?i)no such container"):
        ground.engine.kill_unless(key, lambda _: False)
    with pytest.raises(EngineError, match=r"(?i)no such container"):
        ground.engine.log_stream(key)
    ground.engine.remove(key, grace=0)
    ground.engine.remove_volume(key)


@on_amd64
@pytest.mark.parametrize("start", [False, True], ids=["created", "running"])
def test_a_removed_container_is_gone_and_its_cache_stays(ground: Site, start: bool) -> None:
    made = ground.create()
    if start:
        ground.engine.start(made)
    ground.engine.remove(made, grace=GRACE)
    survey = ground.engine.survey(ground.wanted.fleet)
    assert survey.daemons == ()
    assert survey.volumes == (ground.wanted.name,)
    ground.create()
    assert ground.state() == "created"


@on_amd64
def test_a_stopped_container_can_be_stopped_again_and_started(ground: Site) -> None:
    made = ground.create()
    ground.engine.stop(made, grace=GRACE)
    assert ground.state() == "created"
    ground.engine.start(made)
    for key in (ground.wanted.name, made):
        ground.engine.stop(key, grace=GRACE)
        # Docker's lists follow a moment later.
        eventually(lambda: ground.state() == "exited" or None)
    ground.engine.start(made)
    assert ground.state() == "running"


@on_amd64
@pytest.mark.parametrize("start", [False, True], ids=["created", "running"])
def test_a_container_gets_another_name_and_leaves_its_own_free(ground: Site, start: bool) -> None:
    made, name = ground.create(), ground.wanted.name
    if start:
        ground.engine.start(made)
    before = ground.state()
    ground.engine.rename(name, f"{name}.aside")
    ground.engine.rename(made, f"{name}.aside")
    [daemon] = ground.engine.survey(ground.wanted.fleet).daemons
    assert (daemon.id, daemon.name, daemon.state) == (made, f"{name}.aside", before)
    other = ground.create()
    assert {d.id: d.name for d in ground.engine.survey(ground.wanted.fleet).daemons} == {
        made: f"{name}.aside",
        other: name,
    }
    for taken in (made, f"{name}.aside"):
        with pytest.raises(EngineError, match=r"(?i)in use") as caught:
            ground.engine.rename(taken, name)
        assert caught.value.stage is Stage.CONTAINER
    ground.engine.remove(other, grace=0)
    ground.engine.rename(made, name)
    assert ground.state() == before


@on_amd64
def test_a_container_that_is_not_busy_is_killed_at_once(ground: Site) -> None:
    made, asked = ground.create(), list[int]()
    ground.engine.start(made)

    def busy(process: int) -> bool:
        asked.append(process)
        return len(asked) == 1

    assert not ground.engine.kill_unless(made, busy)
    assert ground.state() == "running"
    assert ground.engine.kill_unless(made, busy)
    eventually(lambda: ground.state() == "exited" or None)
    assert ground.engine.kill_unless(made, busy)
    assert len(asked) == 2
    assert all(process > 0 for process in asked)


@on_amd64
def test_a_container_goes_on_when_it_cannot_be_said_whether_it_is_busy(ground: Site) -> None:
    made = ground.create()
    ground.engine.start(made)

    def lost(_: int) -> bool:
        raise EngineError(Stage.SSH, "the connection was lost")

    with pytest.raises(EngineError, match="the connection was lost"):
        ground.engine.kill_unless(made, lost)
    # Docker may hear only now that it was paused before.
    eventually(lambda: ground.state() == "running" or None)


@on_amd64
def test_a_cache_in_use_is_not_removed(ground: Site) -> None:
    made = ground.create()
    with pytest.raises(EngineError, match=r"(?i)in use"):
        ground.engine.remove_volume(ground.wanted.name)
    ground.engine.remove(made, grace=0)
    ground.engine.remove_volume(ground.wanted.name)
    assert ground.engine.survey(ground.wanted.fleet).volumes == ()


@on_amd64
def test_a_daemon_that_cannot_start_says_why_in_its_last_lines(ground: Site) -> None:
    ground.create(replace(ground.wanted, config="debug = maybe\n"))
    ground.engine.start(ground.wanted.name)
    eventually(lambda: True if ground.state() == "restarting" else None)
    assert "failed to parse config" in ground.engine.logs(ground.wanted.name, tail=60)
    assert len(ground.engine.logs(ground.wanted.name, tail=2).splitlines()) == 2


@on_amd64
def test_a_log_is_read_line_by_line_from_a_moment_on_or_the_last_of_it(ground: Site) -> None:
    name = ground.wanted.name
    ground.create(replace(ground.wanted, config="debug = maybe\n"))
    ground.engine.start(name)
    eventually(lambda: True if ground.state() == "restarting" else None)
    ground.engine.stop(name, grace=1)
    whole = list(ground.engine.log_stream(name))
    assert "\n".join(line.text for line in whole).strip() == ground.engine.logs(name, tail=10_000)
    assert all(line.at.utcoffset() == timedelta(0) for line in whole)
    assert [line.at for line in whole] == sorted(line.at for line in whole)
    assert list(ground.engine.log_stream(name, tail=2)) == whole[-2:]
    assert list(ground.engine.log_stream(name, tail=0)) == []
    assert list(ground.engine.log_stream(name, since=whole[-1].at + timedelta(seconds=1))) == []
    later = [line for line in whole if line.at >= whole[2].at]
    assert list(ground.engine.log_stream(name, since=whole[2].at)) == later


@on_amd64
def test_a_log_that_is_followed_ends_with_its_container(ground: Site) -> None:
    name = ground.wanted.name
    ground.create()
    ground.engine.start(name)
    eventually(lambda: list(ground.engine.log_stream(name)) or None)
    followed = ground.engine.log_stream(name, follow=True)
    first = next(followed)
    ground.engine.remove(name, grace=GRACE)
    assert all(line.at >= first.at for line in followed)


# --------------------------------------------------------------------------------------------- no Engine


def test_a_fake_engine_that_is_down_is_an_error() -> None:
    with pytest.raises(EngineError, match="does not answer") as caught:
        FakeEngine(Machine("10.0.0.1", docker=False)).survey("acme")
    assert caught.value.stage is Stage.DOCKER


def hung_up() -> socket.socket:
    near, far = socket.socketpair()
    far.close()
    return near


def talks_nonsense() -> socket.socket:
    near, far = socket.socketpair()
    far.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
    far.close()
    return near


@pytest.mark.parametrize("stream", [hung_up, talks_nonsense], ids=["silence", "nonsense"])
@pytest.mark.parametrize(
    "use",
    [
        *("version", "survey", "image", "info", "distribution", "pull", "start", "remove", "remove_image"),
        *("stop", "kill_unless", "rename", "logs", "log_stream"),
    ],
)
def test_a_real_engine_that_hangs_up_is_an_error(use: str, stream: Callable[[], socket.socket]) -> None:
    engine = DockerEngine(stream)
    calls: dict[str, Callable[[], object]] = {
        "version": engine.version,
        "survey": lambda: engine.survey("acme"),
        "image": lambda: engine.image("x:1", "mark:1"),
        "info": engine.info,
        "distribution": lambda: engine.distribution("x:1"),
        "pull": lambda: engine.pull("x:1", "mark:1", lambda _: None),
        "start": lambda: engine.start("x"),
        "stop": lambda: engine.stop("x", grace=1),
        "kill_unless": lambda: engine.kill_unless("x", lambda _: False),
        "rename": lambda: engine.rename("x", "y"),
        "remove": lambda: engine.remove("x", grace=1),
        "remove_image": lambda: engine.remove_image("x:1", "mark:1"),
        "logs": lambda: engine.logs("x", tail=1),
        "log_stream": lambda: engine.log_stream("x"),
    }
    with pytest.raises(EngineError, match="does not answer") as caught:
        calls[use]()
    assert caught.value.remedy


def test_an_engine_that_does_not_speak_our_version_is_asked_in_its_own(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_client, "API_VERSION", "1.99")
    host = connect(host_spec(lab, "amd-1", port=1))
    engine = host.engine()
    assert engine.survey("contract").volumes == ()
    assert engine._client.api_version not in {"1.99", "1.44"}
    host.close()


def test_an_engine_over_a_lost_connection_is_an_error(lab: Lab) -> None:
    host = connect(host_spec(lab, "amd-1", port=1))
    engine = host.engine()
    assert engine.version()
    host.close()
    with pytest.raises(HostError, match="the connection was lost") as caught:
        engine.survey("contract")
    assert caught.value.stage is Stage.SSH


def test_a_connection_that_is_found_lost_while_sending_is_told_as_such(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = connect(host_spec(lab, "amd-1", port=1))
    engine = host.engine()
    assert engine.version()

    def lost(_: bytes) -> None:
        raise EOFError

    monkeypatch.setattr(host._transport.packetizer, "write_all", lost)
    with pytest.raises(HostError, match="the connection was lost") as caught:
        engine.survey("contract")
    assert caught.value.stage is Stage.SSH
    monkeypatch.undo()
    host.close()


def test_a_connection_is_lost_as_soon_as_its_channels_are_closed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    host = connect(host_spec(lab, "amd-1", port=1))
    unlink = paramiko.Channel._unlink  # type: ignore[attr-defined]  # private: not in the stubs

    def unlink_slowly(channel: paramiko.Channel) -> None:
        unlink(channel)
        time.sleep(0.05)  # this long the connection still says that it is active

    monkeypatch.setattr(paramiko.Channel, "_unlink", unlink_slowly)
    stream = host._open_docker()
    stream.settimeout(20)
    with ThreadPoolExecutor() as pool:
        reading = pool.submit(stream.recv, 1)
        with pytest.raises(HostError, match="the connection was lost"):
            # sshd is the parent of a shell, or its parent's parent.
            host.run(("sh", "-c", "kill -9 $(cut -d ' ' -f 4 /proc/$PPID/stat) $PPID"))
    with pytest.raises(HostError, match="the connection was lost") as caught:
        reading.result()
    assert caught.value.stage is Stage.SSH
    host.close()


def test_a_paused_container_is_removed(lab: Lab, fleet_name: str, port: int) -> None:
    host = connect(host_spec(lab, "amd-1", port=port))
    ready = site(host.engine(), fleet_name, "amd-1", port, lab.env()["LAB_BUILDKIT_IMAGE"])
    clear(ready.engine, fleet_name)
    made = ready.create()
    ready.engine.start(made)
    assert host.run(("docker", "pause", made)).status == 0
    assert ready.state() == "paused"
    ready.engine.remove(made, grace=1)
    assert ready.daemon() is None
    clear(ready.engine, fleet_name)
    host.close()


def test_files_arrive_with_their_modes(lab: Lab, fleet_name: str, port: int) -> None:
    host = connect(host_spec(lab, "amd-1", port=port))
    ready = site(host.engine(), fleet_name, "amd-1", port, lab.env()["LAB_BUILDKIT_IMAGE"])
    clear(ready.engine, fleet_name)
    made = ready.create()
    ready.engine.start(made)
    listed = host.run(("docker", "exec", made, "stat", "-c", "%n %a %s", *ready.files))
    assert listed.stdout.splitlines() == [
        f"{path} {mode:o} {len(content)}" for path, (content, mode) in ready.files.items()
    ]
    clear(ready.engine, fleet_name)
    host.close()


# ------------------------------------------------------------------------------------------ images that are run


@on_every_engine
def test_an_image_is_run_to_its_end_and_leaves_nothing(ground: Site) -> None:
    before = ground.engine.survey(ground.wanted.fleet)
    assert "v" in ground.engine.run(ground.wanted.image, ("--version",), timeout=60)
    with pytest.raises(EngineError, match=f"{ground.wanted.image} ended with 1: "):
        ground.engine.run(ground.wanted.image, ("--nonsense",), timeout=60)
    assert ground.engine.survey(ground.wanted.fleet) == before


@on_every_engine
def test_an_image_that_is_not_there_is_not_run(ground: Site) -> None:
    with pytest.raises(EngineError, match="No such image"):
        ground.engine.run(ABSENT, ("--version",), timeout=60)
