"""`fleet certs issue`, `join` and `leave` where no node answers: files, refusals, and which fleet is meant."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from certs import authority
from certs.bundle import Bundle, BundleNode, pack, unpack
from certs.certificate import Credential, describe
from certs.keys import Passphrase
from fleet.adapters import client_files, membership, pem_files
from fleet.adapters.membership import MemberVault
from fleet.adapters.vault import FileVault
from fleet.cli import joining, passphrase
from fleet.cli.world import described_by
from fleet.errors import UsageError, VaultError
from tests.unit.conftest import INVENTORY, Run
from tests.unit.test_cli import python

NOW = datetime.now(UTC)
CA = authority.create_authority("acme CA", now=NOW - timedelta(days=400))
OTHER = authority.create_authority("acme CA", now=NOW - timedelta(days=400))
NODES = (BundleNode("amd-1", "127.0.0.1", 1, ("127.0.0.1",), ()),)


TakeUp: TypeAlias = Callable[..., tuple[int, str, str]]


def bundle(
    ca: Credential = CA,
    *,
    fleet: str = "acme",
    issued: datetime = NOW,
    days: float = 30,
    trust: bytes = b"",
    nodes: tuple[BundleNode, ...] = NODES,
) -> Bundle:
    client = authority.issue_client(ca, "ci", now=issued, lifetime=timedelta(days=days))
    return Bundle(fleet, "ci", issued, trust or ca.certificate, client, nodes)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything under a folder: files with their content, folders."""
    return {str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes() for path in folder.rglob("*")}


