"""`fleet certs list`, `rotate`, `revoke` and `seal` where no node answers; their tables and JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fleet.adapters.vault import FileVault
from fleet.applying import rotation
from fleet.applying.report import Outcome, Report, Result
from fleet.applying.rotation import Exchange, Step
from fleet.certificates import Entry, Role, State
from fleet.cli import passphrase
from fleet.cli.certs import VaultBundles
from fleet.cli.certs_output import certificates_json, exchange_json, show_certificates, show_exchange
from fleet.cli.world import world_of
from fleet.inventory.parse import load
from fleet.model.facts import CertificateFacts, NodeFacts
from fleet.model.vault import Asked, Rotation
from tests.support.tls import CA as IS_CA
from tests.support.tls import forge, key_usage
from tests.support.values import NOW, certificate, facts
from tests.unit.conftest import INVENTORY, Run

TODAY = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)


@pytest.fixture
def vault(home: Path, monkeypatch: pytest.MonkeyPatch) -> FileVault:
    """The vault of an operator, still empty, on a machine without a terminal."""
    monkeypatch.setattr(passphrase, "_TERMINAL", home / "no-terminal")
    monkeypatch.delenv("FLEET_CA_PASSPHRASE", raising=False)
    return FileVault(home / "vaults/acme")


@pytest.fixture
def operator(vault: FileVault) -> FileVault:
    vault.create_authority("acme", TODAY)
    vault.issue_client("operator", TODAY)
    return vault


def contents(vault: FileVault) -> dict[str, bytes]:
    files = (path for path in vault.directory.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(vault.directory)): path.read_bytes() for path in files}


# ---------------------------------------------------------------------------------------------------- list


def test_a_fleet_that_is_not_yet_made_has_a_table_too(run: Run) -> None:
    code, out, err = run("certs")
    assert (code, err) == (0, "")
    assert [line.split()[:3] for line in out.splitlines()[1:]] == [
        ["node", "amd-1", "unknown"],
        ["client", "operator", "unknown"],
    ]


@pytest.mark.parametrize("before", [("-i", "here.yaml"), ("--inventory=here.yaml",), ("--inventory", "here.yaml")])
def test_the_inventory_may_be_said_before_the_command(
    home: Path, run: Run, operator: FileVault, before: tuple[str, ...]
) -> None:
    (home / "inventory.yaml").rename(home / "here.yaml")
    assert run("certs", *before)[0] == 0
    assert run("certs", *before, "list", "--json")[0] == 0
    assert run("certs", *before, "issue", "ci")[0] == 0
    assert [one.name for one in operator.clients()] == ["ci"]
    code, _, err = run("certs", *before, "isue", "ci")
    assert (code, "No such command 'isue'" in err) == (2, True)


@pytest.mark.parametrize("typed", [("certs", "--json"), ("certs", "list", "--json")])
def test_the_list_as_json(run: Run, operator: FileVault, typed: tuple[str, ...]) -> None:
    operator.issue_bundle_credential("ci", TODAY, lifetime=timedelta(hours=8))
    code, out, _ = run(*typed)
    assert code == 0
    authority, node, client, ci = json.loads(out)["certificates"]
    assert (authority["role"], authority["days_left"], authority["in_use"]) == ("CA", 3649, "issues")
    assert re.fullmatch(r"acme CA [0-9-]{10} [0-9a-f]{4}", authority["name"])
    assert node == {
        "role": "node",
        "name": "amd-1",
        "subject": None,
        "state": "unknown",
        "serial": None,
        "names": [],
        "issued": None,
        "expires": None,
        "days_left": None,
        "in_use": "silent (TCP: 127.0.0.1:1 refused the connection)",
    }
    assert (client["name"], client["subject"], client["in_use"]) == ("operator", "operator", "this machine")
    assert ci == {
        "role": "client",
        "name": "ci",
        "subject": "ci",
        "state": "valid",
        "serial": operator.clients()[0].certificate.serial,
        "names": [],
        "issued": TODAY.isoformat(),
        "expires": (TODAY + timedelta(hours=8)).isoformat(),
        "days_left": 0,
        "in_use": "no node has seen it join",
    }


@pytest.mark.parametrize(
    ("prepare", "code"),
    [
        pytest.param(lambda vault: vault.issue_client("operator", TODAY), 0, id="all is well"),
        pytest.param(lambda vault: vault.issue_client("operator", TODAY - 366 * DAY), 1, id="this machine's"),
        pytest.param(
            lambda vault: vault.issue_bundle_credential("ci", TODAY - 9 * DAY, lifetime=DAY), 0, id="another client's"
        ),
    ],
)
def test_it_fails_once_something_has_expired_that_the_fleet_needs(
    run: Run, vault: FileVault, prepare: Callable[[FileVault], object], code: int
) -> None:
    vault.create_authority("acme", TODAY - 400 * DAY)
    vault.issue_client("operator", TODAY)
    prepare(vault)
    assert run("certs")[0] == code


def entry(role: Role, name: str, state: State, found: CertificateFacts | None, in_use: str) -> Entry:
    return Entry(role, name, state, found, (found.expires - NOW).days if found else None, in_use)


def test_a_row_a_certificate(capsys: pytest.CaptureFixture[str]) -> None:
    issued = NOW - 30 * DAY
    node = replace(certificate(335, "10.0.0.11", "amd-1", serial="c0ffee" * 6, subject="amd-1"), issued=issued)
    brief = replace(certificate(1, serial="b1ef", subject="ci"), issued=NOW)
    show_certificates(
        [
            entry(Role.NODE, "amd-1", State.VALID, node, "served at amd-1:1234"),
            entry(Role.NODE, "arm-1", State.MISSING, None, "silent"),
            entry(Role.CLIENT, "ci", State.RENEW, brief, "nobody knows of it"),
        ]
    )
    assert capsys.readouterr().out.splitlines() == [
        "role    name   state    days  issued      expires           serial    in use                subject, names",
        "node    amd-1  valid    335   2030-04-01  2031-04-01        c0ffeec0  served at amd-1:1234  amd-1, 10.0.0.11",
        "node    arm-1  unknown  –     –           –                 –         silent",
        "client  ci     renew    1     2030-05-01  2030-05-02 12:00  b1ef      nobody knows of it    ci",
    ]
    assert certificates_json("acme", [])["certificates"] == []


# ---------------------------------------------------------------------------------------------------- rotate


@pytest.mark.parametrize("what", ["nodes", "clients", "ca"])
def test_a_fleet_that_is_not_yet_made_cannot_be_rotated(home: Path, run: Run, what: str) -> None:
    code, out, err = run("certs", "rotate", what)
    assert (code, out) == (1, "")
    assert "there is no client certificate of acme here" in err
    assert "try: fleet up" in err
    assert not (home / "vaults/acme/authority.pem").exists()


def test_an_exchange_names_the_node_that_it_waits_for(run: Run, operator: FileVault) -> None:
    code, out, err = run("certs", "rotate", "ca", "--json")
    printed = json.loads(out)
    assert (code, printed["step"], printed["waiting"], printed["done"]) == (1, "teach", ["amd-1"], False)
    assert printed["report"]["nodes"][0]["failure"]["stage"] == "SSH"
    assert err == ""
    assert operator.read().rotation is Rotation.OVERLAP
    out = run("certs", "rotate", "ca", "--force")[1]
    assert "✓ a new CA is made\n▸ every node trusts both\n  waits for amd-1\n· every client" in out
    assert "the exchange of the CA is not finished" in run("status")[1]
    assert "takes over: fleet certs rotate ca goes on" in run("certs")[1]


def test_every_client_gets_a_bundle_in_the_vault(run: Run, operator: FileVault) -> None:
    before = contents(operator)["client.pem"]
    for name, lifetime in (("ada", 30 * DAY), ("gone", timedelta(seconds=1)), ("lost", DAY)):
        operator.issue_bundle_credential(name, TODAY - 2 * timedelta(minutes=1), lifetime=lifetime)
    operator.revoke("lost", TODAY)
    code, out, _ = run("certs", "rotate", "clients", "--json")
    path = operator.directory / "bundles/acme-ada.fleet-bundle"
    assert (code, json.loads(out)["bundles"]) == (0, {"ada": str(path)})
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert contents(operator)["client.pem"] != before


def test_without_clients_it_says_what_was_renewed(run: Run, operator: FileVault) -> None:
    before = contents(operator)["client.pem"]
    assert run("certs", "rotate", "clients") == (0, "", "this machine's certificate was renewed\n")
    assert contents(operator)["client.pem"] != before


@pytest.mark.parametrize("what", ["nodes", "clients", "ca"])
def test_an_interrupt_tells_of_an_exchange_where_there_is_one(
    run: Run, operator: FileVault, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    assert operator.has_client()
    monkeypatch.setattr(rotation, "observe", interrupt)
    code, _, err = run("certs", "rotate", what)
    assert code == 130
    assert ("there is a new CA beside the old one" in err) is (what == "ca")
    assert ("CA" in err) is (what == "ca")


def test_a_bundle_is_known_by_the_certificate_in_it(home: Path, operator: FileVault) -> None:
    spec = load(home / "inventory.yaml")
    bundles, found = VaultBundles(spec, world_of(spec)), facts({host.name: NodeFacts() for host in spec.hosts})
    asked = Asked(DAY, TODAY + DAY)
    path = bundles.make("ci", asked, found)
    [first] = operator.clients()
    assert (bundles.find(first), bundles.find(replace(first, name="ada"))) == (path, None)
    assert bundles.make("ci", asked, found) == path
    [again] = (client for client in operator.clients() if client != first)
    assert (bundles.find(first), bundles.find(again)) == (None, path)
    bundles.make("ada", asked, found)
    (path.parent / "acme-left.fleet-bundle").write_text("a bundle of somebody who was forgotten")
    assert bundles.keep([first, again]) == (
        path.parent / "acme-ada.fleet-bundle",
        path.parent / "acme-left.fleet-bundle",
    )
    assert list(path.parent.iterdir()) == [path]
    path.write_text("torn")
    assert bundles.find(again) is None
    assert bundles.keep([again]) == (path,)


REPORT = Report((Outcome("amd-1", Result.FAILED), Outcome("arm-1", Result.DONE)), Outcome("builder", Result.UNCHANGED))
BUNDLE = Path("/vault/bundles/acme-ci.fleet-bundle")


@pytest.mark.parametrize(
    ("done", "said", "printed"),
    [
        pytest.param(
            Exchange(Step.TEACH, ("amd-1",), report=REPORT),
            [
                "✓ a new CA",
                "▸ every node trusts both",
                "  waits for amd-1",
                "· every client",
                "then fleet certs rotate ca",
                "goes on trusting the old CA",
                "fleet down --host NAME",
            ],
            {"step": "teach", "waiting": ["amd-1"], "done": False},
            id="a node",
        ),
        pytest.param(
            Exchange(
                Step.RENEW,
                ("amd-1",),
                report=replace(REPORT, nodes=(Outcome("amd-1", Result.STOPPED), *REPORT.nodes[1:])),
            ),
            ["▸ every node has", "stopped here; fleet certs rotate ca goes on"],
            {"step": "renew", "waiting": ["amd-1"], "done": False},
            id="interrupted",
        ),
        pytest.param(
            Exchange(Step.HAND_OUT, ("ci",), {"ci": BUNDLE}),
            [f"ci: hand over {BUNDLE}", "▸ every client", "  waits for ci", "fleet certs rotate ca --force"],
            {"step": "hand out", "waiting": ["ci"], "bundles": {"ci": str(BUNDLE)}, "report": None},
            id="a client",
        ),
        pytest.param(
            Exchange(Step.BEGIN, ("ci",), {"ci": BUNDLE}),
            [f"ci: hand over {BUNDLE}", "▸ a new CA is made\n  waits for ci", "bundles of the present CA first"],
            {"step": "begin", "waiting": ["ci"], "done": False},
            id="a client of the one before",
        ),
        pytest.param(
            Exchange(None, bundles={"ci": BUNDLE}),
            ["✓ nobody trusts the old CA", "ci: no access to acme until they join with their new bundles"],
            {"step": None, "done": True, "waiting": []},
            id="forced",
        ),
        pytest.param(
            Exchange(None, removed=(BUNDLE,)),
            [f"removed {BUNDLE}", "✓ nobody trusts the old CA"],
            {"step": None, "done": True, "removed": [str(BUNDLE)], "bundles": {}},
            id="done",
        ),
    ],
)
def test_how_far_an_exchange_is(
    done: Exchange, said: list[str], printed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    show_exchange("acme", done, None)
    out = capsys.readouterr().out
    assert [text for text in said if text not in out] == []
    shown = json.loads(json.dumps(exchange_json("acme", done)))
    assert set(shown) == {"fleet", "done", "step", "waiting", "bundles", "removed", "report"}
    assert {key: shown[key] for key in printed} == printed


# ---------------------------------------------------------------------------------------------------- revoke


def test_revoking_asks_first(run: Run, operator: FileVault) -> None:
    for name in ("ada", "mallory"):
        operator.issue_bundle_credential(name, TODAY, lifetime=DAY)
    before = contents(operator)
    code, out, err = run("certs", "revoke", "mallory")
    assert (code, out) == (2, "")
    assert "BuildKit knows no revocation: to keep mallory out, the CA of acme is exchanged" in err
    assert "and ada must join again with a new bundle" in err
    assert contents(operator) == before


def test_revoking_is_remembered_while_a_node_is_waited_for(run: Run, operator: FileVault) -> None:
    for name in ("ada", "mallory"):
        operator.issue_bundle_credential(name, TODAY, lifetime=DAY)
    code, out, _ = run("certs", "revoke", "mallory", "--yes")
    assert code == 1
    assert "then fleet certs revoke mallory" in out
    assert {client.name: client.revoked for client in operator.clients()} == {"ada": False, "mallory": True}
    assert "still let in: fleet certs revoke goes on" in run("certs")[1]
    # Nothing to ask any more: it is under way.
    assert run("certs", "revoke", "mallory")[0] == 1


def test_only_who_has_a_certificate_can_be_revoked(run: Run, operator: FileVault) -> None:
    operator.issue_bundle_credential("ada", TODAY, lifetime=DAY)
    code, _, err = run("certs", "revoke", "mallory")
    assert code == 1
    assert "no certificate was issued to 'mallory'" in err
    assert "one of: ada" in err
    assert operator.read().rotation is Rotation.SETTLED


@pytest.fixture
def company(home: Path, vault: FileVault) -> FileVault:
    """A vault whose CA is somebody else's."""
    made = forge("company", IS_CA, key_usage("key_cert_sign"), at=TODAY - DAY)
    for name, content in (("ca.pem", made.certificate), ("ca.key", made.key.reveal())):
        (home / name).write_bytes(content)
        (home / name).chmod(0o600)
    (home / "inventory.yaml").write_text(INVENTORY + "tls: {ca: {cert: ca.pem, key: ca.key}}\n")
    return vault


