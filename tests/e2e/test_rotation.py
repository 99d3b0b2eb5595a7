"""Certificates exchanged on real hosts: killed and resumed, withdrawn, brought and sealed.

While builds of every platform run: test_while_building.
"""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from fleet.adapters.buildkit import BuildkitProber
from fleet.errors import UsageError
from fleet.inventory.parse import load
from fleet.model.facts import ApiFacts, Stage
from tests.e2e.conftest import Operator
from tests.lab import Lab
from tests.support.building import Kind, build
from tests.support.lab import eventually

PORT = 1242

AMD = ("amd-1", "amd-2")


@pytest.fixture(scope="module", autouse=True)
def _deployed(operator: Operator) -> None:
    operator.inventory(AMD)
    operator.fleet("up")


@pytest.fixture(scope="module", autouse=True)
def member(operator: Operator, _deployed: None, tmp_path_factory: pytest.TempPathFactory) -> Operator:
    """Somebody who has joined, as ci, before all exchanges."""
    return joined(operator, "ci", tmp_path_factory.mktemp("ci"))


def joined(operator: Operator, name: str, home: Path) -> Operator:
    operator.fleet("certs", "issue", name)
    person = operator.elsewhere(home)
    join(person, operator.home / f"{operator.name}-{name}.fleet-bundle")
    return person


def join(person: Operator, bundle: Path) -> None:
    def joined() -> bool | None:
        # An emulated host may be slow to answer; joining again is harmless.
        run = person.fleet("join", str(bundle), expect=None)
        assert run.returncode != UsageError.exit_code, run.stderr
        return run.returncode == 0 or None

    eventually(joined)


def handed_out(operator: Operator, name: str) -> Path:
    """The bundle that an exchange has made for them."""
    return operator.vault / "bundles" / f"{operator.name}-{name}.fleet-bundle"


def refused(operator: Operator, client: Path, trust: Path, hosts: tuple[str, ...]) -> list[str]:
    """The nodes that refuse this certificate, not one another reason."""
    prober = BuildkitProber({"cacert": str(trust), "cert": str(client), "key": str(client)})
    spec = load(operator.home / "inventory.yaml")
    answers = {name: prober.probe(spec.host(name), timeout=10) for name in hosts}
    return [
        name
        for name, answer in answers.items()
        if not isinstance(answer, ApiFacts)
        and answer.stage is Stage.TLS
        and "refused this client's certificate" in answer.reason
    ]


def trusted_by(operator: Operator) -> str:
    """Which CA that is."""
    return hashlib.sha256((operator.vault / "ca.pem").read_bytes()).hexdigest()


def listed(operator: Operator) -> list[dict[str, Any]]:
    """The table of certificates, once every node was heard in time."""

    def look() -> list[dict[str, Any]] | None:
        entries: list[dict[str, Any]] = operator.json("certs", expect=None)["certificates"]
        return None if any(entry["in_use"] == "not heard" for entry in entries) else entries

    return eventually(look)


def is_settled(operator: Operator, hosts: tuple[str, ...]) -> str:
    """One CA, which every node serves a certificate of and trusts alone; nothing left over. Which CA it is."""
    assert {path.name for path in operator.vault.glob("*.pem")} == {"authority.pem", "ca.pem", "client.pem"}
    assert operator.json("plan", "--exit-code")["empty"] is True
    status = operator.settled_status()
    assert {node["name"]: node["health"] for node in status["nodes"]} == dict.fromkeys(hosts, "ready"), status
    assert [entry["state"] for entry in listed(operator) if entry["role"] == "CA"] == ["valid"]
    served = {entry["name"]: entry["in_use"] for entry in listed(operator) if entry["role"] == "node"}
    assert all("though" not in in_use and in_use.startswith("served at ") for in_use in served.values()), served
    trusted = trusted_by(operator)
    for name in hosts:
        host, container = operator.lab.hosts[name], f"fleet.{operator.name}.{name}"
        assert host.ssh(f"docker ps -a --format '{{{{.Names}}}}' --filter name={container}").split() == [container]
        assert trusted in host.ssh(f"docker exec {container} cat /etc/buildkit/tls/ca.pem | sha256sum")
    return trusted


# ------------------------------------------------------------------------------------------- killed and resumed


@dataclass(frozen=True, slots=True)
class Moment:
    """When to kill: once fleet has told these lines, one after the other, or once the vault's files `show` it."""

    name: str
    lines: tuple[str, ...] = ()
    show: Callable[[Path], bool] | None = None
    left_aside: bool = False
    """Whether a daemon has been set aside by then."""


def switched(vault: Path) -> bool:
    return (vault / "previous.pem").exists() and not (vault / "next.pem").exists()


