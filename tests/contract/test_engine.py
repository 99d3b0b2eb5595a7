"""What every Engine keeps: the fake, Docker over its socket, and Docker over SSH."""

from __future__ import annotations

import socket
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from certs.authority import Certificate, create_authority, describe, issue_node
from fleet import buildkitd
from fleet.adapters import local
from fleet.adapters.engine import DockerEngine
from fleet.adapters.local import LocalHost
from fleet.adapters.ssh import connect
from fleet.daemon import DaemonSpec, Files
from fleet.errors import EngineError
from fleet.model import CertificateFacts, DaemonFacts, Stage
from tests.support.fakes import FakeEngine, Machine
from tests.support.lab import docker_socket, eventually, host_spec, running_lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
    small_image: str
    """An image that the host may or may not have, and that may be removed."""

    def create(self, wanted: DaemonSpec | None = None, *, pulled: str | None = None) -> str:
        wanted = wanted or self.wanted
        files = self.files | {buildkitd.CONFIG_PATH: (wanted.config.encode(), 0o644)}
        return self.engine.create(wanted, self.certificate, files, pulled=pulled)

    def daemon(self) -> DaemonFacts | None:
        return next((d for d in self.engine.survey(self.wanted.fleet).daemons if d.name == self.wanted.name), None)

    def state(self) -> str:
        found = self.daemon()
        return found.state if found else "absent"


def site(engine: Engine, fleet: str, node: str, port: int, image: str, small: str) -> Site:
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


ENGINES = ["fake", "socket", "ssh", pytest.param("ssh arm64", marks=pytest.mark.arm64)]


def real_engine(kind: str, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Engine:
    if kind == "socket":
        monkeypatch.setattr(local, "DOCKER_SOCKET", str(docker_socket(lab, "amd-1")))
        return LocalHost().engine()
    name = "arm-1" if kind == "ssh arm64" else "amd-1"
    return connect(host_spec(running_lab(name), name, port=1)).engine()


@pytest.fixture
def ground(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, fleet_name: str, port: int
) -> Iterator[Site]:
    if request.param == "fake":
        machine = Machine("10.0.0.1", images={"moby/buildkit:v0.32.2"})
        yield site(FakeEngine(machine), fleet_name, "amd-1", port, "moby/buildkit:v0.32.2", "lab/base:latest")
        return
    lab: Lab = request.getfixturevalue("lab")
    env = lab.env()
    engine = real_engine(request.param, lab, monkeypatch)
    image = env["LAB_BUILDKIT_IMAGE"]
    if not engine.has_image(image):
        engine.pull(image, lambda _: None)
    ready = site(engine, fleet_name, "amd-1", port, image, env["LAB_BASE_IMAGE"])
    clear(engine, fleet_name)
    yield ready
    clear(engine, fleet_name)


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


@pytest.mark.parametrize(
    "ground", ["fake", "ssh"], indirect=True
)  # one host: side by side they would disturb each other
def test_an_image_that_is_not_there_is_pulled_and_removed_again(ground: Site) -> None:
    ground.engine.remove_image(ground.small_image)
    assert not ground.engine.has_image(ground.small_image)
    told: list[str] = []
    ground.engine.pull(ground.small_image, told.append)
    assert ground.engine.has_image(ground.small_image)
    assert told
    assert all(text.split()[0] in {"downloading", "extracting"} for text in told)
    ground.engine.remove_image(ground.small_image)
    assert not ground.engine.has_image(ground.small_image)


@on_amd64
def test_an_image_that_nobody_has_is_an_error_of_that_stage(ground: Site) -> None:
    assert not ground.engine.has_image(ABSENT)
    with pytest.raises(EngineError, match="Docker said: ") as caught:
        ground.engine.pull(ABSENT, lambda _: None)
    assert caught.value.stage is Stage.IMAGE
    assert caught.value.remedy
    assert not ground.engine.has_image(ABSENT)


@on_amd64
def test_removing_an_image_that_is_absent_or_in_use_is_fine(ground: Site) -> None:
    ground.engine.remove_image(ABSENT)
    ground.create()
    ground.engine.remove_image(ground.wanted.image)
    assert ground.engine.has_image(ground.wanted.image)


# ------------------------------------------------------------------------------------------------ containers


@on_every_engine
def test_a_new_container_is_surveyed_as_it_was_made(ground: Site) -> None:
    before = ground.engine.survey(ground.wanted.fleet)
    made = ground.create(pulled=ground.wanted.image)
    survey = ground.engine.survey(ground.wanted.fleet)
    [daemon] = survey.daemons
    assert (before.daemons, before.volumes) == ((), ())
    assert (daemon.id, daemon.name, daemon.node) == (made, ground.wanted.name, "amd-1")
    assert (daemon.state, daemon.pulled) == ("created", ground.wanted.image)
    assert dict(daemon.settings) == ground.wanted.settings
    assert daemon.certificate == CertificateFacts(
        ground.certificate.serial, ground.certificate.not_after, ground.certificate.names
    )
    assert survey.volumes == (ground.wanted.name,)
    assert ground.wanted.name not in survey.foreign


@on_amd64
def test_a_container_whose_image_was_there_says_so(ground: Site) -> None:
    ground.create()
    daemon = ground.daemon()
    assert daemon
    assert daemon.pulled is None


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
@pytest.mark.parametrize("use", ["version", "survey", "has_image", "pull", "start", "remove", "logs"])
def test_a_real_engine_that_hangs_up_is_an_error(use: str, stream: Callable[[], socket.socket]) -> None:
    engine = DockerEngine(stream)
    calls: dict[str, Callable[[], object]] = {
        "version": engine.version,
        "survey": lambda: engine.survey("acme"),
        "has_image": lambda: engine.has_image("x:1"),
        "pull": lambda: engine.pull("x:1", lambda _: None),
        "start": lambda: engine.start("x"),
        "remove": lambda: engine.remove("x", grace=1),
        "logs": lambda: engine.logs("x", tail=1),
    }
    with pytest.raises(EngineError, match="does not answer") as caught:
        calls[use]()
    assert caught.value.remedy


def test_an_engine_over_a_lost_connection_is_an_error(lab: Lab) -> None:
    host = connect(host_spec(lab, "amd-1", port=1))
    engine = host.engine()
    assert engine.version()
    host.close()
    with pytest.raises(EngineError):
        engine.survey("contract")


def test_a_paused_container_is_removed(lab: Lab, fleet_name: str, port: int) -> None:
    host = connect(host_spec(lab, "amd-1", port=port))
    ready = site(host.engine(), fleet_name, "amd-1", port, lab.env()["LAB_BUILDKIT_IMAGE"], "")
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
    ready = site(host.engine(), fleet_name, "amd-1", port, lab.env()["LAB_BUILDKIT_IMAGE"], "")
    clear(ready.engine, fleet_name)
    made = ready.create()
    ready.engine.start(made)
    listed = host.run(("docker", "exec", made, "stat", "-c", "%n %a %s", *ready.files))
    assert listed.stdout.splitlines() == [
        f"{path} {mode:o} {len(content)}" for path, (content, mode) in ready.files.items()
    ]
    clear(ready.engine, fleet_name)
    host.close()