@pytest.mark.parametrize("command", [("rotate", "ca"), ("revoke", "ada", "--yes")], ids=str)
def test_a_ca_of_somebody_elses_is_not_exchanged(home: Path, run: Run, company: FileVault, command: Any) -> None:
    run("up")
    spec = load(home / "inventory.yaml")
    theirs = FileVault(company.directory, spec.tls, spec.hosts)
    theirs.create_authority("acme", TODAY)
    theirs.issue_client("operator", TODAY)
    theirs.issue_bundle_credential("ada", TODAY, lifetime=DAY)
    before = contents(company)
    code, out, err = run("certs", *command)
    assert (code, out) == (1, "")
    assert "somebody else's" in err
    assert len(err.splitlines()) == 2
    assert contents(company) == before


def test_who_has_no_access_any_more_costs_no_exchange(run: Run, vault: FileVault) -> None:
    vault.create_authority("acme", TODAY - 9 * DAY)
    vault.issue_client("operator", TODAY)
    vault.issue_bundle_credential("ada", TODAY, lifetime=DAY)
    vault.issue_bundle_credential("gone", TODAY - 2 * DAY, lifetime=DAY)
    before = contents(vault)
    ended = f"gone: its certificate ended on {TODAY - DAY:%Y-%m-%d}: nothing to withdraw\n"
    assert run("certs", "revoke", "gone") == (0, ended, "")
    code, out, _ = run("certs", "revoke", "gone", "--json")
    assert (code, json.loads(out)["done"]) == (0, True)
    assert contents(vault) == before
    assert vault.read().rotation is Rotation.SETTLED


