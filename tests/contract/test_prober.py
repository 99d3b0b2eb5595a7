"""What every Prober keeps: the fake, and the one that asks a really deployed BuildKit."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from certs.authority import describe
from fleet.adapters.buildkit import BuildkitProber
from fleet.adapters.ssh import connect
from fleet.adapters.vault import FileVault
from fleet.errors import VaultError
from fleet.model import ApiFacts, Down, FleetSpec, HostSpec, Platform, Stage
from fleet.plan import daemon_spec
from tests.support.fakes import FakeHost, FakeProber, FakeVault, Machine
from tests.support.lab import eventually, host_spec
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

    def deploy(self, *names: str) -> str:
        """Make and start a daemon, its certificate good for `names`; the serial number of that."""
        engine = self.connection.engine()
        wanted = daemon_spec(self.spec, self.host, "amd64", self.vault.read())
        credential, trust = self.vault.issue_node(self.host.name, names or wanted.names, now())
        certificate = describe(credential.certificate)
        engine.create(wanted, certificate, wanted.files(credential, trust), pulled=None)
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
    vault.create_authority("contract", now())
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

    return Site(
        spec,
        host,
        FakeHost(machine),
        vault,
        FakeProber(machines, vault, now),
        FakeProber(machines, other, now),
        freeze,
    )


def real_site(lab: Lab, folder: Path, fleet_name: str, port: int) -> Site:
    host = host_spec(lab, "amd-1", port=port)
    connection = connect(host)
    vault, other = FileVault(folder / "vault"), FileVault(folder / "other")
    complete(vault)
    complete(other)

    def freeze(name: str) -> None:
        assert connection.run(("docker", "pause", name)).status == 0

    spec = fleet(host, name=fleet_name, image=lab.env()["LAB_BUILDKIT_IMAGE"])
    prober, stranger = (BuildkitProber(keys.client_files, certificates=True) for keys in (vault, other))
    return Site(spec, host, connection, vault, prober, stranger, freeze)


@pytest.fixture(params=["fake", "buildkit"])
def ground(request: pytest.FixtureRequest, tmp_path: Path, fleet_name: str, port: int) -> Iterator[Site]:
    if request.param == "fake":
        yield fake_site(fleet_name, port)
        return
    real = real_site(request.getfixturevalue("lab"), tmp_path, fleet_name, port)
    real.clear()
    yield real
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
        credential, _ = real.vault.issue_node("amd-1", [real.host.address], now())
        node.write_bytes(credential.certificate + credential.key.reveal())
        stolen = mixed | {"cert": str(node), "key": str(node)}
        assert stage(BuildkitProber(stolen).probe(real.host, timeout=5)) is Stage.TLS
    finally:
        real.clear()
        real.connection.close()