MOMENTS = [
    Moment("a new CA is made", show=lambda vault: (vault / "next.pem").exists()),
    Moment("the first node is being taught", lines=("amd-1: create",), left_aside=True),
    Moment("one node is taught, the next is not", lines=("amd-2: keep new builds away",)),
    Moment("every node is taught", lines=("CA: every client has a bundle",)),
    Moment("the new CA issues", show=switched),
    Moment("a node is being renewed", lines=("CA: every node has a certificate", "amd-2: create"), left_aside=True),
    Moment("every node is renewed", lines=("CA: nobody trusts the old CA",)),
]


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.name)
def test_an_exchange_that_is_killed_is_resumed(operator: Operator, context: Path, moment: Moment) -> None:
    before = trusted_by(operator)
    began = time.monotonic()
    killed_at(operator, moment)
    stands = {name: operator.lab.hosts[name].ssh("docker ps -a --format '{{.Names}}'").split() for name in AMD}
    aside = [name for name in AMD if f"fleet.{operator.name}.{name}.aside" in stands[name]]
    assert bool(aside) is moment.left_aside
    files = sorted({path.name for path in operator.vault.glob("*.pem")} & {"next.pem", "previous.pem"})
    resumed = time.monotonic()
    assert operator.json("certs", "rotate", "ca", "--force")["done"] is True
    ended = time.monotonic()
    assert is_settled(operator, AMD) != before
    assert build(context, operator.lab.env()["LAB_BASE_IMAGE"], stock(operator)).code == 0
    print(  # noqa: T201 - the table to quote
        f"| {moment.name} | {', '.join(files) or '–'} | {', '.join(aside) or '–'} "
        f"| {resumed - began:.1f} s | {ended - resumed:.1f} s |"
    )


def test_an_exchange_that_is_interrupted_says_how_to_go_on(operator: Operator) -> None:
    before = trusted_by(operator)
    said = killed_at(operator, Moment("in the middle", lines=("amd-1: create",)), signal.SIGINT)
    assert "▸ every node trusts both\n  waits for amd-2\n" in said
    assert "stopped here; fleet certs rotate ca goes on" in said
    assert {node["name"]: node["health"] for node in operator.settled_status()["nodes"]} == dict.fromkeys(AMD, "ready")
    assert operator.json("certs", "rotate", "ca", "--force")["done"] is True
    assert is_settled(operator, AMD) != before


def killed_at(operator: Operator, moment: Moment, by: signal.Signals = signal.SIGKILL) -> str:
    """Begin an exchange, and end it there; what it printed."""

    def end(run: subprocess.Popen[str]) -> None:
        if (show := moment.show) is not None:
            eventually(lambda: show(operator.vault) or None)
        run.send_signal(by)

    run = operator.at("certs", "rotate", "ca", "--force", lines=moment.lines, do=end)
    assert run.returncode == {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130}[by]
    return run.stdout


def stock(person: Operator) -> Kind:
    argv = ("docker", "buildx", "build", "--builder", person.name, "--platform", "linux/amd64")
    return Kind("buildx", argv, person.env)


# ------------------------------------------------------------------------------------------------- withdrawn


