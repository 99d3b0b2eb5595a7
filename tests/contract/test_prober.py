"""What every Prober keeps: the fake, and the one that asks a really deployed BuildKit."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from certs.certificate import describe
from fleet.adapters import build_streams
from fleet.adapters.buildkit import BuildkitProber
from fleet.adapters.ssh import connect
from fleet.adapters.vault import FileVault
from fleet.builds import Account, BuildRecord, Outcome, Step, Steps, StepState, concealing, name_of, platforms_of
from fleet.cache import CacheRecord, Pruning, summed
from fleet.check.ground import Reach
from fleet.errors import HostError, VaultError
from fleet.model.facts import ApiFacts, Down, Stage
from fleet.model.platforms import Platform
from fleet.model.spec import FleetSpec, HostSpec, shared_name
from fleet.parallel import Stop
from fleet.planning.lane import daemon_spec
from tests.support.fake_vault import FakeVault
from tests.support.fakes import FakeHost, FakeProber, Machine
from tests.support.lab import eventually, have_image, host_spec
from tests.support.values import fleet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fleet.ports import Host, Prober, Vault
    from tests.lab import Lab


def now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Site:
    """A host, the keys for it, and ways to probe it with these keys and with others."""

    spec: FleetSpec
    host: HostSpec
    connection: Host
    vault: Vault
    prober: Prober
    stranger: Prober
    """Has the keys of another fleet."""
    freeze: Callable[[str], None]
    build: Callable[..., None]
    """Has the daemon build something, which it caches; with these attributes, `fail=True`: which fails."""

    def deploy(self, *names: str) -> str:
        """Make and start a daemon, its certificate good for `names`; the serial number of that."""
        engine = self.connection.engine()
        wanted = daemon_spec(self.spec, self.host, "amd64", self.vault.read())
        credential, trust = self.vault.issue_node(self.host, names or wanted.names, now())
        certificate = describe(credential.certificate)
        engine.create(wanted, certificate, wanted.files(credential, trust))
        engine.start(wanted.name)
        return certificate.serial

    @property
    def container(self) -> str:
        return f"fleet.{self.spec.name}.{self.host.name}"

    def probe(self, *, timeout: float = 5) -> ApiFacts | Down:
        return self.prober.probe(self.host, timeout=timeout)

    def answer(self) -> ApiFacts:
        """What the daemon says once it is up."""

        def look() -> ApiFacts | None:
            found = self.probe()
            return found if isinstance(found, ApiFacts) else None

        return eventually(look)

    def clear(self) -> None:
        engine = self.connection.engine()
        left = engine.survey(self.spec.name)
        for daemon in left.daemons:
            engine.remove(daemon.id, grace=5)
        for volume in left.volumes:
            engine.remove_volume(volume)


def complete(vault: Vault) -> Vault:
    # Old enough for a client whose certificate has expired.
    vault.create_authority("contract", now() - timedelta(days=400))
    vault.issue_client("operator", now())
    return vault


def fake_site(fleet_name: str, port: int) -> Site:
    host = HostSpec("amd-1", "10.0.0.1", port)
    spec = fleet(host, name=fleet_name)
    machine = Machine(host.address, images={spec.buildkit.image})
    machines, vault, other = {host.address: machine}, FakeVault(), FakeVault()
    complete(vault)
    complete(other)

    def freeze(name: str) -> None:
        container = machine.container(name)
        assert container
        container.state = "paused"

    def build(fail: bool = False, **attributes: str) -> None:
        volume = f"fleet.{fleet_name}.amd-1"
        machine.cache.setdefault(volume, []).extend(
            (CacheRecord(100, last_used=now()), CacheRecord(30, last_used=now(), kind="source.local"))
        )
        history = machine.built.setdefault(volume, [])
        given = {key.replace("_", ":"): value for key, value in attributes.items()}
        begun = BuildRecord(
            *("amd-1", f"ref-{len(history)}", now()), name=name_of(given), platforms=platforms_of(given)
        )
        copied = "missing" if fail else given.get("build-arg:WHAT", "Dockerfile")
        name = concealing(given)(f"[last 1/1] COPY {copied} /")
        state, why = (StepState.FAILED, "no such file") if fail else (StepState.DONE, None)
        machine.steps[begun.ref] = [Step("a", name), Step("a", name, state, now(), now(), why)]
        outcome, reason = (Outcome.FAILED, "no such file") if fail else (Outcome.DONE, None)
        ended = replace(begun, completed=now(), outcome=outcome, reason=reason, steps=Steps(2, 3, 0))
        history += [begun, ended]

    return Site(
        spec,
        host,
        FakeHost(machine),
        vault,
        FakeProber(machines, vault, now),
        FakeProber(machines, other, now),
        freeze,
        build,
    )


def real_site(lab: Lab, folder: Path, fleet_name: str, port: int, *, keep: bool = False) -> Site:
    host = host_spec(lab, "amd-1", port=port)
    connection = connect(host)
    vault, other = FileVault(folder / "vault"), FileVault(folder / "other")
    complete(vault)
    complete(other)

    def freeze(name: str) -> None:
        assert connection.run(("docker", "pause", name)).status == 0

    spec = fleet(host, name=fleet_name, image=lab.env()["LAB_BUILDKIT_IMAGE"])
    have_image(connection.engine(), fleet_name, spec.buildkit.image)
    prober, stranger = (BuildkitProber(keys.client_files, certificates=True, keep=keep) for keys in (vault, other))

    def build(fail: bool = False, **attributes: str) -> None:
        (folder / "context").mkdir(exist_ok=True)
        (folder / "context" / "Dockerfile").write_text(
            f"FROM scratch AS last\nARG WHAT=Dockerfile\nCOPY {'missing' if fail else '$WHAT'} /\n"
        )
        files = vault.client_files
        subprocess.run(
            (
                *("buildctl", "--addr", f"tcp://{host.endpoint}", "--tlscacert", files["cacert"]),
                *("--tlscert", files["cert"], "--tlskey", files["key"], "build", "--frontend", "dockerfile.v0"),
                *("--local", f"context={folder}/context", "--local", f"dockerfile={folder}/context"),
                *(word for key, value in attributes.items() for word in ("--opt", f"{key.replace('_', ':')}={value}")),
            ),
            env={**os.environ, **lab.env()},
            check=not fail,
            capture_output=True,
        )

    return Site(spec, host, connection, vault, prober, stranger, freeze, build)


@pytest.fixture(params=["fake", "buildkit", "kept"])
def ground(request: pytest.FixtureRequest, tmp_path: Path, fleet_name: str, port: int) -> Iterator[Site]:
    if request.param == "fake":
        yield fake_site(fleet_name, port)
        return
    real = real_site(request.getfixturevalue("lab"), tmp_path, fleet_name, port, keep=request.param == "kept")
    real.clear()
    yield real
    real.prober.close()
    real.stranger.close()
    real.clear()
    real.connection.close()


def stage(answer: ApiFacts | Down) -> Stage:
    assert isinstance(answer, Down), answer
    assert answer.remedy
    return answer.stage


def test_a_port_where_nothing_listens_is_a_failure_of_tcp(ground: Site) -> None:
    ground.prober.prepare()
    answer = ground.probe()
    assert stage(answer) is Stage.TCP
    assert isinstance(answer, Down)
    assert f"{ground.host.endpoint} refused the connection" in answer.reason


def test_a_node_is_asked_by_the_name_that_its_architecture_shares(ground: Site) -> None:
    ground.deploy()
    ground.answer()
    shared, other = (
        replace(ground.host, servername=shared_name(ground.spec.name, arch)) for arch in ("amd64", "arm64")
    )
    assert isinstance(ground.prober.probe(shared, timeout=5), ApiFacts)
    assert stage(ground.prober.probe(other, timeout=5)) is Stage.TLS


def test_a_port_is_reached_without_a_certificate(ground: Site) -> None:
    assert ground.stranger.reach(ground.host, timeout=3) is Reach.REFUSED
    ground.deploy()
    eventually(lambda: ground.stranger.reach(ground.host, timeout=3) is Reach.OPEN or None)


def test_a_port_whose_name_is_unknown_cannot_be_reached() -> None:
    assert BuildkitProber({}).reach(HostSpec("amd-1", "no.such.host.invalid"), timeout=3) is Reach.UNRESOLVED


def test_a_port_that_does_not_answer_is_silent() -> None:
    # Nobody accepts: once the queue is full, Linux drops what asks for a connection.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        address, port = server.getsockname()
        with socket.create_connection((address, port)):
            assert BuildkitProber({}).reach(HostSpec("amd-1", address, port), timeout=0.3) is Reach.SILENT


def test_a_daemon_that_runs_says_what_it_is(ground: Site) -> None:
    serial = ground.deploy()
    answer = ground.answer()
    assert answer.version.startswith("v0.")
    assert answer.worker
    assert answer.platforms[0] == Platform("linux", "amd64")
    assert answer.active_builds == 0
    assert answer.cache_bytes is not None
    assert 0 < answer.latency_ms < 5000
    assert answer.certificate
    assert answer.certificate.serial == serial
    assert set(answer.certificate.names) == {
        ground.host.address,
        "amd-1",
        f"amd64.{ground.spec.name}.fleet.internal",
    }
    assert answer.certificate.expires - now() > timedelta(days=364)


def test_a_daemon_says_how_many_builds_it_is_to_have(ground: Site) -> None:
    host = replace(ground.host, max_builds=3)
    replace(ground, host=host, spec=replace(ground.spec, hosts=(host,))).deploy()
    assert ground.answer().max_builds == 3


def test_a_client_of_another_fleet_does_not_accept_the_daemon(ground: Site) -> None:
    ground.deploy()
    ground.answer()
    answer = ground.stranger.probe(ground.host, timeout=5)
    assert stage(answer) is Stage.TLS
    assert isinstance(answer, Down)
    assert "is not accepted" in answer.reason


def test_a_daemon_that_was_removed_is_a_failure_of_tcp(ground: Site) -> None:
    ground.deploy()
    ground.answer()
    ground.connection.engine().remove(ground.container, grace=5)
    assert stage(ground.probe()) is Stage.TCP


def test_a_frozen_daemon_is_a_failure_of_tls_and_ends_in_time(ground: Site) -> None:
    ground.deploy()
    ground.answer()
    ground.freeze(ground.container)
    started = now()
    assert stage(ground.probe(timeout=1)) is Stage.TLS
    assert now() - started < timedelta(seconds=3)


def test_an_expired_client_is_refused_and_a_renewed_one_is_not(ground: Site) -> None:
    ground.deploy()
    ground.answer()
    ground.vault.issue_client("operator", now() - timedelta(days=370))
    answer = ground.probe()
    assert stage(answer) is Stage.TLS
    assert isinstance(answer, Down)
    assert "refused this client's certificate" in answer.reason
    ground.vault.issue_client("operator", now())
    assert isinstance(ground.probe(), ApiFacts)


def test_a_daemon_of_another_name_is_not_accepted(ground: Site) -> None:
    ground.deploy("amd-2", "10.255.255.1")

    def look() -> Down | None:
        found = ground.probe()
        return found if isinstance(found, Down) and found.stage is Stage.TLS else None

    answer = eventually(look)
    assert "is not accepted" in answer.reason
    assert answer.remedy


# ------------------------------------------------------------------------------------- the real one alone


@pytest.fixture
def prober(tmp_path: Path) -> BuildkitProber:
    vault = FileVault(tmp_path / "vault")
    complete(vault)
    return BuildkitProber(vault.client_files, certificates=True)


def here(port: int, address: str = "127.0.0.1") -> HostSpec:
    return HostSpec("here", address, port)


def test_a_name_that_cannot_be_resolved_is_a_failure_of_tcp(prober: BuildkitProber) -> None:
    answer = prober.probe(here(1, "nowhere.invalid"), timeout=5)
    assert stage(answer) is Stage.TCP
    assert isinstance(answer, Down)
    assert answer.reason == "nowhere.invalid cannot be resolved"


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_port_that_accepts_and_says_nothing_is_a_failure_of_tls(prober: BuildkitProber, silent: int) -> None:
    answer = prober.probe(here(silent), timeout=0.3)
    assert stage(answer) is Stage.TLS
    assert isinstance(answer, Down)
    assert "has not shaken hands within" in answer.reason


def test_keys_that_are_not_there_are_an_error_of_the_vault(tmp_path: Path) -> None:
    missing = BuildkitProber(FileVault(tmp_path / "none").client_files, certificates=True)
    with pytest.raises(VaultError, match=r"client\.pem or its CA cannot be used: No such file"):
        missing.prepare()


@pytest.mark.parametrize("name", ["ca.pem", "client.pem"])
def test_keys_that_are_torn_are_an_error_of_the_vault(tmp_path: Path, name: str) -> None:
    vault = FileVault(tmp_path)
    complete(vault)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:90])
    with pytest.raises(VaultError, match="cannot be used") as caught:
        BuildkitProber(vault.client_files, certificates=True).prepare()
    assert caught.value.remedy


def test_a_certificate_of_another_authority_is_refused_by_the_daemon(
    lab: Lab, tmp_path: Path, fleet_name: str, port: int
) -> None:
    real = real_site(lab, tmp_path, fleet_name, port)
    real.clear()
    try:
        real.deploy()
        real.answer()
        mixed = {
            "cacert": real.vault.client_files["cacert"],
            "cert": str(tmp_path / "other" / "client.pem"),
            "key": str(tmp_path / "other" / "client.pem"),
        }
        answer = BuildkitProber(mixed).probe(real.host, timeout=5)
        assert stage(answer) is Stage.TLS
        assert isinstance(answer, Down)
        assert "refused this client's certificate: tlsv1 alert unknown ca" in answer.reason
        node = tmp_path / "node.pem"
        credential, _ = real.vault.issue_node(real.host, [real.host.address], now())
        node.write_bytes(credential.certificate + credential.key.reveal())
        stolen = mixed | {"cert": str(node), "key": str(node)}
        assert stage(BuildkitProber(stolen).probe(real.host, timeout=5)) is Stage.TLS
    finally:
        real.clear()
        real.connection.close()


# ----------------------------------------------------------------------------------------------------- notes


def test_a_new_daemon_has_no_notes(ground: Site) -> None:
    ground.deploy()
    assert ground.answer().notes == {}


def test_a_note_is_read_replaced_and_taken_away(ground: Site) -> None:
    ground.deploy()
    ground.answer()
    ground.prober.note(ground.host, "drain", "anna, since noon")
    ground.prober.note(ground.host, "client/ci", "5e")
    ground.prober.note(ground.host, "drain", "bob")
    assert ground.answer().notes == {"drain": "bob", "client/ci": "5e"}
    ground.prober.note(ground.host, "drain", None)
    ground.prober.note(ground.host, "drain", None)
    assert ground.answer().notes == {"client/ci": "5e"}


def test_a_note_outlives_the_container(ground: Site) -> None:
    ground.deploy()
    ground.answer()
    ground.prober.note(ground.host, "drain", "anna")
    engine = ground.connection.engine()
    engine.remove(ground.container, grace=30)
    ground.deploy()
    assert ground.answer().notes == {"drain": "anna"}


def test_a_note_is_no_running_build(ground: Site) -> None:
    ground.deploy()
    ground.answer()
    ground.prober.note(ground.host, "drain", "anna")
    assert ground.answer().active_builds == 0


def test_a_note_for_a_daemon_that_does_not_answer_is_an_error(ground: Site) -> None:
    with pytest.raises(HostError):
        ground.prober.note(ground.host, "drain", "anna")


def test_strangers_leave_no_notes(ground: Site) -> None:
    ground.deploy()
    ground.answer()
    with pytest.raises(HostError):
        ground.stranger.note(ground.host, "drain", "mallory")
    assert ground.answer().notes == {}


# ------------------------------------------------------------------------------------------------------ cache


def idle(ground: Site) -> tuple[CacheRecord, ...]:
    """The cache, once no build uses anything of it."""

    def look() -> tuple[CacheRecord, ...] | None:
        found = ground.prober.cache(ground.host)
        return found if not any(record.in_use for record in found) else None

    return eventually(look)


def prune(ground: Site, wanted: Pruning) -> list[int]:
    freed: list[int] = []
    ground.prober.prune(ground.host, wanted, freed.append)
    return freed


def test_a_new_daemon_has_an_empty_cache_and_nothing_to_prune(ground: Site) -> None:
    ground.deploy()
    ground.answer()
    assert ground.prober.cache(ground.host) == ()
    assert prune(ground, Pruning(everything=True)) == []


def test_a_build_leaves_records_that_know_their_last_use(ground: Site) -> None:
    ground.deploy()
    ground.answer()
    ground.build()
    records = idle(ground)
    assert "source.local" in {record.kind for record in records}
    assert summed(records).reclaimable == summed(records).total > 0
    # What is kept between probes may be older.
    ground.prober.close()
    assert ground.answer().cache_bytes == summed(records).total
    assert all(abs(record.last_used - now()) < timedelta(minutes=5) for record in records if record.last_used)
    assert any(record.last_used for record in records)


@pytest.mark.parametrize(
    "wanted", [Pruning(keep=10**12), Pruning(older=timedelta(days=1)), Pruning(keep=10**12, everything=True)], ids=str
)
def test_what_is_to_stay_stays(ground: Site, wanted: Pruning) -> None:
    ground.deploy()
    ground.answer()
    ground.build()
    before = idle(ground)
    assert prune(ground, wanted) == []
    assert len(ground.prober.cache(ground.host)) == len(before)


@pytest.mark.parametrize("keep", [0, 1])
def test_what_is_pruned_is_gone_and_counted(ground: Site, keep: int) -> None:
    ground.deploy()
    ground.answer()
    ground.build()
    before = idle(ground)
    freed = prune(ground, Pruning(keep=keep, everything=True))
    assert sum(freed) == summed(before).total
    assert ground.prober.cache(ground.host) == ()


def test_the_cache_of_a_daemon_that_does_not_answer_is_an_error_of_the_stage(ground: Site) -> None:
    with pytest.raises(HostError) as caught:
        ground.prober.cache(ground.host)
    assert caught.value.stage is Stage.TCP
    with pytest.raises(HostError) as caught:
        prune(ground, Pruning())
    assert caught.value.stage is Stage.TCP


def test_strangers_prune_nothing(ground: Site) -> None:
    ground.deploy()
    ground.answer()
    ground.build()
    before = idle(ground)
    for call in (ground.stranger.cache, lambda host: ground.stranger.prune(host, Pruning(), print)):
        with pytest.raises(HostError) as caught:
            call(ground.host)
        assert caught.value.stage is Stage.TLS
    assert len(ground.prober.cache(ground.host)) == len(before)


# ----------------------------------------------------------------------------------------------------- builds


def test_a_new_daemon_remembers_no_builds_and_a_note_is_none(ground: Site) -> None:
    ground.deploy()
    ground.answer()
    ground.prober.note(ground.host, "drain", "anna")
    assert list(ground.prober.builds(ground.host)) == []


def test_a_build_that_ran_is_told_without_what_is_secret(ground: Site) -> None:
    ground.deploy()
    ground.answer()
    source = "https://anna:hush@git.example.com/acme/app.git"
    ground.build(platform="linux/amd64", target="last", vcs_source=source, **{"build-arg_TOKEN": "hush"})
    (built,) = ground.prober.builds(ground.host)
    assert (built.node, built.outcome, built.reason) == ("amd-1", Outcome.DONE, None)
    assert (built.name, built.platforms) == ("git.example.com/acme/app (last)", ("linux/amd64",))
    assert built.steps
    assert 0 < built.steps.done <= built.steps.total
    took = built.seconds(now())
    assert took is not None
    assert 0 <= took < 60
    assert abs(built.created - now()) < timedelta(minutes=5)
    assert "hush" not in repr(built)


def test_of_many_builds_those_can_be_asked_for_that_are_known(ground: Site) -> None:
    ground.deploy()
    ground.answer()
    for target in ("", "last"):
        ground.build(target=target)
    one, two = ground.prober.builds(ground.host)
    assert list(ground.prober.builds(ground.host, refs=[two.ref, "nobody's"])) == [two]
    assert list(ground.prober.builds(ground.host, refs=[])) == []
    assert one.ref != two.ref


def test_a_build_that_failed_says_why(ground: Site) -> None:
    ground.deploy()
    ground.answer()
    ground.build(fail=True)
    (built,) = ground.prober.builds(ground.host)
    assert built.outcome is Outcome.FAILED
    assert built.reason


def feed(ground: Site, stop: Stop | None = None) -> Iterator[BuildRecord]:
    """What follows on that the node has answered."""
    told = ground.prober.feed(ground.host, stop or Stop())
    assert next(told) is None
    return (record for record in told if record)


def test_builds_are_told_as_they_begin_and_end(ground: Site) -> None:
    ground.deploy()
    ground.answer()
    ground.build(target="last")
    told = feed(ground)
    before = next(told)
    while before.outcome is Outcome.RUNNING:
        before = next(told)
    ground.build(platform="linux/amd64")
    begun, ended = next(told), next(told)
    assert (begun.ref, begun.outcome) == (ended.ref, Outcome.RUNNING)
    assert (ended.outcome, ended.platforms) == (Outcome.DONE, ("linux/amd64",))
    assert before.ref != ended.ref


def test_a_feed_ends_when_it_is_to_stop(ground: Site) -> None:
    ground.deploy()
    ground.answer()
    stop = Stop()
    told = feed(ground, stop)
    later = threading.Timer(0.3, stop.set)
    later.start()
    assert list(told) == []
    later.join()


def test_a_drained_node_tells_what_there_is_and_is_left(ground: Site) -> None:
    ground.deploy()
    ground.answer()
    ground.build()
    told = feed(ground)
    assert next(told)
    ground.prober.note(ground.host, "client/ci", "5e")
    ground.prober.note(ground.host, "drain", "anna")
    rest = list(told)
    assert [record.outcome for record in feed(ground)][-1:] == [Outcome.DONE]
    ground.prober.note(ground.host, "drain", None)
    again = feed(ground)
    ended = next(record for record in again if record.completed)
    assert all(record.ref == ended.ref for record in rest)
    ground.build()
    assert next(again).ref != ended.ref


def test_a_node_that_falls_silent_while_it_is_followed_is_noticed(
    ground: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_streams, "FEED_TIMEOUT", 1.0)
    ground.deploy()
    ground.answer()
    ground.build()
    told = feed(ground)
    assert next(told)
    ground.freeze(ground.container)
    with pytest.raises(HostError) as caught:
        for _ in told:
            pass
    # As far as it had come with whoever asks when it was frozen.
    assert caught.value.stage in {Stage.TLS, Stage.API}


def test_the_builds_of_a_daemon_that_does_not_answer_are_an_error_of_the_stage(ground: Site) -> None:
    for told in (
        ground.prober.builds(ground.host),
        ground.prober.feed(ground.host, Stop()),
        ground.prober.build(ground.host, "r1", Stop()),
    ):
        with pytest.raises(HostError) as caught:
            next(told)
        assert caught.value.stage is Stage.TCP


def test_strangers_are_told_of_no_builds(ground: Site) -> None:
    ground.deploy()
    ground.answer()
    for told in (
        ground.stranger.builds(ground.host),
        ground.stranger.feed(ground.host, Stop()),
        ground.stranger.build(ground.host, "r1", Stop()),
    ):
        with pytest.raises(HostError) as caught:
            next(told)
        assert caught.value.stage is Stage.TLS


@pytest.mark.parametrize("fail", [False, True], ids=["done", "failed"])
def test_a_build_is_told_step_by_step_without_its_arguments(ground: Site, fail: bool) -> None:
    ground.deploy()
    ground.answer()
    ground.build(fail=fail, **{"build-arg_WHAT": "Dockerfile"})
    (built,) = ground.prober.builds(ground.host)
    first, *told = ground.prober.build(ground.host, built.ref, Stop())
    assert first == built
    account = Account(built)
    for said in told:
        account.add(said)
    assert account.record == built
    copy = [step for step in account.steps.values() if step.name.endswith("COPY missing /" if fail else "COPY $WHAT /")]
    assert [step.state for step in copy] == [StepState.FAILED if fail else StepState.DONE]
    assert bool(copy[0].reason) is fail
    assert (copy[0].seconds(now()) or 0) < 60
    assert not any("Dockerfile /" in step.name for step in account.steps.values())


def test_a_build_that_nobody_remembers_is_an_error(ground: Site) -> None:
    ground.deploy()
    ground.answer()
    with pytest.raises(HostError, match="does not remember a build gone") as caught:
        list(ground.prober.build(ground.host, "gone", Stop()))
    assert caught.value.stage is Stage.API


def test_a_feed_needs_no_connection_of_its_own_and_a_drain_ends_it(
    lab: Lab, tmp_path: Path, fleet_name: str, port: int
) -> None:
    real = real_site(lab, tmp_path, fleet_name, port, keep=True)
    real.clear()
    try:
        real.deploy()
        real.answer()
        process = real.connection.run(("docker", "inspect", "-f", "{{.State.Pid}}", real.container)).stdout.strip()

        def clients() -> int:
            tables = real.connection.run(("cat", f"/proc/{process}/net/tcp", f"/proc/{process}/net/tcp6")).stdout
            return sum(line.split()[3] == "01" for line in tables.splitlines() if line.split()[0] != "sl")

        assert isinstance(real.probe(), ApiFacts)
        eventually(lambda: clients() == 1 or None)
        told = feed(real)
        real.build()
        assert next(told)
        eventually(lambda: clients() == 1 or None)
        real.prober.note(real.host, "drain", "anna")
        assert all(record.node == "amd-1" for record in told)
        real.probe()
        eventually(lambda: clients() == 0 or None)
    finally:
        real.prober.close()
        real.clear()
        real.connection.close()
