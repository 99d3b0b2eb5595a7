"""Certificates among strangers: openssl verifies ours, and CAs that openssl and trustme made issue for us."""

from __future__ import annotations

import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from certs.authority import create_authority, issue_client, issue_node
from certs.certificate import Credential, Role, anchor, describe, read_credential, split_pem
from certs.checks import check_authority, check_leaf
from certs.keys import KeyType
from tests.support.tls import context, shake_hands

TODAY = datetime.now(UTC)
DAY = timedelta(days=1)
NAMES = ("amd-1", "127.0.0.1")


def openssl(*arguments: str | Path) -> str:
    return subprocess.run(("openssl", *arguments), check=True, capture_output=True, text=True).stdout


# --------------------------------------------------------------------------------------- openssl reads ours


@pytest.mark.parametrize("kind", KeyType)
@pytest.mark.parametrize("role", [Role.NODE, Role.CLIENT])
def test_openssl_verifies_what_is_issued_here(tmp_path: Path, kind: KeyType, role: Role) -> None:
    authority = create_authority("acme CA", now=TODAY, key_type=kind)
    node = issue_node(authority, "amd-1", names=NAMES, now=TODAY)
    leaf = node if role is Role.NODE else issue_client(authority, "c", now=TODAY)
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    (tmp_path / "leaf.pem").write_bytes(leaf.certificate)
    purpose = "sslserver" if role is Role.NODE else "sslclient"
    named = ("-verify_hostname", "amd-1", "-verify_ip", "127.0.0.1") if role is Role.NODE else ()
    strict = ("verify", "-x509_strict", "-check_ss_sig", "-CAfile", tmp_path / "ca.pem")
    assert openssl(*strict, "-purpose", purpose, *named, tmp_path / "leaf.pem").endswith("leaf.pem: OK\n")
    other = "sslclient" if role is Role.NODE else "sslserver"
    with pytest.raises(subprocess.CalledProcessError) as caught:
        openssl(*strict, "-purpose", other, tmp_path / "leaf.pem")
    assert "purpose" in caught.value.stderr


# ----------------------------------------------------------------------------------------- we read openssl's

KEYS = {
    "EC P-256": ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
    "EC P-384": ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"),
    "RSA 2048": ("-newkey", "rsa:2048"),
    "Ed25519": ("-newkey", "ed25519"),
}