def test_whoever_is_revoked_is_refused_by_every_node(
    operator: Operator, member: Operator, context: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = operator.lab.env()["LAB_BASE_IMAGE"]
    mallory, ada = (joined(operator, name, tmp_path_factory.mktemp(name)) for name in ("mallory", "ada"))
    assert build(context, base, stock(mallory)).code == 0
    said = operator.fleet("certs", "revoke", "mallory", expect=2).stderr
    assert "BuildKit knows no revocation" in said
    assert "ada, ci must join again" in said
    done = operator.json("certs", "revoke", "mallory", "--yes")
    assert (done["done"], sorted(done["bundles"])) == (True, ["ada", "ci"])
    is_settled(operator, AMD)
    for person in (mallory, ada):
        client = person.vault / "client.pem"
        assert refused(operator, client, operator.vault / "ca.pem", AMD) == list(AMD)
    join(ada, handed_out(operator, "ada"))
    # The exchanges before have cut this one off (--force): its CA is none that the bundle knows.
    member.fleet("leave")
    join(member, handed_out(operator, "ci"))
    for person in (ada, member, operator):
        assert build(context, base, stock(person)).code == 0
    assert {entry["name"] for entry in operator.json("certs")["certificates"] if entry["role"] == "client"} == {
        "operator",
        "ada",
        "ci",
    }


# ------------------------------------------------------------------------------------------------- sealed


def test_only_what_signs_needs_the_passphrase(operator: Operator, context: Path) -> None:
    knows = replace(operator, environment={"FLEET_CA_PASSPHRASE": "correct horse"})
    wrong = replace(operator, environment={"FLEET_CA_PASSPHRASE": "battery staple"})
    knows.fleet("certs", "seal")
    assert "ENCRYPTED PRIVATE KEY" in (operator.vault / "authority.pem").read_text()
    assert operator.json("plan", "--exit-code")["empty"] is True
    assert operator.json("up")["exit_code"] == 0
    assert build(context, operator.lab.env()["LAB_BASE_IMAGE"], stock(operator)).code == 0
    operator.settled_status()
    refusal = operator.fleet("certs", "rotate", "nodes", expect=None)
    assert refusal.returncode == 2
    assert "set FLEET_CA_PASSPHRASE" in refusal.stderr
    refusal = wrong.fleet("certs", "rotate", "nodes", expect=1)
    assert "the passphrase does not open it" in refusal.stderr
    assert len(refusal.stderr.splitlines()) <= 2
    assert operator.json("plan", "--exit-code")["empty"] is True
    secret = operator.home / "secret"
    secret.write_text("correct horse\n")
    operator.inventory(AMD, tls={"ca_passphrase_command": ["cat", str(secret)]})
    assert operator.json("certs", "rotate", "nodes")["exit_code"] == 0
    operator.fleet("certs", "seal", "--remove")
    operator.inventory(AMD)
    is_settled(operator, AMD)


# ------------------------------------------------------------------------------------------------- brought


@dataclass(frozen=True, slots=True)
class Company:
    """A root, its intermediates, and what they have issued, all made by openssl in one folder."""

    folder: Path

    def make(self, name: str, issuer: str | None, extensions: str) -> None:
        """A P-256 key and its certificate: NAME.key, NAME.pem."""
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key")
        self._run("req", *key, "-subj", f"/O=Company/CN={name}", "-out", f"{name}.csr")
        (self.folder / "extensions").write_text(extensions)
        signer = ("-CA", f"{issuer}.pem", "-CAkey", f"{issuer}.key") if issuer else ("-signkey", f"{name}.key")
        self._run(
            *("x509", "-req", "-in", f"{name}.csr", *signer, "-days", "300", "-CAcreateserial"),
            *("-extfile", "extensions", "-out", f"{name}.pem"),
        )
        (self.folder / f"{name}.key").chmod(0o600)

    def pair(self, name: str) -> dict[str, str]:
        return {"cert": str(self.folder / f"{name}.pem"), "key": str(self.folder / f"{name}.key")}

    def _run(self, *arguments: str) -> None:
        subprocess.run(("openssl", *arguments), cwd=self.folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def company(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Company:
    made = Company(tmp_path_factory.mktemp("company"))
    authority = (
        "basicConstraints=critical,CA:true{}\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n"
    )
    leaf = (
        "basicConstraints=critical,CA:false\nkeyUsage=critical,digitalSignature\nextendedKeyUsage={}\n"
        "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    made.make("root", None, authority.format(""))
    for intermediate in ("builds", "mail"):
        made.make(intermediate, "root", authority.format(",pathlen:0"))
    for intermediate in ("builds", "mail"):
        made.make(f"{intermediate}-client", intermediate, leaf.format("clientAuth"))
    address = lab.hosts["amd-2"].host.address
    made.make("amd-2", "builds", leaf.format("serverAuth") + f"subjectAltName=IP:{address}\n")
    return made


@pytest.fixture(scope="module")
def with_company(operator: Operator, company: Company, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """Another fleet on the same hosts, with the company's intermediate CA, client and certificate of amd-2."""
    other = replace(operator, home=tmp_path_factory.mktemp("with-company"), name="company", port=PORT + 1)
    tls = {"ca": company.pair("builds"), "client": company.pair("builds-client")}
    other.inventory(AMD, tls=tls, brought={"amd-2": company.pair("amd-2")})
    yield other
    other.fleet("down", "--volumes", "--yes", expect=None)


def test_certificates_of_a_company_are_used(with_company: Operator, company: Company, context: Path) -> None:
    with_company.fleet("up")
    assert with_company.json("plan", "--exit-code")["empty"] is True
    assert not list(with_company.vault.glob("authority.pem"))
    base = with_company.lab.env()["LAB_BASE_IMAGE"]
    assert build(context, base, stock(with_company)).code == 0
    listed = with_company.json("certs")["certificates"]
    assert {entry["name"]: entry["subject"] for entry in listed} == {
        "builds": "builds",
        "amd-1": "amd-1",
        "amd-2": "amd-2",
        "operator": "builds-client",
    }
    sibling = company.folder / "mail-both.pem"
    sibling.write_text("".join((company.folder / f"mail-client.{kind}").read_text() for kind in ("pem", "key")))
    assert refused(with_company, sibling, with_company.vault / "ca.pem", AMD) == list(AMD)


def test_a_company_exchanges_its_ca_itself(with_company: Operator) -> None:
    refusal = with_company.fleet("certs", "rotate", "ca", expect=1).stderr
    assert "somebody else's" in refusal
    assert with_company.json("certs", "rotate", "nodes")["exit_code"] == 0
    assert json.loads(with_company.fleet("plan", "--json").stdout)["empty"] is True
