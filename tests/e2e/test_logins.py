"""Getting to a host and its Docker: every way that works, and each way that does not in its own words."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.conftest import Operator
from tests.lab import Lab


@pytest.fixture(scope="module", autouse=True)
def _cleared(operator: Operator) -> None:
    """What a killed run has left there goes while both are well."""
    operator.inventory(("amd-1", "amd-2"))


@pytest.fixture
def person(operator: Operator, tmp_path: Path) -> Operator:
    """An operator with a home folder, and so an ssh configuration, of its own."""
    (tmp_path / ".ssh").mkdir(mode=0o700)
    return replace(operator, home=tmp_path, environment={"HOME": str(tmp_path), "SSH_AUTH_SOCK": ""})


def _blocked(person: Operator) -> dict[str, str]:
    (node,) = person.json("plan", expect=1)["nodes"]
    assert node["actions"] == []
    blocked: dict[str, str] = node["blocked"]
    assert blocked["remedy"]
    return blocked


def _address(person: Operator, name: str = "amd-1") -> str:
    return person.lab.hosts[name].host.address


def _key(folder: Path) -> Path:
    subprocess.run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "other"), check=True)
    return folder / "other"


def test_an_unknown_host_key_is_refused_with_its_fingerprint_and_the_fix(person: Operator, tmp_path: Path) -> None:
    (tmp_path / "nobody").touch()
    person.inventory(["amd-1"], known_hosts_file=str(tmp_path / "nobody"))
    blocked = _blocked(person)
    assert blocked["stage"] == "SSH"
    assert "is not known (ssh-ed25519 SHA256:" in blocked["reason"]
    assert f"ssh-keyscan -p 22 {_address(person)} >> " in blocked["remedy"]


def test_a_changed_host_key_is_refused(person: Operator, tmp_path: Path) -> None:
    public = _key(tmp_path).with_suffix(".pub").read_text()
    (tmp_path / "changed").write_text(f"{_address(person)} {public}")
    person.inventory(["amd-1"], known_hosts_file=str(tmp_path / "changed"))
    blocked = _blocked(person)
    assert "has changed" in blocked["reason"]
    assert f"ssh-keygen -R '{_address(person)}'" in blocked["remedy"]


def test_a_key_that_the_host_does_not_know_is_refused(person: Operator, tmp_path: Path) -> None:
    person.inventory(["amd-1"], identity_file=str(_key(tmp_path)))
    blocked = _blocked(person)
    assert "refused to log build in" in blocked["reason"]
    assert str(tmp_path / "other") in blocked["reason"]
    assert "authorized_keys" in blocked["remedy"]


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_a_refused_key_of_any_kind_is_refused_in_the_same_words(person: Operator, tmp_path: Path, kind: str) -> None:
    subprocess.run(("ssh-keygen", "-q", "-t", kind, "-N", "", "-f", tmp_path / kind), check=True)
    person.inventory(["amd-1"], identity_file=str(tmp_path / kind))
    assert "refused to log build in" in _blocked(person)["reason"]


def test_a_sealed_key_asks_for_the_agent(person: Operator, tmp_path: Path) -> None:
    sealed = tmp_path / "sealed"
    subprocess.run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", sealed), check=True)
    person.inventory(["amd-1"], identity_file=str(sealed))
    blocked = _blocked(person)
    assert "sealed with a passphrase" in blocked["reason"]
    assert "ssh-add" in blocked["remedy"]


def test_a_user_who_may_not_use_docker_is_told_so(person: Operator) -> None:
    person.inventory(["amd-1"], user="nodocker")
    blocked = _blocked(person)
    assert blocked["stage"] == "Docker"
    assert "may not use Docker" in blocked["reason"]
    assert "usermod -aG docker nodocker" in blocked["remedy"]


def test_sudo_that_is_not_allowed_is_told_so(person: Operator) -> None:
    person.inventory(["amd-1"], user="nodocker", sudo=True)
    blocked = _blocked(person)
    assert blocked["stage"] == "Docker"
    assert "sudo -n docker does not work on the host: sudo: " in blocked["reason"]
    assert "NOPASSWD" in blocked["remedy"]


def test_docker_behind_sudo_works(person: Operator) -> None:
    person.inventory(["amd-1"], user="sudoer", sudo=True)
    assert person.json("plan")["nodes"][0]["why"] == ["there is no daemon"]


def test_a_port_where_nobody_listens(person: Operator) -> None:
    person.inventory(["amd-1"], port=2222)
    blocked = _blocked(person)
    assert f"{_address(person)}:2222 refused the connection" in blocked["reason"]


@pytest.fixture
def black_hole(lab: Lab) -> Iterator[None]:
    lab.hosts["amd-2"].blackhole()
    yield
    lab.hosts["amd-2"].heal()


@pytest.mark.usefixtures("black_hole")
def test_a_host_that_does_not_answer_ends_in_the_time_of_the_ssh_configuration(
    person: Operator, tmp_path: Path
) -> None:
    (tmp_path / ".ssh/config").write_text("Host 172.30.0.*\n  ConnectTimeout 2\n")
    person.inventory(["amd-2"])
    assert f"no answer from {_address(person, 'amd-2')}:22 within 2 s" in _blocked(person)["reason"]


@pytest.fixture
def without_docker(lab: Lab) -> Iterator[None]:
    lab.hosts["amd-2"].stop_docker()
    yield
    lab.hosts["amd-2"].heal()


@pytest.mark.usefixtures("without_docker")
def test_a_host_whose_docker_is_stopped(person: Operator) -> None:
    person.inventory(["amd-2"])
    assert _blocked(person)["stage"] == "Docker"


def test_a_name_that_does_not_resolve(person: Operator) -> None:
    person.inventory(["amd-1"], address="no-such-host.invalid")
    assert "is not a name that can be resolved" in _blocked(person)["reason"]


def test_the_ssh_configuration_is_respected(person: Operator, lab: Lab, tmp_path: Path) -> None:
    (tmp_path / ".ssh/config").write_text(
        f"Host builder\n  HostName {_address(person)}\n  User build\n  IdentityFile {lab.home.ssh_key}\n"
        f"  UserKnownHostsFile {lab.home.known_hosts}\n"
    )
    person.inventory(["amd-1"], address="builder", user=None, identity_file=None, known_hosts_file=None)
    assert person.json("plan")["nodes"][0]["why"] == ["there is no daemon"]


def test_a_jump_host_is_jumped_over(person: Operator, lab: Lab, tmp_path: Path) -> None:
    (tmp_path / ".ssh/config").write_text(
        f"Host {_address(person, 'amd-2')}\n  ProxyJump build@{_address(person)}:22\n"
        f"Host *\n  IdentityFile {lab.home.ssh_key}\n  UserKnownHostsFile {lab.home.known_hosts}\n"
    )
    person.inventory(["amd-2"])
    assert person.json("plan")["nodes"][0]["why"] == ["there is no daemon"]


def test_an_agents_key_is_used_although_only_named_identities_may_be(
    person: Operator, lab: Lab, tmp_path: Path
) -> None:
    """The key file is sealed, the agent has it open."""
    sealed = tmp_path / "sealed"
    sealed.write_bytes(lab.home.ssh_key.read_bytes())
    sealed.chmod(0o600)
    sealed.with_suffix(".pub").write_bytes(lab.home.ssh_key.with_suffix(".pub").read_bytes())
    subprocess.run(("ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", sealed), check=True)
    socket = tmp_path / "agent"
    with subprocess.Popen(("ssh-agent", "-D", "-a", socket), stdout=subprocess.DEVNULL) as agent:
        try:
            environment = {"SSH_AUTH_SOCK": str(socket), "HOME": str(tmp_path)}
            while not socket.exists():
                assert agent.poll() is None
            subprocess.run(
                ("ssh-add", "-q", lab.home.ssh_key),
                env={**person.env, **environment},
                check=True,
                stdin=subprocess.DEVNULL,
            )
            (tmp_path / ".ssh/config").write_text(f"Host *\n  IdentitiesOnly yes\n  IdentityFile {tmp_path}/missing\n")
            person.inventory(["amd-1"], identity_file=str(sealed))
            with_agent = replace(person, environment=environment)
            assert with_agent.json("plan")["nodes"][0]["why"] == ["there is no daemon"]
        finally:
            agent.terminate()


def test_included_configurations_and_strange_known_hosts_lines_are_read(
    person: Operator, lab: Lab, tmp_path: Path
) -> None:
    known = lab.home.known_hosts.read_text()
    (tmp_path / "known").write_text(f"@cert-authority * ssh-ed25519 AAAA\nnot a line\n# remark\n{known}")
    (tmp_path / ".ssh/config.d").mkdir()
    (tmp_path / ".ssh/config.d/lab").write_text(f"Host 172.30.*\n  User build\n  IdentityFile {lab.home.ssh_key}\n")
    (tmp_path / ".ssh/config").write_text(f"Include config.d/*\nUserKnownHostsFile {tmp_path}/known\n")
    person.inventory(["amd-1"], user=None, identity_file=None, known_hosts_file=None)
    assert person.json("plan")["nodes"][0]["why"] == ["there is no daemon"]


def test_a_revoked_host_key_is_refused(person: Operator, lab: Lab, tmp_path: Path) -> None:
    known = [line for line in lab.home.known_hosts.read_text().splitlines() if line.startswith(f"{_address(person)} ")]
    (tmp_path / "revoked").write_text("\n".join((*known, *(f"@revoked {line}" for line in known))))
    person.inventory(["amd-1"], known_hosts_file=str(tmp_path / "revoked"))
    assert "is not known" in _blocked(person)["reason"]


def test_jump_hosts_in_a_circle_are_told(person: Operator, tmp_path: Path) -> None:
    (tmp_path / ".ssh/config").write_text(f"Host 172.30.*\n  ProxyJump {_address(person)}\n")
    person.inventory(["amd-1"])
    assert f"lead in a circle: {_address(person)} → {_address(person)}" in _blocked(person)["reason"]


def test_an_exec_line_of_the_ssh_configuration_is_followed(person: Operator, lab: Lab, tmp_path: Path) -> None:
    (tmp_path / ".ssh/config").write_text(f'Match exec "true"\n  IdentityFile {lab.home.ssh_key}\n')
    person.inventory(["amd-1"], identity_file=None)
    assert person.json("plan")["nodes"][0]["why"] == ["there is no daemon"]
