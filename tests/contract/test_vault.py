"""What every Vault keeps: the fake, and the one of files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from certs.authority import create_authority, issue_client, issue_node
from certs.certificate import Credential, Role, anchor, describe, is_issued_by, is_pair, split_pem
from certs.keys import Passphrase
from fleet.adapters.vault import FileVault
from fleet.errors import Held, VaultError
from fleet.model.facts import CertificateFacts, Down
from fleet.model.spec import HostSpec, KeyPair, TlsSpec
from fleet.model.vault import Asked, Rotation
from tests.support.fake_vault import FakeVault
from tests.support.tls import CA, forge, key_usage
from tests.support.values import NOW

if TYPE_CHECKING:
    from fleet.ports import Vault

AMD = HostSpec("amd-1", "10.0.0.11")
LATER = NOW + timedelta(days=20)
DAY = timedelta(days=1)


@dataclass
class Ground:
    """Makes vaults that share what is stored, as two runs of fleet do."""

    kind: str
    folder: Path
    asked: list[Passphrase] = field(default_factory=list)
    answer: Passphrase = field(default_factory=lambda: Passphrase("correct horse"))

    def vault(
        self, tls: TlsSpec | None = None, *hosts: HostSpec, files: Mapping[str, Credential] | None = None
    ) -> Vault:
        """A vault of an inventory that says so, `files` lying where it leads to."""
        tls, files = tls or TlsSpec(), files or {}
        if self.kind == "fake":
            return FakeVault(tls, hosts, files=files, passphrase=self._ask)
        for path, credential in files.items():
            Path(path).write_bytes(credential.certificate + credential.key.reveal())
            Path(path).chmod(0o600)
        return FileVault(self.folder / "acme", tls, hosts, passphrase=self._ask)

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def _ask(self) -> Passphrase:
        self.asked.append(self.answer)
        return self.answer


@pytest.fixture(params=["fake", "files"])
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Ground:
    return Ground(request.param, tmp_path)


@pytest.fixture
def vault(ground: Ground) -> Vault:
    return ground.vault()


def settled(vault: Vault) -> Vault:
    vault.create_authority("acme", NOW)
    vault.issue_client("operator", NOW)
    return vault


def overlapping(vault: Vault) -> Vault:
    settled(vault)
    vault.issue_bundle_credential("ada", NOW, lifetime=DAY * 90)
    vault.begin_rotation("acme", LATER)
    return vault


def switched(vault: Vault) -> Vault:
    overlapping(vault)
    vault.issue_client("operator", LATER, coming=True)
    vault.issue_bundle_credential("ada", LATER, lifetime=DAY * 90, coming=True)
    vault.switch_authority()
    return vault


def ended(vault: Vault) -> Vault:
    switched(vault)
    vault.end_rotation()
    return vault


STATES: Mapping[Rotation, Callable[[Vault], Vault]] = {
    Rotation.SETTLED: settled,
    Rotation.OVERLAP: overlapping,
    Rotation.SWITCHED: switched,
}


def fingerprints(pem: bytes) -> tuple[str, ...]:
    return tuple(describe(one).fingerprint for one in split_pem(pem))


# ----------------------------------------------------------------------------------------- one CA of its own


def test_an_absent_vault_is_no_error(vault: Vault) -> None:
    facts = vault.read()
    assert (facts.authority, facts.authority_fingerprint, facts.client, facts.trust) == (None, None, None, ())
    assert (facts.can_sign, facts.external, facts.sealed, facts.brought) == (True, False, False, {})
    assert facts.driver_options == vault.client_files
    assert not vault.has_client()
    assert vault.clients() == ()


def test_it_has_an_authority_first_and_then_a_client(vault: Vault) -> None:
    vault.create_authority("acme", NOW)
    facts = vault.read()
    assert facts.authority
    assert (facts.authority.issued, facts.authority.expires) == (NOW, NOW + DAY * 3650)
    assert (facts.client, facts.client_authority, vault.has_client()) == (None, None, False)
    vault.issue_client("operator", NOW)
    facts = vault.read()
    assert facts.client
    assert (facts.client.issued, facts.client.expires) == (NOW, NOW + DAY * 365)
    assert facts.client_authority == facts.authority_fingerprint
    assert facts.trust == (facts.authority_fingerprint,)
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
    settled(vault)
    before = vault.read()
    vault.issue_client("operator", NOW + DAY * 340)
    after = vault.read()
    assert before.client
    assert after.client
    assert after.client.expires - before.client.expires == DAY * 340
    assert after.authority == before.authority


def test_a_node_gets_a_certificate_and_what_to_trust(vault: Vault) -> None:
    vault.create_authority("acme", NOW)
    credential, trust = vault.issue_node(AMD, ["10.0.0.11", "amd-1"], NOW)
    described = describe(credential.certificate)
    assert (described.role, described.names) == (Role.NODE, ("10.0.0.11", "amd-1"))
    assert is_pair(credential)
    assert is_issued_by(credential.certificate, trust)
    assert fingerprints(trust) == vault.read().trust


def test_certificates_last_as_long_as_the_inventory_says(ground: Ground) -> None:
    vault = settled(ground.vault(TlsSpec(node_days=40, client_days=50)))
    client, node = vault.read().client, describe(vault.issue_node(AMD, ["amd-1"], NOW)[0].certificate)
    assert client
    assert (node.not_after, client.expires) == (NOW + DAY * 40, NOW + DAY * 50)


def test_without_an_authority_nothing_is_issued_or_changed(vault: Vault) -> None:
    attempts: list[Callable[[], object]] = [
        lambda: vault.issue_client("operator", NOW),
        lambda: vault.issue_node(AMD, ["amd-1"], NOW),
        lambda: vault.issue_bundle_credential("ada", NOW, lifetime=DAY),
        lambda: vault.revoke("ada", NOW),
        lambda: vault.renew_nodes(NOW),
        lambda: vault.begin_rotation("acme", NOW),
        vault.switch_authority,
        vault.end_rotation,
        lambda: vault.seal(None),
    ]
    for attempt in attempts:
        with pytest.raises(VaultError):
            attempt()
    assert not vault.has_client()
    assert vault.read().authority is None


def test_an_expired_authority_issues_nothing(vault: Vault) -> None:
    settled(vault)
    with pytest.raises(VaultError, match="expired on 2040"):
        vault.issue_node(AMD, ["amd-1"], NOW + DAY * 3651)


def test_it_is_held_by_one_at_a_time(vault: Vault) -> None:
    with vault.locked(), pytest.raises(Held, match="another fleet"), vault.locked():
        pytest.fail("two hold the vault")
    with vault.locked():
        pass


def test_nodes_are_renewed_from_a_moment_on(vault: Vault) -> None:
    settled(vault)
    assert vault.read().nodes_since is None
    vault.renew_nodes(LATER + timedelta(microseconds=999_999))
    assert vault.read().nodes_since == LATER
    credential, _ = vault.issue_node(AMD, ["amd-1"], LATER + timedelta(microseconds=999_999))
    assert CertificateFacts.of(describe(credential.certificate)).issued == LATER


# --------------------------------------------------------------------------------------------- clients


def test_a_client_is_remembered_with_who_issued_its_certificate(vault: Vault) -> None:
    settled(vault)
    second, trust = vault.issue_bundle_credential("ci-1", LATER, lifetime=timedelta(hours=8))
    first, _ = vault.issue_bundle_credential("ci-1", NOW, lifetime=DAY * 90)
    ada, _ = vault.issue_bundle_credential("ada", NOW, lifetime=DAY)
    assert describe(ada.certificate).role is Role.CLIENT
    assert is_pair(ada)
    assert is_issued_by(ada.certificate, trust)
    facts = vault.read()
    assert fingerprints(trust) == facts.trust
    assert [(one.name, one.certificate) for one in vault.clients()] == [
        (name, CertificateFacts.of(describe(one.certificate)))
        for name, one in (("ada", ada), ("ci-1", first), ("ci-1", second))
    ]
    assert {(one.authority, one.revoked) for one in vault.clients()} == {(facts.authority_fingerprint, False)}
    assert [one.certificate.expires for one in vault.clients()] == [NOW + DAY, NOW + DAY * 90, LATER + DAY / 3]


def test_how_long_access_was_asked_for_outlives_a_ca_that_ends_before(vault: Vault) -> None:
    settled(vault)
    near = NOW + DAY * 3600
    for name, until in (("ada", None), ("bob", near + DAY * 10)):
        vault.issue_bundle_credential(name, near, lifetime=DAY * 90, until=until)
    ada, bob = vault.clients()
    assert (ada.certificate.expires, ada.asked) == (NOW + DAY * 3650, Asked(DAY * 90, near + DAY * 90))
    assert (bob.certificate.expires, bob.asked) == (near + DAY * 10, Asked(DAY * 90, near + DAY * 10))


def test_a_client_is_forgotten_a_month_after_its_certificate_has_ended(vault: Vault) -> None:
    settled(vault)
    for name, days in (("ada", 1), ("bob", 2)):
        vault.issue_bundle_credential(name, NOW, lifetime=DAY * days)
    vault.revoke("ada", NOW)
    for later, left in ((31, ["ada", "bob", "ci"]), (32, ["bob", "ci", "ci"])):
        vault.issue_bundle_credential("ci", NOW + DAY * later, lifetime=DAY * 90)
        assert [one.name for one in vault.clients()] == left


@pytest.mark.parametrize("name", ["operator", "", "Ada", "../ada", "a/b", "ada.", "-ada", "ada\n", "a" * 41, "ädä"])
def test_not_everything_is_a_clients_name(vault: Vault, name: str) -> None:
    settled(vault)
    with pytest.raises(VaultError, match="cannot be a client's name") as caught:
        vault.issue_bundle_credential(name, NOW, lifetime=DAY)
    assert caught.value.remedy
    assert vault.clients() == ()


def test_what_is_still_valid_of_a_client_is_revoked(vault: Vault) -> None:
    settled(vault)
    for name, lifetime in (("ada", DAY), ("ada", DAY * 90), ("ada", DAY * 91), ("bob", DAY * 90)):
        vault.issue_bundle_credential(name, NOW, lifetime=lifetime)
    for _ in range(2):
        vault.revoke("ada", LATER)
        assert [
            (one.name, one.revoked) for one in sorted(vault.clients(), key=lambda one: one.certificate.expires)
        ] == [
            ("ada", False),
            *sorted([("ada", True), ("bob", False)]),
            ("ada", True),
        ]
    vault.issue_bundle_credential("ada", LATER, lifetime=DAY)
    assert [one.revoked for one in vault.clients() if one.name == "ada"].count(False) == 2


def test_an_unknown_client_is_not_revoked_and_the_known_are_named(vault: Vault) -> None:
    settled(vault)
    with pytest.raises(VaultError, match="'eve'"):
        vault.revoke("eve", NOW)
    for name in ("ci-1", "ada", "ada"):
        vault.issue_bundle_credential(name, NOW, lifetime=DAY)
    with pytest.raises(VaultError, match="'eve'") as caught:
        vault.revoke("eve", NOW)
    assert caught.value.remedy == "one of: ada, ci-1"


# ------------------------------------------------------------------------------------------------ rotation


def test_during_the_overlap_the_old_ca_issues_and_both_are_trusted(vault: Vault) -> None:
    before = settled(vault).read()
    vault.begin_rotation("acme", LATER)
    facts = vault.read()
    assert (facts.rotation, facts.leaving_fingerprint) == (Rotation.OVERLAP, None)
    assert facts.coming
    assert facts.coming.issued == LATER
    assert facts.coming_fingerprint not in {None, facts.authority_fingerprint}
    assert facts.trust == (before.authority_fingerprint, facts.coming_fingerprint)
    assert before == replace(facts, rotation=Rotation.SETTLED, coming=None, coming_fingerprint=None, trust=before.trust)
    credential, trust = vault.issue_node(AMD, ["amd-1"], LATER)
    assert fingerprints(trust) == facts.trust
    old, new = split_pem(trust)
    assert (is_issued_by(credential.certificate, old), is_issued_by(credential.certificate, new)) == (True, False)


def test_the_coming_ca_issues_to_clients_alone_when_asked(vault: Vault) -> None:
    overlapping(vault)
    facts = vault.read()
    assert facts.client_authority == facts.authority_fingerprint
    vault.issue_client("operator", LATER, coming=True)
    assert vault.read().client_authority == facts.coming_fingerprint
    _, trust = vault.issue_bundle_credential("ada", LATER, lifetime=DAY, coming=True)
    assert fingerprints(trust) == facts.trust
    assert [one.authority for one in vault.clients()] == [facts.authority_fingerprint, facts.coming_fingerprint]
    vault.issue_client("operator", LATER)
    assert vault.read().client_authority == facts.authority_fingerprint


def test_after_the_switch_the_new_ca_issues_and_nodes_trust_it_alone(vault: Vault) -> None:
    before = overlapping(vault).read()
    vault.switch_authority()
    facts = vault.read()
    assert facts.rotation is Rotation.SWITCHED
    assert (facts.authority, facts.authority_fingerprint) == (before.coming, before.coming_fingerprint)
    assert (facts.coming, facts.coming_fingerprint) == (None, None)
    assert facts.leaving_fingerprint == before.authority_fingerprint == facts.client_authority
    assert facts.trust == (before.coming_fingerprint,)
    credential, trust = vault.issue_node(AMD, ["amd-1"], LATER)
    assert fingerprints(trust) == facts.trust
    assert is_issued_by(credential.certificate, trust)
    # Nodes that were not renewed yet still show what the old one issued.
    _, trusted = vault.issue_bundle_credential("bob", LATER, lifetime=DAY)
    assert fingerprints(trusted) == (facts.leaving_fingerprint, facts.authority_fingerprint)


def test_at_the_end_one_ca_is_left_and_the_clients_that_it_issued(vault: Vault) -> None:
    between = switched(vault).read()
    vault.end_rotation()
    facts = vault.read()
    assert facts == replace(between, rotation=Rotation.SETTLED, leaving_fingerprint=None)
    assert [(one.name, one.authority) for one in vault.clients()] == [("ada", facts.authority_fingerprint)]
    _, trust = vault.issue_bundle_credential("bob", LATER, lifetime=DAY)
    assert fingerprints(trust) == facts.trust
    vault.begin_rotation("acme", LATER)
    assert vault.read().rotation is Rotation.OVERLAP


@pytest.mark.parametrize(
    ("reach", "repeat"),
    [
        (overlapping, lambda vault: vault.begin_rotation("acme", LATER + DAY)),
        (switched, lambda vault: vault.switch_authority()),
        (ended, lambda vault: vault.end_rotation()),
    ],
    ids=["begin", "switch", "end"],
)
def test_a_step_that_was_made_is_made_once(
    vault: Vault, reach: Callable[[Vault], Vault], repeat: Callable[[Vault], None]
) -> None:
    before, clients = reach(vault).read(), vault.clients()
    repeat(vault)
    assert (vault.read(), vault.clients()) == (before, clients)


@pytest.mark.parametrize(
    ("state", "attempt"),
    [
        (Rotation.SETTLED, lambda vault: vault.switch_authority()),
        (Rotation.SETTLED, lambda vault: vault.issue_client("operator", LATER, coming=True)),
        (Rotation.OVERLAP, lambda vault: vault.end_rotation()),
        (Rotation.SWITCHED, lambda vault: vault.begin_rotation("acme", LATER)),
        (Rotation.SWITCHED, lambda vault: vault.issue_bundle_credential("bob", LATER, lifetime=DAY, coming=True)),
    ],
    ids=[
        "nothing to switch to",
        "nothing is coming",
        "not switched yet",
        "not ended yet",
        "nothing is coming any more",
    ],
)
def test_a_step_out_of_turn_is_refused(vault: Vault, state: Rotation, attempt: Callable[[Vault], None]) -> None:
    before, clients = STATES[state](vault).read(), vault.clients()
    assert before.rotation is state
    with pytest.raises(VaultError) as caught:
        attempt(vault)
    assert caught.value.remedy
    assert (vault.read(), vault.clients()) == (before, clients)


def test_a_rotation_does_not_end_while_the_operator_would_be_cut_off(vault: Vault) -> None:
    overlapping(vault)
    vault.switch_authority()
    with pytest.raises(VaultError, match="still of the CA that leaves"):
        vault.end_rotation()
    assert vault.read().rotation is Rotation.SWITCHED
    vault.issue_client("operator", LATER)
    vault.end_rotation()
    assert vault.read().rotation is Rotation.SETTLED


# --------------------------------------------------------------------------------------------- a sealed key


def sealed(ground: Ground, vault: Vault) -> Vault:
    """The same vault, sealed by an earlier run of fleet."""
    assert vault.seal(ground.answer)
    if isinstance(vault, FakeVault):
        vault.forget_passphrase()
        return vault
    return ground.vault()


@pytest.mark.parametrize("state", Rotation)
def test_a_sealed_key_is_needed_for_signing_alone_and_asked_for_once(
    ground: Ground, vault: Vault, state: Rotation
) -> None:
    STATES[state](vault).issue_bundle_credential("bob", LATER, lifetime=DAY * 90)
    before = vault.read()
    again = sealed(ground, vault)
    assert again.read() == replace(before, sealed=True)
    assert again.has_client()
    again.clients()
    again.revoke("bob", LATER)
    again.renew_nodes(LATER)
    if state is Rotation.OVERLAP:
        again.switch_authority()
    assert ground.asked == []
    for _ in range(2):
        again.issue_node(AMD, ["amd-1"], LATER)
        again.issue_bundle_credential("ada", LATER, lifetime=DAY)
    again.unlock()
    assert ground.asked == [ground.answer]
    assert not again.seal(ground.answer)
    assert again.seal(None)
    assert not again.seal(None)
    assert not again.read().sealed


def test_it_can_be_opened_before_it_is_needed(ground: Ground, vault: Vault) -> None:
    vault.unlock()
    settled(vault).unlock()
    again = sealed(ground, vault)
    assert ground.asked == []
    again.unlock()
    assert ground.asked == [ground.answer]
    again.issue_client("operator", LATER)
    assert ground.asked == [ground.answer]


def test_a_new_ca_is_sealed_as_the_old_one_was(ground: Ground, vault: Vault) -> None:
    settled(vault).seal(ground.answer)
    vault.begin_rotation("acme", LATER)
    vault.issue_client("operator", LATER, coming=True)
    vault.switch_authority()
    vault.end_rotation()
    assert vault.read().sealed


def test_a_wrong_passphrase_signs_nothing(ground: Ground) -> None:
    vault = sealed(ground, settled(ground.vault()))
    ground.answer = Passphrase("wrong horse")
    before = vault.read()
    attempts: list[Callable[[], object]] = [
        vault.unlock,
        lambda: vault.issue_client("operator", LATER),
        lambda: vault.begin_rotation("acme", LATER),
        lambda: vault.seal(None),
    ]
    for attempt in attempts:
        with pytest.raises(VaultError, match="does not open") as caught:
            attempt()
        assert caught.value.remedy
        assert "horse" not in f"{caught.value!r} {caught.value.remedy}"
    assert vault.read() == before


# ------------------------------------------------------------------------------- somebody else's certificates


@dataclass(frozen=True)
class Company:
    """A root, an intermediate that issues, and what it has issued; paths under which an inventory names them."""

    ground: Ground
    issuing: Credential
    tls: TlsSpec
    host: HostSpec
    files: dict[str, Credential]

    def vault(self, **changed: Credential) -> Vault:
        return self.ground.vault(
            self.tls, self.host, files=self.files | {self.ground.path(f"{k}.pem"): v for k, v in changed.items()}
        )


@pytest.fixture
def company(ground: Ground) -> Company:
    root = forge("root", CA, at=NOW - DAY, days=400)
    made = forge("issuing", CA, key_usage("key_cert_sign"), at=NOW - DAY, signer=root, days=400)
    issuing = Credential(made.certificate + root.certificate, made.key)
    host = HostSpec("arm-1", "10.0.0.21", tls=KeyPair(ground.path("node.pem"), ground.path("node.pem")))
    files = {
        ground.path("ca.pem"): issuing,
        ground.path("client.pem"): issue_client(issuing, "somebody", now=NOW),
        ground.path("node.pem"): issue_node(issuing, "arm", names=["10.0.0.21"], now=NOW),
    }
    ca = ground.path("ca.pem")
    return Company(ground, issuing, TlsSpec(ca=KeyPair(ca, ca)), host, files)


def test_the_inventorys_ca_is_taken_up_and_issues(company: Company) -> None:
    vault = company.vault()
    facts = vault.read()
    assert (facts.authority, facts.external, facts.can_sign) == (None, True, True)
    settled(vault)
    facts = vault.read()
    assert facts.authority_fingerprint == describe(company.issuing.certificate).fingerprint
    assert facts.trust == (facts.authority_fingerprint,) == (facts.client_authority,)
    credential, trust = vault.issue_node(AMD, ["amd-1"], NOW)
    assert trust == anchor(company.issuing.certificate)
    assert is_issued_by(credential.certificate, trust)
    vault.issue_bundle_credential("ada", NOW, lifetime=DAY)
    assert [one.authority for one in vault.clients()] == [facts.authority_fingerprint]


def test_the_inventorys_ca_is_not_fleets_to_exchange_or_seal(company: Company) -> None:
    vault = settled(company.vault())
    before = vault.read()
    attempts: list[Callable[[], object]] = [
        lambda: vault.begin_rotation("acme", NOW),
        lambda: vault.seal(Passphrase("p")),
    ]
    for attempt in attempts:
        with pytest.raises(VaultError) as caught:
            attempt()
        assert caught.value.remedy
    assert vault.read() == before


def test_a_ca_that_is_not_valid_now_is_not_taken_up(company: Company) -> None:
    vault = company.vault()
    for moment, why in ((NOW - DAY * 2, "not valid before"), (NOW + DAY * 400, "expired on")):
        with pytest.raises(VaultError, match=why):
            vault.create_authority("acme", moment)


def test_a_ca_without_its_key_issues_nothing_and_nodes_bring_theirs(company: Company) -> None:
    ca, client = company.ground.path("ca.pem"), company.ground.path("client.pem")
    company = replace(company, tls=TlsSpec(ca=KeyPair(ca, None), client=KeyPair(client, client)))
    vault = company.vault()
    assert not vault.read().can_sign
    vault.create_authority("acme", NOW)
    facts = vault.read()
    assert (facts.can_sign, facts.sealed, facts.external) == (False, False, True)
    vault.unlock()
    attempts: list[Callable[[], object]] = [
        lambda: vault.issue_node(AMD, ["amd-1"], NOW),
        lambda: vault.issue_bundle_credential("ada", NOW, lifetime=DAY),
    ]
    for attempt in attempts:
        with pytest.raises(VaultError) as caught:
            attempt()
        assert caught.value.remedy
    assert vault.clients() == ()
    assert vault.issue_node(company.host, ["10.0.0.21"], NOW)[0] == company.files[company.ground.path("node.pem")]


def test_a_client_from_elsewhere_is_used_where_it_lies(company: Company) -> None:
    client = company.ground.path("client.pem")
    company = replace(company, tls=replace(company.tls, client=KeyPair(client, client)))
    vault = company.vault()
    assert (vault.client_files["cert"], vault.client_files["key"]) == (client, client)
    assert not vault.has_client()
    vault.create_authority("acme", NOW)
    facts = vault.read()
    assert vault.has_client()
    assert facts.client == CertificateFacts.of(describe(company.files[client].certificate))
    assert facts.client_authority == facts.authority_fingerprint


def test_a_node_brings_its_certificate(company: Company) -> None:
    vault = company.vault()
    node = company.files[company.ground.path("node.pem")]
    brought = {"arm-1": CertificateFacts.of(describe(node.certificate))}
    assert vault.read().brought == brought
    settled(vault)
    assert vault.read().brought == brought
    assert vault.issue_node(company.host, ["10.0.0.21", "arm-1"], NOW) == (node, anchor(company.issuing.certificate))


OTHER = create_authority("other", now=NOW)
UNFIT: Mapping[str, tuple[Callable[[Credential], Credential], str]] = {
    "a client's": (lambda ca: issue_client(ca, "arm", now=NOW), "client's certificate"),
    "of another CA": (lambda _: issue_node(OTHER, "arm", names=["10.0.0.21"], now=NOW), "not issued by a trusted CA"),
    "for another host": (lambda ca: issue_node(ca, "arm", names=["10.0.0.22"], now=NOW), "not valid for 10.0.0.21"),
    "of another key": (
        lambda ca: Credential(issue_node(ca, "arm", names=["10.0.0.21"], now=NOW).certificate, OTHER.key),
        "does not belong",
    ),
}


@pytest.mark.parametrize(("make", "why"), UNFIT.values(), ids=UNFIT)
def test_an_unfit_certificate_of_a_node_is_the_trouble_of_that_node(
    company: Company, make: Callable[[Credential], Credential], why: str
) -> None:
    vault = settled(company.vault(node=make(company.issuing)))
    told = vault.read().brought["arm-1"]
    assert isinstance(told, Down)
    assert "node.pem cannot be used" in told.reason
    assert why in told.reason
    assert told.remedy
    with pytest.raises(VaultError, match=why):
        vault.issue_node(company.host, ["10.0.0.21"], NOW)
    vault.issue_node(AMD, ["amd-1"], NOW)


def test_an_expired_certificate_of_a_node_is_told_by_its_date_and_not_handed_out(company: Company) -> None:
    vault = settled(company.vault())
    told = vault.read().brought["arm-1"]
    assert isinstance(told, CertificateFacts)
    assert told.expires == NOW + DAY * 365
    with pytest.raises(VaultError, match="expired on"):
        vault.issue_node(company.host, ["10.0.0.21"], told.expires)