# ---------------------------------------------------------------------------------------------------- seal


def test_a_key_is_sealed_and_opened_again(run: Run, operator: FileVault, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(operator)
    assert "FLEET_CA_PASSPHRASE" in run("certs", "seal")[2]
    assert contents(operator) == before
    monkeypatch.setenv("FLEET_CA_PASSPHRASE", "correct horse")
    assert run("certs", "seal") == (0, "", "the key of the CA of acme is sealed; what signs asks for the passphrase\n")
    assert b"ENCRYPTED" in contents(operator)["authority.pem"]
    assert "its key is sealed" in run("certs")[1]
    monkeypatch.setenv("FLEET_CA_PASSPHRASE", "battery staple")
    sealed = contents(operator)
    for command in (("seal", "--remove"), ("rotate", "nodes"), ("rotate", "ca")):
        code, out, err = run("certs", *command)
        assert (code, out) == (1, "")
        assert "the passphrase does not open it" in err
        assert contents(operator) == sealed
    monkeypatch.setenv("FLEET_CA_PASSPHRASE", "correct horse")
    assert run("certs", "seal", "--remove")[0] == 0
    assert contents(operator) == before


def test_another_passphrase_needs_a_source_of_its_own(
    run: Run, operator: FileVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("certs", "seal", "--remove")[2] == (
        "the key of the CA of acme is stored in the clear already: nothing was changed\n"
    )
    monkeypatch.setenv("FLEET_CA_PASSPHRASE", "correct horse")
    run("certs", "seal")
    sealed = contents(operator)
    code, _, err = run("certs", "seal")
    assert (code, "to seal it with another one, set FLEET_CA_NEW_PASSPHRASE" in err) == (2, True)
    monkeypatch.setenv("FLEET_CA_NEW_PASSPHRASE", "correct horse")
    assert run("certs", "seal") == (
        *(0, ""),
        "the key of the CA of acme is sealed with this passphrase already: nothing was changed\n",
    )
    assert contents(operator) == sealed
    monkeypatch.setenv("FLEET_CA_NEW_PASSPHRASE", "battery staple")
    assert run("certs", "seal") == (0, "", "the key of the CA of acme is sealed with the new passphrase\n")
    assert run("certs", "seal", "--remove")[0] == 1
    monkeypatch.setenv("FLEET_CA_PASSPHRASE", "battery staple")
    assert run("certs", "seal", "--remove")[0] == 0


def test_there_is_nothing_to_seal_yet(run: Run) -> None:
    code, _, err = run("certs", "seal")
    assert code == 1
    assert "acme has no CA yet" in err
