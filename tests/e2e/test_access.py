"""Access handed out and taken up, told in order: up, issue, join, build, leave. Each test goes on from the last."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fleet.adapters.buildkit import BuildkitProber
from fleet.inventory.parse import load
from fleet.model.facts import ApiFacts
from fleet.notes import joined
from tests.e2e.conftest import Operator
from tests.lab import Lab
from tests.support import pushed

PORT = 1251
AMD = ("amd-1", "amd-2")
SESAME = {"FLEET_BUNDLE_PASSPHRASE": "open sesame"}
DOCKERFILE = "ARG BASE\nFROM $BASE\nARG SALT\nRUN echo $SALT && uname -m > /machine\n"


@pytest.fixture(scope="module")
def member(operator: Operator, tmp_path_factory: pytest.TempPathFactory) -> Operator:
    """Somebody who has never logged in to a host."""
    home = tmp_path_factory.mktemp("member")
    (home / "Dockerfile").write_text(DOCKERFILE)
    return operator.elsewhere(home)


def notes_at(operator: Operator, name: str) -> dict[str, str]:
    """Client -> serial number that it has joined with, as the operator reads it."""
    files = {"cacert": str(operator.vault / "ca.pem")} | dict.fromkeys(
        ("cert", "key"), str(operator.vault / "client.pem")
    )
    answer = BuildkitProber(files).probe(load(operator.home / "inventory.yaml").host(name), timeout=10)
    assert isinstance(answer, ApiFacts), answer
    assert answer.notes is not None
    return joined(answer.notes)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_operator_issues_a_bundle(operator: Operator) -> None:
    operator.inventory(AMD)
    operator.json("up")
    done = operator.fleet("certs", "issue", "ci", "--days", "30")
    assert "access-ci.fleet-bundle: ci may use access until" in done.stdout
    assert "BuildKit has no roles" in done.stderr
    bundle = operator.home / "access-ci.fleet-bundle"
    assert bundle.stat().st_mode & 0o777 == 0o600
    assert "PRIVATE KEY" not in done.stdout + done.stderr


def test_no_bundle_is_overwritten_unasked(operator: Operator) -> None:
    bundle, ledger = operator.home / "access-ci.fleet-bundle", operator.vault / "clients"
    before = bundle.read_bytes(), sorted(ledger.iterdir())
    assert "is there already" in operator.fleet("certs", "issue", "ci", expect=2).stderr
    assert (bundle.read_bytes(), sorted(ledger.iterdir())) == before


def test_a_machine_without_ssh_joins(operator: Operator, member: Operator) -> None:
    shutil.copy(operator.home / "access-ci.fleet-bundle", member.home / "bundle")
    status = member.json("join", "bundle")
    assert status["joined"]["client"] == "ci"
    assert status["joined"]["days_left"] == 29
    assert status["builder"]["registered"] is True
    assert {node["name"]: node["health"] for node in status["nodes"]} == dict.fromkeys(AMD, "ready")
    assert {
        path.name: path.stat().st_mode & 0o777 for path in member.vault.iterdir() if path.is_file()
    } == dict.fromkeys(("ca.pem", "client.pem", "lock", "membership.json"), 0o600)
    assert member.vault.stat().st_mode & 0o777 == 0o700
    assert "PRIVATE KEY" not in (member.vault / "membership.json").read_text()


def test_the_builder_is_as_the_operators(operator: Operator, member: Operator) -> None:
    def stored(person: Operator) -> dict[str, tuple[str, list[str]]]:
        instance = json.loads((person.home / "buildx/instances" / person.name).read_text())
        return {
            node["Name"]: (node["Endpoint"], [entry["architecture"] for entry in node["Platforms"] or ()])
            for node in instance["Nodes"]
        }

    assert stored(member) == stored(operator)


def test_every_node_has_a_note_of_it(operator: Operator) -> None:
    (entry,) = (operator.vault / "clients").iterdir()
    serial = entry.stem.removeprefix("ci-")
    assert {name: notes_at(operator, name) for name in AMD} == {name: {"ci": serial} for name in AMD}


def test_status_there_needs_no_host(member: Operator) -> None:
    done = member.fleet("status")
    assert done.stdout.startswith("joined access as ci, until ")
    assert "fleet access: 2 of 2 ready, builder registered" in done.stdout


@pytest.mark.parametrize("command", [("docker", "buildx", "build", "--builder", "access"), ("fleet", "build")])
def test_it_builds_there(lab: Lab, member: Operator, command: tuple[str, ...]) -> None:
    registry, repository = lab.env()["LAB_REGISTRY"], f"e2e/access/{command[0]}"
    done = member.run(
        *command,
        *("--platform", "linux/amd64"),
        *("--build-arg", f"BASE={lab.env()['LAB_BASE_IMAGE']}", "--build-arg", f"SALT={member.home}"),
        *("--output", f"type=image,name={registry}/{repository}:1,push=true,registry.insecure=true"),
        ".",
    )
    assert done.returncode == 0, done.stderr
    assert pushed.read(registry, repository, "1")["linux/amd64"].files["machine"] == b"x86_64\n"


@pytest.mark.parametrize("command", [("up",), ("plan",), ("down", "--yes"), ("certs", "issue", "friend")], ids=str)
def test_what_needs_the_operator_says_so(member: Operator, command: tuple[str, ...]) -> None:
    before = tree(member.home)
    assert (
        "this needs an operator of access: this machine has joined it as ci" in member.fleet(*command, expect=2).stderr
    )
    assert tree(member.home) == before


def test_an_inventory_in_the_folder_changes_nothing(operator: Operator, member: Operator) -> None:
    shutil.copy(operator.home / "inventory.yaml", member.home)
    try:
        assert member.json("status", expect=None)["joined"]["client"] == "ci"
        assert "this needs an operator" in member.fleet("up", expect=2).stderr
    finally:
        (member.home / "inventory.yaml").unlink()


def test_a_broken_node_is_the_operators_to_mend(lab: Lab, member: Operator) -> None:
    lab.hosts["amd-2"].inflict("stop-daemon")
    try:
        done = member.fleet("status", expect=3)
        status = member.json("join", "bundle", expect=3)
    finally:
        lab.hosts["amd-2"].heal()
    assert "else tell the fleet's operator" in done.stdout
    assert {node["name"]: node["health"] for node in status["nodes"]}["amd-2"] == "down"


def test_a_newer_sealed_bundle_comes_through_a_pipe(operator: Operator, member: Operator) -> None:
    operator.inventory(AMD[:1])
    sealer, opener = (replace(person, environment={**person.environment, **SESAME}) for person in (operator, member))
    try:
        issued = sealer.json("certs", "issue", "ci", "--hours", "2", "--seal", "-o", "sealed")
    finally:
        operator.inventory(AMD)
    assert (issued["sealed"], issued["nodes"]) == (True, list(AMD[:1]))
    sealed = (operator.home / "sealed").read_text()
    assert "amd-1" not in sealed
    status = opener.json("join", "-", stdin=sealed)
    assert {node["name"]: node["health"] for node in status["nodes"]} == dict.fromkeys(AMD[:1], "ready")
    stored = json.loads((member.home / "buildx/instances/access").read_text())
    assert [node["Name"] for node in stored["Nodes"]] == list(AMD[:1])
    assert member.fleet("status").stdout.startswith("joined access as ci, until ")


def test_the_older_one_is_refused_then(member: Operator) -> None:
    before = tree(member.home)
    assert "the bundle is of " in member.fleet("join", "bundle", expect=2).stderr
    assert tree(member.home) == before


def test_the_operator_needs_no_bundle(operator: Operator) -> None:
    before = tree(operator.vault)
    assert "is the vault of an operator" in operator.fleet("join", "access-ci.fleet-bundle", expect=2).stderr
    assert "is an operator's vault" in operator.fleet("leave", "access", expect=2).stderr
    assert tree(operator.vault) == before


def test_leaving_leaves_nothing(member: Operator) -> None:
    said = member.json("leave")
    assert said["fleet"] == "access"
    assert len(said["removed"]) == 2
    assert not member.vault.exists()
    assert not (member.home / "buildx/instances/access").exists()
    assert member.json("leave") == {"fleet": None, "removed": []}
    assert "has joined no fleet" in member.fleet("status", expect=2).stderr
