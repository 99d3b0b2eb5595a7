"""The vault: files that are whole or refused, modes that keep others out, errors that quote no key."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from certs.authority import create_authority, issue_client
from certs.certificate import Role, describe, is_issued_by, is_pair
from fleet.adapters import pem_files
from fleet.adapters.client_files import home
from fleet.adapters.vault import FileVault
from fleet.errors import VaultError
from fleet.model.spec import HostSpec
from tests.support.values import NOW

if TYPE_CHECKING:
    from collections.abc import Callable

FILES = ("authority.pem", "ca.pem", "client.pem")
AMD = HostSpec("amd-1", "10.0.0.11")


@pytest.fixture
def vault(tmp_path: Path) -> FileVault:
    """A vault with a CA and a client certificate."""
    made = FileVault(tmp_path / "fleets" / "acme")
    made.create_authority("acme", NOW)
    made.issue_client("operator", NOW)
    return made


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def contents(vault: FileVault) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(vault.directory.iterdir())}


def key_lines(content: bytes) -> list[str]:
    """The lines of every private key, whole and by their beginnings."""
    text, lines, inside = content.decode(errors="replace"), [], False
    for line in text.splitlines():
        inside = "PRIVATE KEY" in line if "-----" in line else inside
        if inside and "-----" not in line and line:
            lines.append(line[:16])
    return lines


# ----------------------------------------------------------------------------------------------- writing


def test_a_new_vault_holds_three_files_that_only_its_owner_reads(vault: FileVault) -> None:
    assert set(contents(vault)) == set(FILES)
    assert mode(vault.directory) == 0o700
    assert {name: mode(vault.directory / name) for name in FILES} == dict.fromkeys(FILES, 0o600)


def test_a_careless_umask_changes_nothing(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        vault = FileVault(tmp_path / "acme")
        vault.create_authority("acme", NOW)
        vault.issue_client("operator", NOW)
        with vault.locked():
            modes = {path.name: mode(path) for path in vault.directory.iterdir()}
    finally:
        os.umask(before)
    assert mode(vault.directory) == 0o700
    assert modes == dict.fromkeys((*FILES, "lock"), 0o600)


def test_what_was_made_is_read_back(vault: FileVault) -> None:
    facts = vault.read()
    assert facts.authority is not None
    assert facts.client is not None
    assert facts.authority.expires == NOW + timedelta(days=3650)
    assert facts.client.expires == NOW + timedelta(days=365)
    assert facts.authority_fingerprint == describe((vault.directory / "ca.pem").read_bytes()).fingerprint
    assert facts.driver_options == vault.client_files


def test_the_clients_files_are_absolute_paths_that_exist(vault: FileVault) -> None:
    assert set(vault.client_files) == {"cacert", "cert", "key"}
    assert all(Path(path).is_absolute() and Path(path).is_file() for path in vault.client_files.values())


def test_an_absent_vault_is_empty_and_is_not_made_by_reading(tmp_path: Path) -> None:
    vault = FileVault(tmp_path / "acme")
    facts = vault.read()
    assert (facts.authority, facts.authority_fingerprint, facts.client) == (None, None, None)
    assert not vault.has_client()
    assert not vault.directory.exists()


def test_a_node_gets_a_certificate_of_its_own_and_the_authority_to_trust(vault: FileVault) -> None:
    before = contents(vault)
    credential, trust = vault.issue_node(AMD, ["10.0.0.11", "amd-1"], NOW)
    assert describe(credential.certificate).role is Role.NODE
    assert describe(credential.certificate).names == ("10.0.0.11", "amd-1")
    assert is_pair(credential)
    assert is_issued_by(credential.certificate, trust)
    assert trust == (vault.directory / "ca.pem").read_bytes()
    assert contents(vault) == before


def test_renewing_the_client_leaves_the_authority(vault: FileVault) -> None:
    before, old = contents(vault), vault.read().client
    vault.issue_client("operator", NOW + timedelta(days=340))
    after, new = contents(vault), vault.read().client
    assert old
    assert new
    assert new.expires - old.expires == timedelta(days=340)
    assert new.serial != old.serial
    assert {name for name in FILES if before[name] != after[name]} == {"client.pem"}


def test_an_authority_is_never_replaced(vault: FileVault) -> None:
    before = contents(vault)
    with pytest.raises(VaultError, match=r"authority\.pem exists already"):
        vault.create_authority("acme", NOW)
    assert contents(vault) == before


@pytest.mark.parametrize("leftover", [b"", b"torn", b"-----BEGIN CERTIFICATE-----\n"])
def test_not_even_a_torn_authority_is_replaced(tmp_path: Path, leftover: bytes) -> None:
    vault = FileVault(tmp_path)
    (tmp_path / "authority.pem").write_bytes(leftover)
    (tmp_path / "authority.pem").chmod(0o600)
    with pytest.raises(VaultError, match=r"authority\.pem cannot be used"):
        vault.create_authority("acme", NOW)
    assert (tmp_path / "authority.pem").read_bytes() == leftover


def test_a_vault_without_authority_issues_nothing(tmp_path: Path) -> None:
    vault = FileVault(tmp_path)
    with pytest.raises(VaultError, match="has no CA"):
        vault.issue_client("operator", NOW)
    with pytest.raises(VaultError, match="has no CA"):
        vault.issue_node(AMD, ["amd-1"], NOW)


@pytest.mark.parametrize(
    ("was", "torn"), [(b"asked:.*", b""), (b" until.*", b""), (b"86400", b"96400"), (b"-05-", b"-15-")]
)
def test_an_entry_that_does_not_say_what_was_asked_for_is_refused_by_name(
    vault: FileVault, was: bytes, torn: bytes
) -> None:
    vault.issue_bundle_credential("eve", NOW, lifetime=timedelta(days=1))
    [entry] = (vault.directory / "clients").glob("eve-*")
    entry.write_bytes(re.sub(was, torn, entry.read_bytes(), flags=re.DOTALL))
    with pytest.raises(VaultError, match=r"eve-.* how long access was asked for") as caught:
        vault.clients()
    assert caught.value.remedy


def test_what_is_handed_out_is_written_down_without_its_key(vault: FileVault) -> None:
    credential, _ = vault.issue_bundle_credential("eve", NOW, lifetime=timedelta(days=1))
    [entry] = (vault.directory / "clients").glob("eve-*")
    line = "asked: 86400 s, until 2030-05-02T12:00:00Z"
    assert entry.read_bytes() == credential.certificate + f"{line} {pem_files.checksum(line)}\n".encode()
    assert is_issued_by(entry.read_bytes(), (vault.directory / "ca.pem").read_bytes())
    assert (entry.stat().st_mode & 0o777, entry.parent.stat().st_mode & 0o777) == (0o600, 0o700)


# ------------------------------------------------------------------------------------------ broken vaults

OTHER = create_authority("other CA", now=NOW)
OTHER_CLIENT = issue_client(OTHER, "operator", now=NOW)


def rewrite(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return do


def expose(name: str, bits: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).chmod(bits)


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def swap(one: str, other: str) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        (folder / one).rename(folder / "aside")
        (folder / other).rename(folder / one)
        (folder / "aside").rename(folder / other)

    return do


def copy_over(source: str, target: str) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        (folder / target).write_bytes((folder / source).read_bytes())

    return do


def certificate_only(content: bytes) -> bytes:
    return content[: content.index(b"-----BEGIN PRIVATE")]


def key_only(content: bytes) -> bytes:
    return content[content.index(b"-----BEGIN PRIVATE") :]


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "an empty authority": (rewrite("authority.pem", lambda _: b""), "authority.pem"),
    "a truncated authority": (rewrite("authority.pem", lambda old: old[:-40]), "authority.pem"),
    "an authority without its key": (rewrite("authority.pem", certificate_only), "authority.pem"),
    "an authority without its certificate": (rewrite("authority.pem", key_only), "authority.pem"),
    "an authority of noise": (rewrite("authority.pem", lambda old: bytes(b ^ 0x55 for b in old)), "authority.pem"),
    "an authority with another key": (
        rewrite("authority.pem", lambda old: certificate_only(old) + OTHER.key.reveal()),
        "authority.pem",
    ),
    "another authority": (
        rewrite("authority.pem", lambda _: OTHER.certificate + OTHER.key.reveal()),
        "ca.pem",
    ),
    "a missing authority": (remove("authority.pem"), "client.pem"),
    "a missing trust": (remove("ca.pem"), "ca.pem"),
    "an empty trust": (rewrite("ca.pem", lambda _: b""), "ca.pem"),
    "a truncated trust": (rewrite("ca.pem", lambda old: old[:100]), "ca.pem"),
    "another trust": (rewrite("ca.pem", lambda _: OTHER.certificate), "ca.pem"),
    "an empty client": (rewrite("client.pem", lambda _: b""), "client.pem"),
    "a truncated client": (rewrite("client.pem", lambda old: old[:-40]), "client.pem"),
    "a torn client": (rewrite("client.pem", lambda old: old[: len(old) // 2]), "client.pem"),
    "a client with another key": (
        rewrite("client.pem", lambda old: certificate_only(old) + OTHER_CLIENT.key.reveal()),
        "client.pem",
    ),
    "a client of another authority": (
        rewrite("client.pem", lambda _: OTHER_CLIENT.certificate + OTHER_CLIENT.key.reveal()),
        "client.pem",
    ),
    "authority and client swapped": (swap("authority.pem", "client.pem"), "authority.pem"),
    "the authority in the client's place": (copy_over("authority.pem", "client.pem"), "client.pem"),
    "an authority that its group can read": (expose("authority.pem", 0o640), "authority.pem"),
    "an authority that the world can read": (expose("authority.pem", 0o604), "authority.pem"),
    "a client that the world can read": (expose("client.pem", 0o644), "client.pem"),
    "a client that the world can write": (expose("client.pem", 0o602), "client.pem"),
    "a folder that the world can enter": (expose(".", 0o701), "acme"),
}


@pytest.mark.parametrize(("breaking", "named"), BROKEN.values(), ids=BROKEN)
def test_a_broken_vault_is_refused_by_name_and_never_overwritten(
    vault: FileVault, breaking: Callable[[Path], None], named: str
) -> None:
    secrets = [line for content in contents(vault).values() for line in key_lines(content)]
    secrets += [line for key in (OTHER.key, OTHER_CLIENT.key) for line in key_lines(key.reveal())]
    assert len(secrets) > 6
    breaking(vault.directory)
    broken = contents(vault)
    with pytest.raises(VaultError) as caught:
        vault.read()
    error = caught.value
    assert named in error.message.split(" ")[0]
    assert error.remedy
    shown: list[BaseException | None] = [error, error.__cause__, error.__context__]
    assert not [line for line in secrets for one in shown if line in f"{one!r}{getattr(one, 'remedy', '')}"]
    assert contents(vault) == broken


@pytest.mark.parametrize(
    "name",
    [name for name in BROKEN if "authority" in name.split(" ") and "swapped" not in name and "client" not in name],
)
def test_a_broken_authority_signs_nothing(vault: FileVault, name: str) -> None:
    BROKEN[name][0](vault.directory)
    before = contents(vault)
    with pytest.raises(VaultError, match=r"authority\.pem"):
        vault.issue_node(AMD, ["n"], NOW)
    assert contents(vault) == before


# --------------------------------------------------------------------------------------------------- lock


def test_a_second_fleet_is_refused_while_the_vault_is_held(vault: FileVault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/fleet", "up", "--host", "\udcffm\x1b[2J"])
    again = FileVault(vault.directory)
    with vault.locked():
        command = r"fleet up --host .m \[2J"
        who = rf"another fleet is at work on acme: {command} \(process {os.getpid()} of .+, since 20.* UTC\)$"
        with pytest.raises(VaultError, match=who), again.locked():
            pytest.fail("two hold the vault")
        assert vault.read() == again.read()
    with again.locked():
        assert (vault.directory / "lock").exists()


@pytest.mark.parametrize("said", [b"", b"\xff\x00" * 400, b"fleet up\n\x1b[2J" + b"x" * 10_000])
def test_what_a_lock_says_is_for_people_alone(vault: FileVault, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr(sys, "argv", ["fleet", "down"])
    with vault.locked():
        (vault.directory / "lock").write_bytes(said)
        with pytest.raises(VaultError, match=r"another fleet is at work on acme: .") as caught, vault.locked():
            pytest.fail("two hold the vault")
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 800
    with vault.locked():
        assert b"fleet down" in (vault.directory / "lock").read_bytes()


def test_who_holds_the_vault_clears_away_what_a_killed_run_left_behind(vault: FileVault) -> None:
    vault.issue_bundle_credential("ada", NOW, lifetime=timedelta(days=1))
    before = {path for path in vault.directory.rglob("*") if path.is_file()}
    for folder in (vault.directory, vault.directory / "clients"):
        (folder / ".authority.pem.x7.new").write_bytes(b"half a key")
    with vault.locked():
        pass
    assert {path for path in vault.directory.rglob("*") if path.is_file()} == before | {vault.directory / "lock"}


def test_the_lock_is_let_go_when_the_work_fails(vault: FileVault) -> None:
    with pytest.raises(ZeroDivisionError), vault.locked():
        raise ZeroDivisionError
    with FileVault(vault.directory).locked():
        pass


def test_a_vault_can_be_locked_before_it_exists(tmp_path: Path) -> None:
    vault = FileVault(tmp_path / "new" / "acme")
    with vault.locked():
        vault.create_authority("acme", NOW)
    assert mode(vault.directory) == 0o700
    assert vault.read().authority is not None


def test_a_vault_below_a_file_is_an_error_of_the_vault(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    vault = FileVault(tmp_path / "file" / "acme")
    assert vault.read().authority is None
    with pytest.raises(VaultError, match="Not a directory"), vault.locked():
        pytest.fail("the lock is nowhere")
    with pytest.raises(VaultError, match="Not a directory"):
        vault.create_authority("acme", NOW)


# ------------------------------------------------------------------------------------------- start-up time


def test_what_a_build_asks_of_the_vault_imports_no_cryptography(vault: FileVault) -> None:
    script = """
import sys
from pathlib import Path
from fleet.adapters.vault import FileVault
vault = FileVault(Path(sys.argv[1]))
assert vault.has_client() and vault.client_files
print([name for name in ("cryptography", "pydantic", "paramiko") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script, vault.directory], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# --------------------------------------------------------------------------------------------------- home


def test_fleet_home_names_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLEET_HOME", str(tmp_path))
    assert home() == tmp_path


def test_a_relative_or_tilde_home_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("FLEET_HOME", "vaults")
    assert home() == tmp_path / "vaults"
    monkeypatch.setenv("FLEET_HOME", "~/vaults")
    assert home() == Path("/home/ada/vaults")


def test_without_fleet_home_it_is_the_users_data_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FLEET_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert home() == tmp_path / "fleet"
