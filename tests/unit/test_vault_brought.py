"""The vault and what the inventory brings: a CA, certificates; never mixed up with what fleet made itself."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from certs import keys
from certs.authority import issue_client, issue_node
from certs.certificate import describe, read_credential
from certs.keys import KeyType, Passphrase, seal_key
from fleet.adapters.vault import FileVault
from fleet.errors import VaultError
from fleet.model.facts import CertificateFacts
from fleet.model.spec import HostSpec, KeyPair, TlsSpec
from tests.support.tls import CA, forge
from tests.support.values import NOW

AMD = HostSpec("amd-1", "10.0.0.11")
DAY = timedelta(days=1)


def open_vault(directory: Path, tls: TlsSpec | None = None) -> FileVault:
    return FileVault(directory, tls or TlsSpec())


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture
def company(tmp_path: Path) -> Callable[..., TlsSpec]:
    """Makes a CA elsewhere, and the inventory that names it."""

    def make(name: str = "company", **changed: object) -> TlsSpec:
        made = FileVault(tmp_path / name)
        made.create_authority(name, NOW)
        made.issue_client("somebody", NOW)
        ca, client = (str(made.directory / file) for file in ("authority.pem", "client.pem"))
        spec = {"ca": KeyPair(ca, ca), "client": KeyPair(client, client)}
        return TlsSpec(**{**spec, **changed})  # type: ignore[arg-type]

    return make


def test_a_ca_of_the_inventory_does_not_push_out_the_vaults_own(
    tmp_path: Path, company: Callable[..., TlsSpec]
) -> None:
    open_vault(tmp_path / "acme").create_authority("acme", NOW)
    before = contents(tmp_path / "acme")
    tls = company()
    attempts: list[Callable[[FileVault], object]] = [
        lambda vault: vault.read(),
        lambda vault: vault.create_authority("acme", NOW),
        lambda vault: vault.issue_node(AMD, ["amd-1"], NOW),
    ]
    for attempt in attempts:
        with pytest.raises(VaultError, match=r"authority\.pem is a CA of this fleet's own.*tls\.ca") as caught:
            attempt(open_vault(tmp_path / "acme", tls))
        assert "fleet down" in (caught.value.remedy or "")
    assert contents(tmp_path / "acme") == before


def test_another_ca_of_the_inventory_is_not_taken_up_in_silence(
    tmp_path: Path, company: Callable[..., TlsSpec]
) -> None:
    open_vault(tmp_path / "acme", company()).create_authority("acme", NOW)
    before = contents(tmp_path / "acme")
    assert set(before) == {"ca.pem"}
    tls = company("other")
    attempts: list[Callable[[FileVault], object]] = [
        lambda vault: vault.read(),
        lambda vault: vault.create_authority("acme", NOW),
    ]
    for attempt in attempts:
        with pytest.raises(VaultError, match=r"ca\.pem is another CA than .*authority\.pem \(tls\.ca\)") as caught:
            attempt(open_vault(tmp_path / "acme", tls))
        assert "fleet down" in (caught.value.remedy or "")
    assert contents(tmp_path / "acme") == before


def test_an_inventory_that_lost_its_ca_does_not_get_a_new_one_in_silence(
    tmp_path: Path, company: Callable[..., TlsSpec]
) -> None:
    open_vault(tmp_path / "acme", company()).create_authority("acme", NOW)
    with pytest.raises(VaultError, match=r"ca\.pem is there but authority\.pem is not") as caught:
        open_vault(tmp_path / "acme").create_authority("acme", NOW)
    assert "tls.ca" in (caught.value.remedy or "")


@pytest.mark.parametrize("which", ["ca", "client"])
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda path: path.chmod(0o640), "can be read by others"),
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.write_bytes(b""), "no private key"),
        (lambda path: path.write_bytes(path.read_bytes()[:-200]), "no private key"),
        (lambda path: path.write_bytes(path.read_bytes() * 2), "more than one private key"),
    ],
)
def test_what_the_inventory_names_is_checked_and_named(
    tmp_path: Path, company: Callable[..., TlsSpec], which: str, change: Callable[[Path], object], why: str
) -> None:
    tls = company()
    open_vault(tmp_path / "acme", tls).create_authority("acme", NOW)
    pair: KeyPair = getattr(tls, which)
    change(Path(pair.cert))
    with pytest.raises(VaultError, match=why) as caught:
        open_vault(tmp_path / "acme", tls).read()
    assert caught.value.message.startswith(pair.cert)
    assert caught.value.remedy


def test_certificate_and_key_may_be_two_files_of_which_the_key_alone_is_secret(
    tmp_path: Path, company: Callable[..., TlsSpec]
) -> None:
    whole_file = Path((company().client or KeyPair("", None)).cert)
    cert, key = tmp_path / "me.pem", tmp_path / "me.key"
    content = whole_file.read_bytes()
    cut = content.index(b"-----BEGIN PRIVATE")
    for path, part, mode in ((cert, content[:cut], 0o644), (key, content[cut:], 0o600)):
        path.write_bytes(part)
        path.chmod(mode)
    tls = TlsSpec(ca=KeyPair(str(whole_file.with_name("authority.pem")), None), client=KeyPair(str(cert), str(key)))
    vault = open_vault(tmp_path / "acme", tls)
    vault.create_authority("acme", NOW)
    assert vault.has_client()
    assert vault.read().client
    key.chmod(0o644)
    for attempt in (vault.has_client, vault.read):
        with pytest.raises(VaultError, match=r"me\.key can be read by others"):
            attempt()


def test_a_ca_that_was_renewed_with_its_key_is_younger_than_what_it_issued(tmp_path: Path) -> None:
    key = keys.generate(KeyType.P256)
    old, renewed = (forge("issuing", CA, at=at, key=key) for at in (NOW - DAY, NOW + DAY))
    client, node = issue_client(old, "somebody", now=NOW), issue_node(old, "arm-1", names=["10.0.0.21"], now=NOW)
    paths = {}
    for name, credential in (("ca", renewed), ("client", client), ("node", node)):
        paths[name] = tmp_path / f"{name}.pem"
        paths[name].touch(0o600)
        paths[name].write_bytes(credential.certificate + credential.key.reveal())
    pairs = {name: KeyPair(str(path), str(path)) for name, path in paths.items()}
    host = HostSpec("arm-1", "10.0.0.21", tls=pairs["node"])
    vault = FileVault(tmp_path / "acme", TlsSpec(ca=pairs["ca"], client=pairs["client"]), [host])
    vault.create_authority("acme", NOW + DAY)
    facts = vault.read()
    assert facts.client == CertificateFacts.of(describe(client.certificate))
    assert facts.brought == {"arm-1": CertificateFacts.of(describe(node.certificate))}
    assert vault.issue_node(host, ["10.0.0.21"], NOW + DAY)[0] == node


def test_a_sealed_key_of_the_inventorys_ca_is_opened_to_sign_alone(
    tmp_path: Path, company: Callable[..., TlsSpec]
) -> None:
    pair = company(client=None).ca
    assert pair
    content = Path(pair.cert).read_bytes()
    credential = read_credential(content)
    secret, asked = Passphrase("correct horse"), []
    Path(pair.cert).write_bytes(credential.certificate + seal_key(credential.key, secret).reveal())
    before = Path(pair.cert).read_bytes()

    def ask() -> Passphrase:
        asked.append(secret)
        return secret

    vault = FileVault(tmp_path / "acme", TlsSpec(ca=pair), passphrase=ask)
    vault.create_authority("acme", NOW)
    assert (vault.read().sealed, asked) == (True, [])
    vault.issue_client("operator", NOW)
    vault.issue_node(AMD, ["10.0.0.11"], NOW)
    assert asked == [secret]
    assert Path(pair.cert).read_bytes() == before
