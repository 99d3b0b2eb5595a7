"""The vault's files when a run is killed, when they are damaged, and when another run is at work on them."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certs import keys
from certs.certificate import describe, split_pem
from certs.keys import Passphrase
from fleet.adapters.vault import FileVault
from fleet.errors import VaultError
from fleet.model.spec import HostSpec
from fleet.model.vault import ClientFacts, Rotation, VaultFacts
from tests.support.values import NOW

AMD = HostSpec("amd-1", "10.0.0.11")
LATER = NOW + timedelta(days=20)
LIFETIME = timedelta(days=90)
SEALED, OTHER = Passphrase("correct horse"), Passphrase("battery staple")


def open_vault(directory: Path) -> FileVault:
    return FileVault(directory, passphrase=lambda: SEALED)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module", autouse=True)
def _cheap_seals() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "_SCRYPT_N", 16)
        yield


# ------------------------------------------------------------------------------------------------- states


def settled(vault: FileVault) -> None:
    vault.create_authority("acme", NOW)
    vault.issue_client("operator", NOW)
    for name in ("ada", "bob"):
        vault.issue_bundle_credential(name, NOW, lifetime=LIFETIME)
    vault.revoke("bob", NOW)
    vault.renew_nodes(NOW)


def overlapping(vault: FileVault) -> None:
    settled(vault)
    vault.begin_rotation("acme", LATER)


def ready_to_switch(vault: FileVault) -> None:
    overlapping(vault)
    vault.issue_client("operator", LATER, coming=True)
    vault.issue_bundle_credential("ada", LATER, lifetime=LIFETIME, coming=True)


def halfway_switched(vault: FileVault) -> None:
    ready_to_switch(vault)
    old = (vault.directory / "authority.pem").read_bytes()
    (vault.directory / "previous.pem").touch(0o600)
    (vault.directory / "previous.pem").write_bytes(old[: old.index(b"-----BEGIN PRIVATE")])


def switched(vault: FileVault) -> None:
    ready_to_switch(vault)
    vault.switch_authority()


def sealed(vault: FileVault) -> None:
    ready_to_switch(vault)
    vault.seal(SEALED)


def nothing(vault: FileVault) -> None:
    assert not vault.directory.exists()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[FileVault], None]], Path]:
    """The folder of a vault in that state, made once; to be copied."""
    made: dict[Callable[[FileVault], None], Path] = {}

    def of(state: Callable[[FileVault], None]) -> Path:
        if state not in made:
            made[state] = tmp_path_factory.mktemp(state.__name__) / "acme"
            state(open_vault(made[state]))
        return made[state]

    return of


# ------------------------------------------------------------------------------------------------ crashes


class PowerCutError(BaseException):
    """The machine stops here."""


OPERATIONS = ("mkdir", "replace", "rename", "unlink", "fsync", "ftruncate")


@contextmanager
def power_cut(monkeypatch: pytest.MonkeyPatch, after: int) -> Iterator[list[str]]:
    """Let so many operations on files pass and none after them, not even those that clear up; what was done."""
    done: list[str] = []

    def watched(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def operate(*args: object, **options: object) -> object:
            if len(done) >= after:
                raise PowerCutError
            result = real(*args, **options)
            done.append(name)
            return result

        return operate

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "mkstemp", watched("mkstemp", tempfile.mkstemp))
        for name in OPERATIONS:
            patch.setattr(os, name, watched(name, getattr(os, name)))
        yield done


STEPS: Mapping[str, tuple[Callable[[FileVault], None], Callable[[FileVault], object], set[str]]] = {
    "create": (nothing, lambda vault: vault.create_authority("acme", NOW), {"mkdir", "replace"}),
    "issue": (settled, lambda vault: vault.issue_client("operator", LATER), {"mkstemp", "fsync", "replace"}),
    "hand out": (settled, lambda vault: vault.issue_bundle_credential("eve", LATER, lifetime=LIFETIME), {"replace"}),
    "revoke": (ready_to_switch, lambda vault: vault.revoke("ada", LATER), {"rename"}),
    "renew": (settled, lambda vault: vault.renew_nodes(LATER), {"replace"}),
    "begin": (settled, lambda vault: vault.begin_rotation("acme", LATER), {"replace"}),
    "switch": (ready_to_switch, lambda vault: vault.switch_authority(), {"replace"}),
    "end": (switched, lambda vault: vault.end_rotation(), {"unlink", "replace"}),
    "seal": (ready_to_switch, lambda vault: vault.seal(SEALED), {"replace"}),
    "seal anew": (sealed, lambda vault: vault.seal(OTHER), {"replace"}),
    "unseal": (sealed, lambda vault: vault.seal(None), {"replace"}),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_that_was_killed_anywhere_leaves_a_whole_vault_and_is_made_again(
    prepared: Callable[[Callable[[FileVault], None]], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    state, step, operations = STEPS[name]
    before = None if state is nothing else open_vault(prepared(state)).read()

    def start(where: str) -> FileVault:
        directory = tmp_path / where / "acme"
        if before:
            shutil.copytree(prepared(state), directory)
        return open_vault(directory)

    straight = start("straight")
    step(straight)
    for cut in range(100):
        killed = start(str(cut))
        with power_cut(monkeypatch, cut) as done, suppress(PowerCutError):
            step(killed)
        if len(done) < cut:
            break
        left = open_vault(killed.directory)
        found = left.read()
        if before:
            assert_nobody_is_cut_off(left, found, before)
        with left.locked():
            if before or not found.authority:
                step(left)
        assert shape(open_vault(killed.directory)) == shape(straight)
        if name != "seal anew":
            open_vault(killed.directory).issue_node(AMD, ["amd-1"], LATER)
    assert cut > len(operations)
    assert operations <= set(done)


def assert_nobody_is_cut_off(vault: FileVault, found: VaultFacts, before: VaultFacts) -> None:
    """Nodes, as they were set up before the step, and the operator trust each other."""
    assert vault.has_client()
    assert found.client_authority in before.trust
    trusted = split_pem((vault.directory / "ca.pem").read_bytes())
    assert before.authority_fingerprint in {describe(one).fingerprint for one in trusted}


def shape(vault: FileVault) -> tuple[object, ...]:
    """All that can be said of a vault whose certificates were made at random, its files included."""
    facts, words = vault.read(), {}
    for word in ("leaving_fingerprint", "coming_fingerprint", "authority_fingerprint"):
        words[getattr(facts, word)] = word
    return (
        facts.rotation,
        facts.sealed,
        facts.nodes_since,
        words[facts.client_authority],
        [words[one] for one in facts.trust],
        {(one.name, one.revoked, words[one.authority]) for one in vault.clients()},
        {path.name for path in vault.directory.iterdir()} - {"lock"},
    )


def exchange(vault: FileVault, old: str) -> None:
    """Exchange the CA `old`, from wherever that stands, as one who only looks at the facts."""
    while (facts := vault.read()).rotation is not Rotation.SETTLED or facts.authority_fingerprint == old:
        match facts.rotation:
            case Rotation.SETTLED:
                vault.begin_rotation("acme", LATER)
            case Rotation.OVERLAP if facts.client_authority == old:
                vault.issue_client("operator", LATER, coming=True)
            case Rotation.OVERLAP:
                vault.switch_authority()
            case Rotation.SWITCHED:
                vault.end_rotation()


def test_an_exchange_that_is_killed_again_and_again_ends_with_one_ca(
    prepared: Callable[[Callable[[FileVault], None]], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = open_vault(prepared(settled)).read().authority_fingerprint
    assert old
    for patience in range(4, 40, 5):
        directory = tmp_path / str(patience)
        shutil.copytree(prepared(settled), directory)
        steps, kills, finished = [Rotation.SETTLED], 0, False
        while not finished:
            # The machine holds out a little longer each time, so that no step needs more than it has.
            with power_cut(monkeypatch, patience + kills):
                try:
                    exchange(open_vault(directory), old)
                    finished = True
                except PowerCutError:
                    kills += 1
            steps.append(open_vault(directory).read().rotation)
        order = list(Rotation)
        assert [order.index(one) for one in steps[:-1]] == sorted(order.index(one) for one in steps[:-1])
        with open_vault(directory).locked():
            pass
        facts = open_vault(directory).read()
        assert facts.client_authority == facts.authority_fingerprint != old
        assert {path.name for path in directory.iterdir()} == {
            *("authority.pem", "ca.pem", "client.pem", "clients", "lock", "nodes-since")
        }
        assert fingerprints(directory / "ca.pem") == (facts.authority_fingerprint,)


def fingerprints(path: Path) -> tuple[str, ...]:
    return tuple(describe(one).fingerprint for one in split_pem(path.read_bytes()))


# ------------------------------------------------------------------------------------------------- damage

DAMAGED = (settled, overlapping, ready_to_switch, halfway_switched, switched, sealed)

View = tuple[VaultFacts, tuple[ClientFacts, ...]]


def look(directory: Path) -> View:
    vault = FileVault(directory)
    return vault.read(), vault.clients()


@pytest.fixture(scope="module")
def whole(prepared: Callable[[Callable[[FileVault], None]], Path]) -> Mapping[str, tuple[Path, dict[str, bytes], View]]:
    """State -> its folder, its files, and what they say."""
    return {state.__name__: (prepared(state), contents(prepared(state)), look(prepared(state))) for state in DAMAGED}


@settings(max_examples=400, deadline=None)
@given(
    state=st.sampled_from([state.__name__ for state in DAMAGED]),
    kind=st.sampled_from(["flip", "cut", "swap", "copy"]),
    first=st.integers(0, 20),
    second=st.integers(0, 20),
    place=st.integers(0, 20_000),
)
def test_damage_is_found_and_named_or_changes_nothing(
    whole: Mapping[str, tuple[Path, dict[str, bytes], View]],
    state: str,
    kind: str,
    first: int,
    second: int,
    place: int,
) -> None:
    directory, files, before = whole[state]
    name, other = (sorted(files)[number % len(files)] for number in (first, second))
    content = files[name]
    byte, bit = divmod(place % (len(content) * 8), 8)
    changed = {
        "flip": {name: content[:byte] + bytes([content[byte] ^ (1 << bit)]) + content[byte + 1 :]},
        "cut": {name: content[:byte]},
        "swap": {name: files[other], other: content},
        "copy": {name: files[other]},
    }[kind]
    damaged = {name, other} if kind in {"swap", "copy"} else {name}
    for one, text in changed.items():
        (directory / one).write_bytes(text)
    try:
        left, error = contents(directory), None
        try:
            seen = look(directory)
        except VaultError as refusal:
            error = refusal
        assert contents(directory) == left
    finally:
        for one in changed:
            (directory / one).write_bytes(files[one])
    if error is None:
        assert seen == before
    else:
        assert any(Path(one).name in error.message for one in damaged), error.message
        assert error.remedy
        shown = repr([error, error.remedy, error.__cause__, error.__context__])
        assert not [line for line in key_lines(*files.values()) if line in shown]


def key_lines(*contents: bytes) -> set[str]:
    blocks = re.findall(r"PRIVATE KEY-----\n(.+?)\n-----END", b"".join(contents).decode(), re.DOTALL)
    return {line[:16] for block in blocks for line in block.splitlines()}


def move(source: str, target: str) -> Callable[[Path], object]:
    return lambda folder: (folder / source).rename(folder / target)


def copy(source: str, target: str) -> Callable[[Path], object]:
    return lambda folder: shutil.copy(folder / source, folder / target)


MISPLACED: Mapping[str, tuple[Callable[[FileVault], None], tuple[Callable[[Path], object], ...], str]] = {
    "the old CA is coming": (overlapping, (copy("authority.pem", "next.pem"),), "next.pem"),
    "the coming CA is gone": (overlapping, (lambda folder: (folder / "next.pem").unlink(),), "ca.pem"),
    "the coming CA is gone at the switch": (
        halfway_switched,
        (lambda folder: (folder / "next.pem").unlink(),),
        "previous.pem",
    ),
    "the coming CA is the one that leaves": (halfway_switched, (copy("next.pem", "previous.pem"),), "previous.pem"),
    "the one that leaves is not the old one": (switched, (copy("authority.pem", "previous.pem"),), "previous.pem"),
    "the one that leaves is two": (switched, (copy("ca.pem", "previous.pem"),), "previous.pem"),
    "the one that left is gone": (switched, (lambda folder: (folder / "previous.pem").unlink(),), "ca.pem"),
    "the old CA is gone": (overlapping, (move("authority.pem", "previous.pem"),), "client.pem"),
    "there is a coming CA alone": (
        overlapping,
        (*(lambda folder, name=name: (folder / name).unlink() for name in ("client.pem", "authority.pem")),),
        "next.pem",
    ),
}


@pytest.mark.parametrize(("state", "changes", "named"), MISPLACED.values(), ids=MISPLACED)
def test_cas_that_do_not_go_together_are_refused_by_name(
    prepared: Callable[[Callable[[FileVault], None]], Path],
    tmp_path: Path,
    state: Callable[[FileVault], None],
    changes: tuple[Callable[[Path], object], ...],
    named: str,
) -> None:
    shutil.copytree(prepared(state), tmp_path / "acme")
    for change in changes:
        change(tmp_path / "acme")
    before = contents(tmp_path / "acme")
    vault = open_vault(tmp_path / "acme")
    steps: list[Callable[[], object]] = [
        vault.read,
        vault.switch_authority,
        vault.end_rotation,
        lambda: vault.begin_rotation("acme", LATER),
        lambda: vault.issue_node(AMD, ["amd-1"], LATER),
    ]
    for step in steps:
        with pytest.raises(VaultError) as caught:
            step()
        assert Path(caught.value.message.split(" ")[0]).name == named
        assert caught.value.remedy
    assert contents(tmp_path / "acme") == before


# ------------------------------------------------------------------------------------------- two at a time


def test_who_only_looks_is_not_misled_by_an_exchange_under_way(
    prepared: Callable[[Callable[[FileVault], None]], Path], tmp_path: Path
) -> None:
    shutil.copytree(prepared(settled), tmp_path / "acme")
    vault, problems, seen = open_vault(tmp_path / "acme"), [], set()

    def work() -> None:
        try:
            for _ in range(12):
                exchange(vault, vault.read().authority_fingerprint or "")
                vault.issue_bundle_credential("ada", LATER, lifetime=LIFETIME)
        except VaultError as error:
            problems.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    while worker.is_alive():
        facts, _ = look(tmp_path / "acme")
        seen.add(facts.rotation)
        assert facts.client_authority in {
            facts.authority_fingerprint,
            facts.coming_fingerprint,
            facts.leaving_fingerprint,
        }
    worker.join()
    assert problems == []
    assert len(seen) > 1


def test_an_expired_client_is_told_by_its_date(tmp_path: Path) -> None:
    vault = open_vault(tmp_path / "acme")
    settled(vault)
    vault.begin_rotation("acme", NOW + timedelta(days=1000))
    facts = vault.read()
    assert facts.client
    assert facts.client.expires == NOW + timedelta(days=365)


def test_a_torn_entry_of_the_ledger_does_not_stop_the_exchange(tmp_path: Path) -> None:
    vault = open_vault(tmp_path / "acme")
    switched(vault)
    entry = next((tmp_path / "acme" / "clients").glob("bob-*.revoked"))
    entry.write_bytes(entry.read_bytes()[:100])
    with pytest.raises(VaultError, match="bob-") as caught:
        vault.clients()
    assert caught.value.remedy
    vault.end_rotation()
    assert vault.read().rotation is Rotation.SETTLED