@pytest.fixture(scope="module", params=KEYS.values(), ids=list(KEYS))
def company(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a root (root.*), two CAs below it (issuing.*, sibling.*), each with key, certificate and chain."""
    folder = tmp_path_factory.mktemp("company")
    new = ("req", "-nodes", *request.param)
    openssl(
        *new, "-x509", "-subj", "/CN=Root", "-days", "30", "-keyout", folder / "root.key", "-out", folder / "root.pem"
    )
    (folder / "extensions").write_text("basicConstraints=critical,CA:true,pathlen:0\nkeyUsage=critical,keyCertSign\n")
    for name in ("issuing", "sibling"):
        openssl(*new, "-subj", f"/O=Company/CN={name}", "-keyout", folder / f"{name}.key", "-out", folder / "request")
        signing = ("x509", "-req", "-in", folder / "request", "-CA", folder / "root.pem", "-CAkey", folder / "root.key")
        made = folder / f"{name}.pem"
        openssl(*signing, "-CAcreateserial", "-days", "20", "-extfile", folder / "extensions", "-out", made)
        (folder / f"{name}.chain").write_bytes(made.read_bytes() + (folder / "root.pem").read_bytes())
    return folder


def loaded(company: Path, name: str = "issuing") -> Credential:
    authority = read_credential((company / f"{name}.chain").read_bytes(), (company / f"{name}.key").read_bytes())
    check_authority(authority, datetime.now(UTC))
    return authority


def test_an_intermediate_of_openssl_issues_what_openssl_verifies(company: Path, tmp_path: Path) -> None:
    authority = loaded(company)
    node = issue_node(authority, "amd-1", names=NAMES, now=TODAY)
    leaf, issuing = split_pem(node.certificate)
    assert describe(issuing).subject == "issuing"
    (tmp_path / "leaf.pem").write_bytes(leaf)
    (tmp_path / "sent.pem").write_bytes(issuing)
    (tmp_path / "anchor.pem").write_bytes(anchor(authority.certificate))
    root = ("-CAfile", company / "root.pem", "-untrusted", tmp_path / "sent.pem")
    alone = ("-partial_chain", "-CAfile", tmp_path / "anchor.pem")
    for trust in (root, alone):
        assert openssl("verify", "-purpose", "sslserver", *trust, tmp_path / "leaf.pem").endswith("OK\n")
    assert describe(leaf).not_after == describe(issuing).not_after


def test_only_who_was_certified_by_the_anchor_is_let_in(company: Path, tmp_path: Path) -> None:
    ours, theirs = loaded(company), loaded(company, "sibling")
    trust = anchor(ours.certificate)
    server = context(tmp_path, "server", issue_node(ours, "amd-1", names=NAMES, now=TODAY), trust)
    client = context(tmp_path, "client", issue_client(ours, "c", now=TODAY), trust)
    assert shake_hands(server, client, "amd-1") == "TLSv1.3"
    stranger = context(tmp_path, "client", issue_client(theirs, "c", now=TODAY), trust)
    with pytest.raises(ssl.SSLError, match=r"unable to get (local )?issuer"):
        shake_hands(server, stranger, "amd-1")


def test_a_root_of_openssl_issues_without_an_intermediate(company: Path, tmp_path: Path) -> None:
    root = read_credential((company / "root.pem").read_bytes(), (company / "root.key").read_bytes())
    check_authority(root, datetime.now(UTC))
    node, client = issue_node(root, "amd-1", names=NAMES, now=TODAY), issue_client(root, "c", now=TODAY)
    assert len(split_pem(node.certificate)) == 1
    server = context(tmp_path, "server", node, root.certificate)
    assert shake_hands(server, context(tmp_path, "client", client, root.certificate), "127.0.0.1") == "TLSv1.3"


# ----------------------------------------------------------------------------------------- we read trustme's


@pytest.mark.parametrize("kind", trustme.KeyType)
@pytest.mark.parametrize("below", [False, True], ids=["root", "intermediate"])
def test_a_ca_of_trustme_issues(tmp_path: Path, kind: trustme.KeyType, below: bool) -> None:
    made = trustme.CA(key_type=kind)
    if below:
        made = made.create_child_ca(key_type=kind)
    authority = read_credential(made.cert_pem.bytes(), made.private_key_pem.bytes())
    check_authority(authority, datetime.now(UTC))
    trust = anchor(authority.certificate)
    node, client = issue_node(authority, "amd-1", names=NAMES, now=TODAY), issue_client(authority, "c", now=TODAY)
    check_leaf(node, Role.NODE, trust, datetime.now(UTC), NAMES)
    check_leaf(client, Role.CLIENT, trust, datetime.now(UTC))
    server = context(tmp_path, "server", node, trust)
    assert shake_hands(server, context(tmp_path, "client", client, trust), "amd-1") == "TLSv1.3"


# ------------------------------------------------------------------------------------------------- rotation

OLD, NEW = create_authority("acme CA", now=TODAY - DAY), create_authority("acme CA", now=TODAY)
OVERLAP = OLD.certificate + NEW.certificate
AUTHORITIES = {"old": OLD, "new": NEW}
TRUSTS = {"old": OLD.certificate, "both": OVERLAP, "new": NEW.certificate}


@pytest.mark.parametrize("trust", TRUSTS)
@pytest.mark.parametrize("node", AUTHORITIES)
@pytest.mark.parametrize("client", AUTHORITIES)
def test_during_the_overlap_old_and_new_work_and_afterwards_the_old_is_refused(
    tmp_path: Path, trust: str, node: str, client: str
) -> None:
    far = issue_node(AUTHORITIES[node], "amd-1", names=NAMES, now=TODAY)
    near = issue_client(AUTHORITIES[client], "c", now=TODAY)
    server = context(tmp_path, "server", far, TRUSTS[trust])
    dialling = context(tmp_path, "client", near, TRUSTS[trust])
    if trust in {"both", node} and trust in {"both", client}:
        assert shake_hands(server, dialling, "amd-1") == "TLSv1.3"
    else:
        with pytest.raises(ssl.SSLError, match="certificate verify failed"):
            shake_hands(server, dialling, "amd-1")


# ---------------------------------------------------------------------------- refusals through an intermediate

INTERMEDIATE = trustme.CA(key_type=trustme.KeyType.ECDSA).create_child_ca(key_type=trustme.KeyType.ECDSA)
SIGNER = read_credential(INTERMEDIATE.cert_pem.bytes(), INTERMEDIATE.private_key_pem.bytes())
GOOD_NODE = issue_node(SIGNER, "amd-1", names=NAMES, now=TODAY)
GOOD_CLIENT = issue_client(SIGNER, "c", now=TODAY)

REFUSALS = {
    "a node that acts as a client": (GOOD_NODE, GOOD_NODE, "amd-1", "unsuitable certificate purpose"),
    "a client that acts as a node": (GOOD_CLIENT, GOOD_CLIENT, "amd-1", "unsuitable certificate purpose"),
    "a node of another name": (GOOD_NODE, GOOD_CLIENT, "amd-2", "Hostname mismatch"),
    "an expired client": (GOOD_NODE, issue_client(SIGNER, "c", now=TODAY - 366 * DAY), "amd-1", "has expired"),
    "an expired node": (
        issue_node(SIGNER, "n", names=NAMES, now=TODAY - 366 * DAY),
        GOOD_CLIENT,
        "amd-1",
        "has expired",
    ),
    "a client from the future": (GOOD_NODE, issue_client(SIGNER, "c", now=TODAY + DAY), "amd-1", "not yet valid"),
    "a node from the future": (
        issue_node(SIGNER, "n", names=NAMES, now=TODAY + DAY),
        GOOD_CLIENT,
        "amd-1",
        "not yet valid",
    ),
}


@pytest.mark.parametrize(("node", "client", "name", "complaint"), REFUSALS.values(), ids=REFUSALS)
def test_a_chain_changes_no_refusal(
    tmp_path: Path, node: Credential, client: Credential, name: str, complaint: str
) -> None:
    trust = anchor(SIGNER.certificate)
    with pytest.raises(ssl.SSLError, match=complaint):
        shake_hands(context(tmp_path, "server", node, trust), context(tmp_path, "client", client, trust), name)