@pytest.fixture
def machine(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without inventory and terminal, on which docker says its version and nothing more."""
    (home / "inventory.yaml").unlink()
    docker = home / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text("#!/bin/sh\necho github.com/docker/buildx v0.36.1 0000000\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{docker.parent}:/usr/bin:/bin")
    monkeypatch.setattr(passphrase, "_TERMINAL", home / "no-terminal")
    return home


@pytest.fixture
def take_up(machine: Path, run: Run) -> TakeUp:
    """Joins with a bundle, whose nodes do not answer."""

    def call(given: Bundle, *options: str) -> tuple[int, str, str]:
        (machine / "given").write_bytes(pack(given))
        return run("join", *options, "given")

    return call


def serial(given: Bundle) -> str:
    return describe(given.credential.certificate).serial


# --------------------------------------------------------------------------------------------------- join


def test_joining_keeps_the_keys_and_says_what_works(machine: Path, take_up: TakeUp) -> None:
    given = bundle()
    code, out, err = take_up(given)
    assert code == 1  # no node answers
    assert out.startswith("joined acme as ci, until ")
    assert "amd-1: TCP: 127.0.0.1:1 refused the connection" in out
    assert "PRIVATE KEY" not in out + err
    folder = machine / "vaults" / "acme"
    assert (folder.stat().st_mode & 0o777, (folder / "client.pem").stat().st_mode & 0o777) == (0o700, 0o600)
    facts = MemberVault(folder).read()
    assert facts.client
    assert facts.client.serial == serial(given)
    assert facts.trust == (describe(CA.certificate).fingerprint,)


def test_what_joining_prints_is_one_json_document(take_up: TakeUp) -> None:
    code, out, _ = take_up(bundle(), "--json")
    printed = json.loads(out)
    assert code == 1
    assert printed["joined"] == {
        "client": "ci",
        "expires": (NOW + timedelta(days=30)).replace(microsecond=0).isoformat(),
        "days_left": 29,
    }
    assert [node["health"] for node in printed["nodes"]] == ["down"]


def test_a_newer_bundle_takes_the_place_of_the_older(machine: Path, take_up: TakeUp) -> None:
    take_up(bundle())
    both = CA.certificate + OTHER.certificate
    newer = bundle(OTHER, issued=NOW + timedelta(minutes=1), trust=both)
    take_up(newer)
    facts = MemberVault(machine / "vaults" / "acme").read()
    assert facts.client
    assert (facts.client.serial, len(facts.trust)) == (serial(newer), 2)


def test_an_older_bundle_is_taken_when_forced(machine: Path, take_up: TakeUp) -> None:
    take_up(bundle())
    older = bundle(issued=NOW - timedelta(days=1))
    assert take_up(older)[0] == 2
    assert take_up(older, "--force")[0] == 1
    assert membership.load("acme").joined
    assert (machine / "vaults/acme/client.pem").read_bytes().startswith(older.credential.certificate)


@pytest.mark.parametrize("failing", range(3))
@pytest.mark.parametrize("before", [None, bundle(issued=NOW - timedelta(hours=1))], ids=["first", "again"])
def test_an_interrupted_join_is_completed_by_the_next(
    machine: Path,
    take_up: TakeUp,
    monkeypatch: pytest.MonkeyPatch,
    before: Bundle | None,
    failing: int,
) -> None:
    if before:
        take_up(before)
    given, written, write = bundle(), 0, pem_files.write

    def torn(path: Path, content: bytes) -> None:
        nonlocal written
        if written == failing:
            raise OSError(28, "No space left on device", str(path))
        written += 1
        write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(pem_files, "write", torn)
        code, _, err = take_up(given)
    assert (code, "No space left on device" in err) == (1, True)
    take_up(given)
    facts = MemberVault(machine / "vaults" / "acme").read()
    assert facts.client
    assert facts.client.serial == serial(given)


def from_stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_a_sealed_bundle_may_come_from_a_pipe(machine: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_BUNDLE_PASSPHRASE", "open sesame")
    from_stdin(monkeypatch, pack(bundle(), Passphrase("open sesame")))
    assert run("join", "-")[0] == 1
    assert MemberVault(machine / "vaults" / "acme").read().client


def test_a_builder_of_that_name_that_is_somebody_elses_stays(machine: Path, run: Run) -> None:
    (machine / "buildx/instances").mkdir(parents=True)
    stored = {"Name": "acme", "Driver": "docker-container", "Nodes": []}
    (machine / "buildx/instances/acme").write_text(json.dumps(stored))
    (machine / "given").write_bytes(pack(bundle()))
    before = tree(machine)
    code, _, err = run("join", "given")
    assert (code, "docker buildx rm acme" in err) == (2, True)
    assert tree(machine) == before


def test_a_builder_that_cannot_be_made_is_told_after_all_else(machine: Path, take_up: TakeUp) -> None:
    nodes = (BundleNode("amd-1", "127.0.0.1", 1, ("127.0.0.1",), ("linux/amd64",)),)
    code, out, err = take_up(bundle(nodes=nodes))
    assert (code, "amd-1: TCP: " in out) == (1, True)
    assert "buildx did not store node amd-1" in err
    assert MemberVault(machine / "vaults" / "acme").read().client


# ---------------------------------------------------------------------------------------------- bad bundles


def forged(**changed: Any) -> bytes:
    """A bundle with a sound checksum that fleet would not make."""
    whole = json.loads(pack(bundle()))
    content = json.dumps(whole["bundle"] | changed, separators=(",", ":"), ensure_ascii=False)
    covered = f'{{"format":"fleet-bundle","version":1,"bundle":{content}'.encode()
    return covered + b',"checksum":"%s"}\n' % hashlib.sha256(covered).hexdigest().encode()


def a_node(**changed: Any) -> list[dict[str, Any]]:
    return [json.loads(pack(bundle()))["bundle"]["nodes"][0] | changed]


SOUND = pack(bundle())


@cache
def sealed() -> bytes:
    return pack(bundle(), Passphrase("not theirs"))


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "is empty"),
    "not a bundle": (lambda: b"fleet: acme\n", "is no bundle"),
    "binary": (lambda: bytes(range(256)), "is no bundle"),
    "truncated": (lambda: SOUND[:-40], "is cut off"),
    "its first half": (lambda: SOUND[: len(SOUND) // 2], "is cut off"),
    "without its beginning": (lambda: SOUND[100:], "is no bundle"),
    "tampered with": (lambda: SOUND.replace(b"127.0.0.1", b"127.0.0.2", 1), "was changed"),
    "sealed and tampered with": (lambda: sealed().replace(b'"sealed":"', b'"sealed":"A', 1), "was changed"),
    "sealed with another passphrase": (sealed, "does not open the bundle"),
    "of a later version": (lambda: SOUND.replace(b'"version":1', b'"version":2', 1), "upgrade it"),
    "huge": (lambda: SOUND + b" " * (1 << 20), "larger than 1 MiB"),
    "expired": (lambda: pack(bundle(issued=NOW - timedelta(days=40))), "it expired on"),
    "of tomorrow": (lambda: pack(bundle(issued=NOW + timedelta(days=1))), "it is not valid before"),
    "for another folder": (lambda: forged(fleet="../../etc"), "fleet is not as it must be"),
    "for a hidden folder": (lambda: forged(fleet=".ssh"), "fleet is not as it must be"),
    "for an absolute folder": (lambda: forged(fleet="/etc"), "fleet is not as it must be"),
    "for a name of two lines": (lambda: forged(fleet="acme\n"), "fleet is not as it must be"),
    "for an option": (lambda: forged(nodes=a_node(name="--driver")), "nodes.0.name is not as it must be"),
    "for a client that is a path": (lambda: forged(client="a/b"), "client is not as it must be"),
    "with an endpoint that is an option": (
        lambda: forged(nodes=a_node(address="-x")),
        "nodes.0.address is not as it must be",
    ),
    "with a port that is none": (lambda: forged(nodes=a_node(port=70000)), "nodes.0.port is not as it must be"),
    "with a node twice": (lambda: forged(nodes=a_node() * 2), "is not as it must be"),
    "with nothing to do": (lambda: forged(nodes=[]), "names no nodes"),
    "with a platform of the future": (
        lambda: forged(nodes=a_node(platforms=["linux/z80"])),
        "does not know how to use",
    ),
    "with the key of another": (lambda: forged(key=json.loads(pack(bundle()))["bundle"]["key"]), "does not belong to"),
    "of a CA that it does not bring": (lambda: forged(trust=OTHER.certificate.decode()), "not issued by a trusted CA"),
}


@pytest.mark.parametrize(("content", "complaint"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("after", ["nothing", "a join"])
def test_a_bad_bundle_is_one_clear_line_and_changes_nothing(
    machine: Path,
    run: Run,
    take_up: TakeUp,
    monkeypatch: pytest.MonkeyPatch,
    after: str,
    content: Callable[[], bytes],
    complaint: str,
) -> None:
    if after == "a join":
        take_up(bundle(issued=NOW - timedelta(days=100), days=365))
    bad = content()
    (machine / "bad").write_bytes(bad)
    monkeypatch.setenv("FLEET_BUNDLE_PASSPHRASE", "open sesame")
    for source in ("bad", "-"):
        from_stdin(monkeypatch, bad)
        before = tree(machine)
        code, out, err = run("join", source)
        assert (code, out) == (2, "")
        assert complaint in err.splitlines()[0]
        assert [line[:7] for line in err.splitlines()] in (["fleet: ", "  try: "], ["fleet: "])
        assert not [line for line in bad.decode(errors="replace").split("\\n") if len(line) == 64 and line in err]
        assert tree(machine) == before


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("absent", "absent cannot be read: No such file or directory"),
        (".", ". cannot be read: Is a directory"),
        ("file/below", "file/below cannot be read: Not a directory"),
        ("/proc/self/mem", "/proc/self/mem cannot be read: Input/output error"),
        ("sealed", "the bundle is sealed with a passphrase, and there is no terminal to ask on"),
    ],
)
def test_a_bundle_that_cannot_be_read_is_told(machine: Path, run: Run, source: str, complaint: str) -> None:
    (machine / "file").touch()
    (machine / "sealed").write_bytes(sealed())
    before = tree(machine)
    code, _, err = run("join", source)
    assert (code, err.splitlines()[0]) == (2, f"fleet: {complaint}")
    assert tree(machine) == before


def test_another_fleet_of_that_name_is_refused(machine: Path, take_up: TakeUp) -> None:
    take_up(bundle())
    other = bundle(OTHER, issued=NOW + timedelta(minutes=1))
    (machine / "given").write_bytes(pack(other))
    before = tree(machine)
    code, _, err = take_up(other)
    assert (code, "fleet leave acme" in err) == (2, True)
    assert tree(machine) == before


@pytest.mark.parametrize("present", ["authority.pem", "client.pem", "ca.pem"])
def test_a_vault_of_an_operator_is_not_joined_over(machine: Path, take_up: TakeUp, present: str) -> None:
    (machine / "vaults/acme").mkdir(parents=True, mode=0o700)
    (machine / "vaults/acme" / present).touch(0o600)
    (machine / "given").write_bytes(pack(bundle()))
    before = tree(machine)
    code, _, err = take_up(bundle())
    before["given"] = (machine / "given").read_bytes()
    assert (code, "is the vault of an operator" in err) == (2, True)
    assert tree(machine) == before


@pytest.mark.parametrize("before", ["an empty folder", "a join"])
def test_nothing_is_put_where_others_could_read_it(machine: Path, take_up: TakeUp, before: str) -> None:
    folder = machine / "vaults/acme"
    if before == "a join":
        take_up(bundle())
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    given = bundle(issued=NOW + timedelta(seconds=1))
    (machine / "given").write_bytes(pack(given))
    content = tree(machine)
    code, out, err = take_up(given)
    assert (code, out) == (1, "")
    assert f"{folder} can be read by others (mode 0755)" in err
    assert f"try: chmod 700 {folder}; if others may have read it, ask the fleet's operator" in err
    assert tree(machine) == content | {"given": (machine / "given").read_bytes()}
    folder.chmod(0o700)
    take_up(given)
    assert MemberVault(folder).read().client


@pytest.mark.parametrize("exposed", ["client.pem", "membership.json"])
def test_what_others_could_read_is_told_in_a_members_terms(
    machine: Path, run: Run, take_up: TakeUp, exposed: str
) -> None:
    take_up(bundle())
    (machine / "vaults/acme" / exposed).chmod(0o644)
    code, _, err = run("status")
    assert code == 1
    assert f"{exposed} can be read by others" in err
    assert "ask the fleet's operator" in err
    assert "make a new CA" not in err


@pytest.mark.parametrize("answers", [True, False])
def test_an_old_ca_is_dropped_once_every_node_answers_by_the_new_one(
    machine: Path, take_up: TakeUp, *, answers: bool
) -> None:
    take_up(bundle(OTHER, trust=CA.certificate + OTHER.certificate))
    vault, asked = MemberVault(machine / "vaults/acme"), []

    def answer(files: Mapping[str, str]) -> bool:
        asked.append({name: Path(path).read_bytes() for name, path in files.items()})
        return answers

    with vault.locked():
        vault.settle(answer)
        vault.settle(answer)
    client = (vault.directory / "client.pem").read_bytes()
    assert asked == [{"cacert": OTHER.certificate, "cert": client, "key": client}] * (1 if answers else 2)
    new, old = (describe(one.certificate).fingerprint for one in (OTHER, CA))
    assert vault.read().trust == ((new,) if answers else (old, new))
    assert {path.name for path in vault.directory.iterdir()} == {"ca.pem", "client.pem", "membership.json", "lock"}


def test_an_old_ca_stays_while_a_node_is_silent(machine: Path, take_up: TakeUp) -> None:
    take_up(bundle(OTHER, trust=CA.certificate + OTHER.certificate))
    joining.settle(membership.load("acme"))
    assert len(MemberVault(machine / "vaults/acme").read().trust) == 2


# ---------------------------------------------------------------------------------------- having joined


@pytest.mark.parametrize(
    "command", [("check",), ("plan",), ("up",), ("down", "--yes"), ("certs", "issue", "friend")], ids=str
)
@pytest.mark.parametrize("inventory", [False, True])
def test_what_needs_the_operator_says_so(
    machine: Path, run: Run, take_up: TakeUp, command: tuple[str, ...], inventory: bool
) -> None:
    take_up(bundle())
    if inventory:
        (machine / "inventory.yaml").write_text(INVENTORY)
    code, out, err = run(*command)
    assert (code, out) == (2, "")
    assert "this needs an operator of acme: this machine has joined it as ci" in err
    assert "fleet status, fleet build, fleet leave" in err


@pytest.mark.parametrize("command", [("status",), ("build", ".")], ids=str)
@pytest.mark.parametrize("content", ["", "{", "{}", '{"fleet": "other"}'])
def test_a_torn_membership_is_named(
    machine: Path, run: Run, take_up: TakeUp, command: tuple[str, ...], content: str
) -> None:
    take_up(bundle())
    (machine / "vaults/acme/membership.json").write_text(content)
    code, _, err = run(*command)
    assert code == 1
    assert f"{machine}/vaults/acme/membership.json cannot be read" in err
    assert "fleet join the bundle again" in err
    assert take_up(bundle(issued=NOW - timedelta(days=1)))[0] == 1
    assert membership.load("acme").joined


def test_a_membership_of_another_fleet_is_refused(machine: Path, take_up: TakeUp) -> None:
    take_up(bundle())
    take_up(bundle(fleet="other"))
    os.replace(machine / "vaults/other/membership.json", machine / "vaults/acme/membership.json")  # noqa: PTH105
    with pytest.raises(VaultError, match="it is another fleet's"):
        membership.load("acme")


SPOILED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "a torn key": ("client.pem", lambda content: content[:-100]),
    "a torn certificate": ("client.pem", lambda content: content[200:]),
    "the key of another": (
        "client.pem",
        lambda content: content[: content.index(b"-----BEGIN PRIV")] + bundle().credential.key.reveal(),
    ),
    "the bundle of another": (
        "client.pem",
        lambda _: (other := bundle().credential).certificate + other.key.reveal(),
    ),
    "another CA": ("ca.pem", lambda _: OTHER.certificate),
    "a torn CA": ("ca.pem", lambda content: content[:-100]),
    "no CA at all": ("ca.pem", lambda _: b""),
}


@pytest.mark.parametrize(("file", "spoil"), SPOILED.values(), ids=SPOILED)
def test_spoiled_keys_are_named(machine: Path, take_up: TakeUp, file: str, spoil: Callable[[bytes], bytes]) -> None:
    take_up(bundle())
    path = machine / "vaults/acme" / file
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(VaultError, match=str(machine / "vaults/acme")) as caught:
        MemberVault(machine / "vaults/acme").read()
    assert "fleet join the bundle again" in (caught.value.remedy or "")


def test_exposed_keys_are_named(machine: Path, take_up: TakeUp) -> None:
    take_up(bundle())
    (machine / "vaults/acme/client.pem").chmod(0o644)
    with pytest.raises(VaultError, match="can be read by others"):
        MemberVault(machine / "vaults/acme").read()


def test_an_ended_bundle_stops_a_build_with_its_date(machine: Path, run: Run, take_up: TakeUp) -> None:
    take_up(bundle())
    path = machine / "vaults/acme/membership.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"expires": "2020-01-01T00:00:00+00:00"}))
    code, _, err = run("build", ".")
    assert code == 1
    assert "the bundle with which this machine joined acme ended on 2020-01-01 00:00 UTC" in err
    assert "fleet certs issue ci" in err


def test_a_build_reads_no_bundle(take_up: TakeUp) -> None:
    take_up(bundle())
    printed = python(
        "import sys; sys.argv = ['fleet', 'build', '--platform', 'linux/amd64', '.']\n"
        "from fleet.cli import run\n"
        "print(run(), set(sys.modules) & {'pydantic', 'cryptography', 'yaml', 'click'})"
    )
    assert printed == "1 set()\n"


# ------------------------------------------------------------------------------------- which fleet is meant

Told = Mapping[str, str | None]

MEANT: dict[str, tuple[set[str], Told, str]] = {
    "the inventory of this folder": (set(), {"here": ""}, "inventory.yaml"),
    "it comes before what was joined": ({"acme"}, {"here": ""}, "inventory.yaml"),
    "the one that was joined": ({"acme"}, {}, "acme"),
    "the one of several that is named": ({"acme", "beta"}, {"--fleet": "beta"}, "beta"),
    "the one of several that the environment names": ({"acme", "beta"}, {"FLEET_NAME": "beta"}, "beta"),
    "a named one comes before this folder": ({"acme"}, {"here": "", "FLEET_NAME": "acme"}, "acme"),
    "a named inventory": ({"acme"}, {"here": "", "-i": "other.yaml"}, "other.yaml"),
    "an inventory that the environment names": ({"acme"}, {"FLEET_INVENTORY": "other.yaml"}, "other.yaml"),
    "what is typed comes before an inventory of the environment": (
        {"acme"},
        {"--fleet": "acme", "FLEET_INVENTORY": "other.yaml"},
        "acme",
    ),
    "an inventory of the environment comes before a fleet of it": (
        {"acme"},
        {"FLEET_INVENTORY": "other.yaml", "FLEET_NAME": "acme"},
        "other.yaml",
    ),
    "what is empty is not said": ({"acme"}, {"FLEET_INVENTORY": "", "FLEET_NAME": ""}, "acme"),
}


def located(machine: Path, monkeypatch: pytest.MonkeyPatch, joined: set[str], told: Told) -> Path:
    for name in joined:
        (machine / "vaults" / name).mkdir(parents=True)
        (machine / "vaults" / name / "membership.json").touch()
    if "here" in told:
        (machine / "inventory.yaml").touch()
    for name in ("FLEET_INVENTORY", "FLEET_NAME"):
        if (value := told.get(name)) is not None:
            monkeypatch.setenv(name, value)
    typed = told.get("-i")
    return described_by(Path(typed) if typed else None, told.get("--fleet"))


@pytest.mark.parametrize(("joined", "told", "meant"), MEANT.values(), ids=MEANT)
def test_the_fleet_that_is_meant(
    machine: Path, monkeypatch: pytest.MonkeyPatch, joined: set[str], told: Told, meant: str
) -> None:
    expected = machine / "vaults" / meant / "membership.json" if meant in joined else Path(meant)
    assert located(machine, monkeypatch, joined, told) == expected


UNCLEAR: dict[str, tuple[set[str], Told, str]] = {
    "nothing is there": (set(), {}, "there is no inventory inventory.yaml, and this machine has joined no fleet"),
    "there are several": ({"acme", "beta"}, {}, "several fleets: acme, beta"),
    "it was not joined": ({"acme"}, {"--fleet": "beta"}, "has not joined a fleet 'beta'"),
    "it is a path": ({"acme"}, {"--fleet": "../vaults/acme"}, "has not joined a fleet '../vaults/acme'"),
    "both are said": ({"acme"}, {"--fleet": "acme", "-i": "other.yaml"}, "-i and --fleet each name a fleet"),
}


@pytest.mark.parametrize(("joined", "told", "complaint"), UNCLEAR.values(), ids=UNCLEAR)
def test_an_unclear_fleet_is_asked_about(
    machine: Path, monkeypatch: pytest.MonkeyPatch, joined: set[str], told: Told, complaint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        located(machine, monkeypatch, joined, told)
    assert complaint in caught.value.message
    assert caught.value.remedy


# -------------------------------------------------------------------------------------------------- leave


def test_leaving_removes_what_joining_made_and_nothing_else(machine: Path, run: Run, take_up: TakeUp) -> None:
    take_up(bundle())
    (machine / "vaults/acme/buildx/instances").mkdir(parents=True)
    (machine / "vaults/acme/notes.txt").write_text("mine")
    code, out, _ = run("leave")
    assert (code, out) == (0, f"removed the keys and nodes of acme in {machine}/vaults/acme\n")
    assert tree(machine / "vaults") == {"acme": None, "acme/notes.txt": b"mine"}


def test_leaving_twice_is_no_error(machine: Path, run: Run, take_up: TakeUp) -> None:
    take_up(bundle())
    assert json.loads(run("leave", "acme", "--json")[1])["removed"]
    assert not (machine / "vaults/acme").exists()
    assert run("leave", "acme") == (0, "this machine has not joined acme\n", "")
    assert run("leave") == (0, "this machine has not joined a fleet\n", "")


def test_even_a_torn_membership_can_be_left(machine: Path, run: Run, take_up: TakeUp) -> None:
    take_up(bundle())
    (machine / "vaults/acme/membership.json").write_text("{")
    assert run("leave")[0] == 0
    assert not (machine / "vaults/acme").exists()


def test_of_several_the_one_to_leave_is_named(machine: Path, run: Run, take_up: TakeUp) -> None:
    take_up(bundle())
    take_up(bundle(fleet="other"))
    code, _, err = run("leave")
    assert (code, "several fleets: acme, other" in err) == (2, True)
    assert run("leave", "other")[0] == 0
    assert client_files.joined() == ["acme"]
    assert machine.is_dir()


@pytest.mark.parametrize("name", ["..", "../acme", "/etc", "a/b", "."])
def test_only_fleets_are_left(machine: Path, run: Run, take_up: TakeUp, name: str) -> None:
    take_up(bundle())
    before = tree(machine)
    code, _, err = run("leave", name)
    assert (code, "is not the name of a fleet" in err) == (2, True)
    assert tree(machine) == before


def test_an_operators_vault_is_never_left(machine: Path, run: Run) -> None:
    vault = FileVault(machine / "vaults/acme")
    vault.create_authority("acme", NOW)
    before = tree(machine)
    code, _, err = run("leave", "acme")
    assert (code, "is an operator's vault" in err) == (2, True)
    assert tree(machine) == before


@pytest.mark.parametrize(("cacert", "removed"), [("ours", True), ("/elsewhere/ca.pem", False)])
def test_only_a_builder_of_these_keys_is_removed(
    machine: Path, run: Run, take_up: TakeUp, cacert: str, removed: bool
) -> None:
    take_up(bundle())
    options = {"cacert": str(machine / "vaults/acme/ca.pem") if cacert == "ours" else cacert}
    node = {"Name": "amd-1", "Endpoint": "tcp://127.0.0.1:1", "Platforms": None, "DriverOpts": options}
    (machine / "buildx/instances").mkdir(parents=True)
    (machine / "buildx/instances/acme").write_text(json.dumps({"Driver": "remote", "Nodes": [node]}))
    (machine / "bin/docker").write_text('#!/bin/sh\necho "$@" >> docker.log\necho buildx v0.36.1\n')
    assert run("leave")[0] == 0
    log = machine / "docker.log"
    assert (log.exists() and "buildx rm acme" in log.read_text()) is removed
    assert not (machine / "vaults/acme").exists()


def test_keys_go_even_where_docker_has_gone(
    machine: Path, run: Run, take_up: TakeUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_up(bundle())
    (machine / "buildx/instances").mkdir(parents=True)
    (machine / "buildx/instances/acme").write_text(json.dumps({"Driver": "remote", "Nodes": []}))
    with monkeypatch.context() as without_docker:
        without_docker.setenv("PATH", str(machine))
        code, out, err = run("leave")
    assert code == 1
    assert "docker cannot be run here" in err
    assert "then fleet leave acme" in err
    assert out == f"removed the keys of acme in {machine}/vaults/acme\n"
    assert {path.name for path in (machine / "vaults/acme").iterdir()} == {"membership.json", "lock"}
    assert "fleet leave acme" in run("status")[2]
    (machine / "bin/docker").write_text('#!/bin/sh\necho "$@" >> docker.log\necho buildx v0.36.1\n')
    code, out, _ = run("leave")
    assert (code, out.startswith("removed the builder acme\n")) == (0, True)
    assert "buildx rm acme" in (machine / "docker.log").read_text()
    assert not (machine / "vaults/acme").exists()


def test_who_waited_for_the_lock_of_a_fleet_that_was_left_does_not_hold_what_is_gone(
    machine: Path, take_up: TakeUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_up(bundle())
    vault, flock = MemberVault(machine / "vaults/acme"), fcntl.flock

    def left_meanwhile(lock: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        vault.forget()
        flock(lock, how)

    monkeypatch.setattr(fcntl, "flock", left_meanwhile)
    with vault.locked(), pytest.raises(VaultError, match="another fleet"), vault.locked():
        pytest.fail("two hold the vault")


# -------------------------------------------------------------------------------------------------- issue


@pytest.fixture
def operator(home: Path, monkeypatch: pytest.MonkeyPatch) -> FileVault:
    """The vault of an operator, whose one host does not answer."""
    monkeypatch.setattr(passphrase, "_TERMINAL", home / "no-terminal")
    vault = FileVault(home / "vaults/acme")
    vault.create_authority("acme", NOW)
    vault.issue_client("operator", NOW)
    return vault


@pytest.mark.parametrize(
    ("options", "lifetime"),
    [((), timedelta(days=365)), (("--days", "7"), timedelta(days=7)), (("--hours", "3"), timedelta(hours=3))],
)
def test_a_bundle_is_a_file_for_its_owner(
    home: Path, run: Run, operator: FileVault, options: tuple[str, ...], lifetime: timedelta
) -> None:
    code, out, err = run("certs", "issue", "ci", *options)
    assert code == 0
    assert out.startswith("acme-ci.fleet-bundle: ci may use acme until ")
    assert "fleet join acme-ci.fleet-bundle" in err
    file = home / "acme-ci.fleet-bundle"
    assert file.stat().st_mode & 0o777 == 0o600
    given = unpack(file.read_bytes(), now=datetime.now(UTC))
    assert (given.fleet, given.client) == ("acme", "ci")
    assert [(node.name, node.address, node.port) for node in given.nodes] == [("amd-1", "127.0.0.1", 1)]
    assert describe(given.credential.certificate).not_after == given.issued + lifetime
    assert given.trust == (home / "vaults/acme/ca.pem").read_bytes()
    assert [one.certificate.serial for one in operator.clients()] == [serial(given)]


def test_what_is_issued_is_told_as_json(home: Path, run: Run, operator: FileVault) -> None:
    code, out, err = run("certs", "issue", "ci", "-o", "there", "--json")
    printed = json.loads(out)
    assert (code, err, printed.pop("expires")[:2]) == (0, "", "20")
    assert printed == {"fleet": "acme", "client": "ci", "file": "there", "sealed": False, "nodes": ["amd-1"]}
    assert (home / "there").exists()
    assert len(operator.clients()) == 1


def test_a_sealed_bundle_opens_with_its_passphrase(
    home: Path, run: Run, operator: FileVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEET_BUNDLE_PASSPHRASE", "open sesame")
    code, out, err = run("certs", "issue", "ci", "--seal", "-o", "sealed")
    assert (code, "passphrase by another way" in err) == (0, True)
    packed = (home / "sealed").read_bytes()
    assert b"amd-1" not in packed
    assert "open sesame" not in out + err
    assert unpack(packed, Passphrase("open sesame"), now=datetime.now(UTC)).client == "ci"
    assert operator.clients()


def test_a_bundle_is_overwritten_when_forced(home: Path, run: Run, operator: FileVault) -> None:
    file = home / "acme-ci.fleet-bundle"
    file.write_text("mine")
    file.chmod(0o644)
    assert run("certs", "issue", "ci", "--force")[0] == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert unpack(file.read_bytes(), now=datetime.now(UTC)).client == "ci"
    assert operator.clients()


NOT_ISSUED: dict[str, tuple[tuple[str, ...], int, str]] = {
    "a file that is there": (("ci", "-o", "inventory.yaml"), 2, "inventory.yaml is there already"),
    "a folder": (("ci", "-o", "vaults"), 2, "vaults is there, and is no file"),
    "a folder, forced": (("ci", "-o", "vaults", "--force"), 2, "vaults is there, and is no file"),
    "a device, forced": (("ci", "-o", "/dev/null", "--force"), 2, "/dev/null is there, and is no file"),
    "a folder that is not there": (("ci", "-o", "no/where"), 2, "no/where cannot be written: No such file"),
    "a name that is a path": (("../ci",), 2, "'../ci' cannot be a client's name"),
    "a name that is the operator's": (("operator",), 2, "'operator' cannot be a client's name"),
    "a name that is too long": (("a" * 41,), 2, "cannot be a client's name"),
    "days and hours": (("ci", "--days", "1", "--hours", "1"), 2, "--days and --hours each say how long"),
    "no days": (("ci", "--days", "0"), 2, "--days"),
    "too many days": (("ci", "--days", "99999999999"), 2, "--days"),
    "a passphrase from nobody": (("ci", "--seal"), 2, "no terminal to ask on"),
}


@pytest.mark.parametrize(("typed", "code", "complaint"), NOT_ISSUED.values(), ids=NOT_ISSUED)
def test_what_cannot_be_issued_changes_nothing(
    home: Path, run: Run, operator: FileVault, typed: tuple[str, ...], code: int, complaint: str
) -> None:
    run("plan")  # remembers the inventory
    with operator.locked():
        pass
    before = {name: content for name, content in tree(home).items() if not name.endswith("lock")}
    exit_code, out, err = run("certs", "issue", *typed)
    assert (exit_code, out) == (code, "")
    assert complaint in err
    assert {name: content for name, content in tree(home).items() if not name.endswith("lock")} == before


def test_without_a_vault_nothing_is_issued(home: Path, run: Run) -> None:
    code, _, err = run("certs", "issue", "ci")
    assert (code, "try: fleet up" in err) == (1, True)
    assert not (home / "acme-ci.fleet-bundle").exists()


def test_a_sealed_ca_that_nobody_opens_leaves_no_file(
    home: Path, run: Run, operator: FileVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator.seal(Passphrase("open sesame"))
    monkeypatch.setenv("FLEET_CA_PASSPHRASE", "wrong")
    code, _, err = run("certs", "issue", "ci")
    assert (code, "does not open" in err) == (1, True)
    assert not (home / "acme-ci.fleet-bundle").exists()
    assert operator.clients() == ()
