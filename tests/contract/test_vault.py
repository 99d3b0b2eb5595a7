"""What every Vault keeps: the fake, and the one of files."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from certs.authority import Role, describe, is_issued_by, is_pair
from fleet.adapters.vault import FileVault
from fleet.errors import VaultError
from tests.support.fakes import FakeVault
from tests.support.values import NOW

if TYPE_CHECKING:
    from fleet.ports import Vault


@pytest.fixture(params=["fake", "files"])
def vault(request: pytest.FixtureRequest, tmp_path: Path) -> Vault:
    return FakeVault() if request.param == "fake" else FileVault(tmp_path / "acme")


def test_an_absent_vault_is_no_error(vault: Vault) -> None:
    facts = vault.read()
    assert (facts.authority, facts.authority_fingerprint, facts.client) == (None, None, None)
    assert facts.driver_options == vault.client_files
    assert not vault.has_client()


def test_it_has_an_authority_first_and_then_a_client(vault: Vault) -> None:
    vault.create_authority("acme", NOW)
    facts = vault.read()
    assert facts.authority
    assert facts.authority.expires == NOW + timedelta(days=3650)
    assert (facts.client, vault.has_client()) == (None, False)
    vault.issue_client("operator", NOW)
    facts = vault.read()
    assert facts.client
    assert facts.client.expires == NOW + timedelta(days=365)
    assert vault.has_client()


def test_the_clients_files_are_absolute(vault: Vault) -> None:
    assert set(vault.client_files) == {"cacert", "cert", "key"}
    assert all(Path(path).is_absolute() for path in vault.client_files.values())


def test_an_authority_is_never_replaced(vault: Vault) -> None:
    vault.create_authority("acme", NOW)
    before = vault.read()
    with pytest.raises(VaultError) as caught:
        vault.create_authority("acme", NOW)
    assert caught.value.remedy
    assert vault.read() == before


def test_a_client_is_renewed(vault: Vault) -> None:
    vault.create_authority("acme", NOW)
    vault.issue_client("operator", NOW)
    before = vault.read()
    vault.issue_client("operator", NOW + timedelta(days=340))
    after = vault.read()
    assert before.client
    assert after.client
    assert after.client.expires - before.client.expires == timedelta(days=340)
    assert after.authority == before.authority


def test_a_node_gets_a_certificate_and_what_to_trust(vault: Vault) -> None:
    vault.create_authority("acme", NOW)
    credential, trust = vault.issue_node("amd-1", ["10.0.0.11", "amd-1"], NOW)
    described = describe(credential.certificate)
    assert (described.role, described.names) == (Role.NODE, ("10.0.0.11", "amd-1"))
    assert is_pair(credential)
    assert is_issued_by(credential.certificate, trust)
    assert describe(trust).fingerprint == vault.read().authority_fingerprint


def test_without_an_authority_nothing_is_issued(vault: Vault) -> None:
    with pytest.raises(VaultError):
        vault.issue_client("operator", NOW)
    with pytest.raises(VaultError):
        vault.issue_node("amd-1", ["amd-1"], NOW)
    assert not vault.has_client()


def test_it_is_held_by_one_at_a_time(vault: Vault) -> None:
    with vault.locked(), pytest.raises(VaultError, match="another fleet"), vault.locked():
        pytest.fail("two hold the vault")
    with vault.locked():
        pass
