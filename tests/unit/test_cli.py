"""The command line: exit codes, plain words for every mistake, and the shapes of its JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fleet.adapters.vault import FileVault
from fleet.applying.report import Event, Outcome, Report, Result
from fleet.buildx import CreateBuilder
from fleet.cli import remembered
from fleet.cli.main import OVERVIEW
from fleet.cli.main import fleet as commands
from fleet.cli.output import (
    plan_json,
    platforms,
    report_json,
    show_plan,
    show_report,
    show_snapshot,
    snapshot_json,
)
from fleet.cli.progress import progress
from fleet.errors import InventoryError
from fleet.fleet_health import snapshot
from fleet.inventory import parse
from fleet.inventory.parse import load
from fleet.model.facts import Down, NodeFacts, Stage
from fleet.model.spec import FleetSpec
from fleet.planning.lane import Lane, daemon_spec
from fleet.planning.plan import Plan, plan
from tests.support import values
from tests.support.values import NOW, api, builder, daemon, facts, fleet, found, host, node, vault
from tests.unit.conftest import INVENTORY, Run

# ------------------------------------------------------------------------------------------ user's mistakes

MISTAKES: dict[str, tuple[tuple[str, ...], int, str]] = {
    "no such command": (("deploy",), 2, "No such command 'deploy'"),
    "no such option": (("plan", "--force"), 2, "No such option"),
    "an argument too many": (("plan", "amd-1"), 2, "unexpected extra argument"),
    "no inventory": (("plan", "-i", "other.yaml"), 2, "there is no inventory other.yaml"),
    "no inventory for a build": (("build", "-i", "other.yaml", "."), 2, "there is no inventory other.yaml"),
    "an inventory that is a directory": (("status", "-i", "."), 2, "the inventory . is a directory"),
    "no such host": (("plan", "--host", "amd-9"), 2, "the inventory has no host 'amd-9'"),
    "no such host to bring up": (("up", "--host", "amd-1", "--host", "amd-9"), 2, "has no host 'amd-9'"),
    "no duration": (("up", "--timeout", "soon"), 2, "'soon' is not a duration such as 10m"),
    "a build before up": (("build", "."), 1, "there is no client certificate"),
    "a route before up": (("route",), 1, "there is no client certificate"),
    "a route for no platform": (("route", "--platform", "pdp11"), 2, "--platform: 'pdp11': unknown architecture"),
    "builds before up": (("builds",), 1, "there is no client certificate"),
    "builds of no such host": (("builds", "amd-9"), 2, "the inventory has no host 'amd-9'"),
    "emulation of no such host": (("emulation", "amd-9"), 2, "No such command 'amd-9'"),
    "emulation of nothing known": (("emulation", "install", "amd-1", "pdp11"), 2, "unknown architecture 'pdp11'"),
    "handlers of no such host": (("emulation", "remove", "amd-9"), 2, "the inventory has no host 'amd-9'"),
}


@pytest.mark.parametrize(("typed", "code", "complaint"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_in_plain_words(run: Run, typed: tuple[str, ...], code: int, complaint: str) -> None:
    exit_code, out, err = run(*typed)
    assert (exit_code, out) == (code, "")
    assert complaint in err


@pytest.mark.parametrize("command", ["plan", "up", "status", "down", "build"])
def test_every_problem_of_an_inventory_is_told_before_anything_is_touched(run: Run, home: Path, command: str) -> None:
    (home / "inventory.yaml").write_text("fleet: Acme\nhosts:\n  a: {adress: 10.0.0.1}\n")
    code, out, err = run(command)
    assert (code, out) == (2, "")
    assert "inventory.yaml:1:fleet: 'Acme' is not a name" in err
    assert "inventory.yaml:3:hosts.a.adress: unknown key (did you mean 'address'?)" in err
    assert not (home / "vaults").exists()


@pytest.mark.parametrize("text", ["{", "- a\n", "", "\x00", "fleet: &a acme\n"])
def test_what_is_no_inventory_is_told(run: Run, home: Path, text: str) -> None:
    (home / "inventory.yaml").write_text(text)
    code, out, err = run("plan")
    assert (code, out) == (2, "")
    assert "in the inventory" in err


@pytest.mark.parametrize("command", ["plan", "status", "up", "down"])
def test_a_vault_in_an_impossible_place_is_told(
    run: Run, monkeypatch: pytest.MonkeyPatch, home: Path, command: str
) -> None:
    monkeypatch.setenv("FLEET_HOME", str(home / "inventory.yaml"))
    code, _, err = run(command)
    assert code == 1
    if command in {"up", "down"}:
        assert "Not a directory" in err


@pytest.mark.parametrize("command", [("plan",), ("status",), ("up",), ("down", "--yes"), ("build", ".")], ids=str)
def test_a_torn_vault_is_told(run: Run, home: Path, command: tuple[str, ...]) -> None:
    torn = FileVault(home / "vaults" / "acme")
    torn.create_authority("acme", NOW)
    torn.issue_client("operator", NOW)
    client = torn.directory / "client.pem"
    client.write_bytes(client.read_bytes()[:300])
    code, out, err = run(*command)
    assert (code, out) == (1, "")
    assert "client.pem" in err
    assert "cannot be used" in err
    offered = f"restore {client} from a backup, or move {client} away and run fleet up"
    assert f"try: {'fleet plan, or ' if command[0] in {'status', 'build'} else offered}" in err


@pytest.mark.parametrize("verbose", [False, True])
def test_an_interrupt_knows_what_was_told_last(verbose: bool) -> None:
    def interrupted() -> None:
        with progress(verbose=verbose) as show:
            show.waiting("asking 2 hosts")
            show.event(Event("builder", "create it"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        interrupted()
    assert caught.value.__notes__ == ["builder: create it"]


def test_a_second_fleet_is_told_to_wait(run: Run, home: Path) -> None:
    with FileVault(home / "vaults" / "acme").locked():
        code, _, err = run("up")
    assert code == 1
    assert "another fleet is at work on acme" in err


def test_an_unreadable_builder_is_told(run: Run, home: Path) -> None:
    (home / "buildx" / "instances").mkdir(parents=True)
    (home / "buildx" / "instances" / "acme").write_text("{torn")
    code, out, err = run("plan")
    assert (code, out) == (1, "")
    assert "what buildx has stored" in err


# ------------------------------------------------------------------------------------- a host that is not there


@pytest.mark.parametrize("command", ["plan", "status", "up", "down"])
def test_a_fleet_of_which_nothing_answers_has_failed(run: Run, home: Path, command: str) -> None:
    code, out, _ = run(command)
    assert code == 1
    assert "amd-1" in out
    assert not (home / "vaults" / "acme" / "authority.pem").exists()


@pytest.mark.parametrize("command", ["plan", "status", "up", "down"])
def test_results_are_one_json_document_on_stdout(run: Run, command: str) -> None:
    code, out, err = run(command, "--json")
    printed = json.loads(out)
    assert (code, printed["fleet"], err) == (1, "acme", "")
    assert [entry["name"] for entry in printed["nodes"]] == ["amd-1"]


def test_verbose_narrates_on_stderr(run: Run) -> None:
    _, out, err = run("plan", "-v", "--json")
    assert json.loads(out)
    assert "fleet: asking 1 host" in err


def test_the_inventory_may_be_named_by_the_environment(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "inventory.yaml").rename(home / "elsewhere.yaml")
    monkeypatch.setenv("FLEET_INVENTORY", str(home / "elsewhere.yaml"))
    assert json.loads(run("plan", "--json")[1])["fleet"] == "acme"
    assert "there is no client certificate" in run("build", ".")[2]


def test_down_does_not_ask_where_nobody_can_answer(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "buildx" / "instances").mkdir(parents=True)
    stored = {"Name": "acme", "Driver": "remote", "Nodes": []}
    (home / "buildx" / "instances" / "acme").write_text(json.dumps(stored))
    monkeypatch.setattr(sys, "stdin", Path("/dev/null").open(encoding="utf-8"))  # noqa: SIM115 - for the whole test
    docker = home / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text("#!/bin/sh\necho github.com/docker/buildx v0.36.1 0000000\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{docker.parent}:/usr/bin:/bin")
    code, out, err = run("down")
    sys.stdin.close()
    assert code == 2
    assert "say --yes" in err
    assert "remove the builder from this machine" in err
    assert out == ""


# -------------------------------------------------------------------------------------------------- help


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


HEAVY = ("paramiko", "docker", "grpc", "pydantic", "rich", "textual", "cryptography", "yaml", "requests", "urllib3")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["plan", "--help"],
        ["build", "-h"],
        ["join", "-h"],
        ["certs", "issue", "-h"],
        ["logs", "-h"],
        ["route", "-h"],
        ["builds", "-h"],
        ["inspect", "-h"],
        ["emulation", "install", "-h"],
        ["tui", "-h"],
    ],
    ids=str,
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    printed = python(
        f"import sys; sys.argv = ['fleet', *{arguments!r}]\n"
        "from fleet.cli import run\n"
        "assert run() == 0\n"
        f"print('\\nheavy:', sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    assert printed.splitlines()[-1] == "heavy: []"


@pytest.mark.parametrize(
    ("typed", "code", "said"),
    [
        ("fleet --version >&-", 0, ""),
        ("fleet --version 2>&-", 0, "fleet "),
        ("fleet plan -i absent.yaml >&-", 2, "there is no inventory"),
        ("fleet schema | head -c 1", 0, "{"),
        ("fleet --version >/dev/full", 1, "No space left"),
    ],
)
def test_a_closed_or_full_output_changes_no_exit_code_but_its_own(typed: str, code: int, said: str) -> None:
    fleet = f"{sys.executable} -m fleet"
    done = subprocess.run(("bash", "-c", typed.replace("fleet", fleet, 1)), capture_output=True, text=True, check=False)
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
    assert said in done.stdout + done.stderr


def test_help_lists_commands_and_exit_codes(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for word in ("plan", "up", "status", "down", "build", "schema", "3  partly done", "2  usage or inventory"):
        assert word in out


def test_the_overview_has_every_command_once_and_cuts_nothing_off(run: Run) -> None:
    told = [line for purpose in OVERVIEW.values() for line in purpose.items()]
    assert sorted(name for name, _ in told) == sorted(commands.commands)
    _, out, _ = run("--help")
    shown = [line.split() for line in out.splitlines()]
    assert all([name, *what.split()] in shown for name, what in told)


@pytest.mark.parametrize("typed", [("build", "-h"), ("build", "--help"), ("build", "--platform", "x", "--help")])
def test_the_help_of_build_is_fleets_and_names_buildxs(run: Run, typed: tuple[str, ...]) -> None:
    code, out, _ = run(*typed)
    assert code == 0
    assert "natively" in out
    assert "docker buildx build --help" in out


def test_the_schema_is_json(run: Run) -> None:
    code, out, _ = run("schema")
    assert code == 0
    assert json.loads(out)["$schema"].startswith("https://json-schema.org/")


# ------------------------------------------------------------------------------------------- JSON and text

ONE = fleet(host("amd-1"))
NO_SSH = Down(Stage.SSH, "no answer", "is the host up?")
REFUSED = Down(Stage.TCP, "refused", "fleet up --host amd-1")


def shape(value: Any) -> Any:
    """The keys and types of a JSON document, of a list those of its first entry."""
    if isinstance(value, dict):
        return {key: shape(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def as_printed(value: Any) -> Any:
    return json.loads(json.dumps(value))


FAILURE = {"stage": "str", "reason": "str", "remedy": "str"}


def test_the_shape_of_a_plan() -> None:
    first = plan(ONE, facts({"amd-1": NodeFacts(found(), None)}, keys=vault(None)), NOW)
    assert shape(as_printed(plan_json(first))) == {
        "fleet": "str",
        "empty": "bool",
        "vault": ["str"],
        "nodes": [{"name": "str", "actions": ["str"], "why": ["str"], "blocked": "NoneType", "warning": "NoneType"}],
        "builder": ["str"],
        "builder_blocked": "NoneType",
        "gateway": "NoneType",
    }


def test_a_plan_tells_what_is_blocked_and_what_is_warned_of() -> None:
    decided = Plan("acme", lanes={"a": Lane(blocked=NO_SSH), "b": Lane(warning=REFUSED)}, builder_blocked=REFUSED)
    printed = as_printed(plan_json(decided))
    assert printed["empty"] is True
    assert printed["nodes"][0]["blocked"] == {"stage": "SSH", "reason": "no answer", "remedy": "is the host up?"}
    assert shape(printed["nodes"][1]["warning"]) == FAILURE
    assert shape(printed["builder_blocked"]) == FAILURE


def test_the_shape_of_a_report() -> None:
    report = Report(
        (Outcome("amd-1", Result.DONE, 1.23456), Outcome("arm-1", Result.FAILED, 2.0, NO_SSH)),
        Outcome("builder", Result.UNCHANGED),
    )
    assert as_printed(report_json("acme", report)) == {
        "fleet": "acme",
        "exit_code": 3,
        "nodes": [
            {"name": "amd-1", "result": "done", "seconds": 1.235, "failure": None, "warning": None},
            {
                "name": "arm-1",
                "result": "failed",
                "seconds": 2.0,
                "failure": {"stage": "SSH", "reason": "no answer", "remedy": "is the host up?"},
                "warning": None,
            },
        ],
        "builder": {"result": "unchanged", "seconds": 0.0, "failure": None, "warning": None},
        "remains": None,
    }


def a_snapshot() -> Any:
    spec = fleet(host("amd-1"), host("arm-1"))
    seen = facts(
        {
            "amd-1": NodeFacts(
                found("x86_64", daemon(spec, "amd-1")), api(active_builds=2, max_builds=4, cache_bytes=12_345_678)
            ),
            "arm-1": NodeFacts(NO_SSH, REFUSED),
        },
        registered=replace(builder(node("amd-1", "linux/amd64", "linux/amd64/v2")), default=True),
    )
    return snapshot(spec, seen, NOW)


def test_the_shape_of_a_status() -> None:
    printed = as_printed(snapshot_json(a_snapshot()))
    assert {key: value for key, value in printed.items() if key != "nodes"} == {
        "fleet": "acme",
        "joined": None,
        "builder": {"registered": True, "default": True},
        "gateway": [],
        "problems": [],
    }
    assert printed["nodes"][0] == {
        "name": "amd-1",
        "address": "amd-1.example",
        "arch": "amd64",
        "platforms": ["linux/amd64", "linux/amd64/v2", "linux/amd64/v3", "linux/386"],
        "owns": ["linux/amd64", "linux/amd64/v2"],
        "health": "ready",
        "reason": None,
        "buildkit": "0.32.2",
        "active_builds": 2,
        "max_builds": 4,
        "certificate": {"expires": "2031-05-01T12:00:00+00:00", "days_left": 365},
        "cache_bytes": 12_345_678,
        "free_bytes": 50_000_000_000,
        "latency_ms": 4.2,
    }
    assert printed["nodes"][1] == {
        "name": "arm-1",
        "address": "arm-1.example",
        "arch": None,
        "platforms": [],
        "owns": [],
        "health": "down",
        "reason": "SSH: no answer",
        "buildkit": None,
        "active_builds": None,
        "max_builds": None,
        "certificate": None,
        "cache_bytes": None,
        "free_bytes": None,
        "latency_ms": None,
    }


def test_a_status_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    show_snapshot(a_snapshot())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "fleet acme: 1 of 2 ready, builder registered, default"
    assert lines[1].split() == ["node", "health", "arch", "owns", "builds", "cache", "free", "cert", "ms", "buildkit"]
    assert "amd-1  ● ready" in lines[2]
    assert lines[2].endswith("amd64  amd64 v2     2/4  12 MB  50 GB  365 d   4  0.32.2")
    assert "arm-1  ✗ down" in lines[3]
    assert lines[4:] == ["arm-1: SSH: no answer", "  try: is the host up?"]


def test_a_plan_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    lanes = {"a": Lane(blocked=NO_SSH), "b": Lane(), "c": Lane(warning=REFUSED)}
    show_plan(Plan("acme", lanes=lanes, builder=(CreateBuilder(node("b", "linux/amd64")),), builder_blocked=REFUSED))
    assert capsys.readouterr().out.splitlines() == [
        "a: cannot be planned",
        "  SSH: no answer",
        "    try: is the host up?",
        "b: nothing to do",
        "c: nothing to do",
        "  warning: TCP: refused",
        "    try: fleet up --host amd-1",
        "builder: cannot be planned",
        "  TCP: refused",
        "    try: fleet up --host amd-1",
        "builder",
        "  + create the builder with b for linux/amd64",
    ]


def test_an_empty_plan_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    show_plan(Plan("acme", lanes={"a": Lane()}))
    assert capsys.readouterr().out.splitlines() == [
        "a: nothing to do",
        "Nothing to do: the fleet is as it is wanted.",
    ]


def test_a_report_for_people_has_results_on_stdout_and_reasons_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    show_report(Report((Outcome("amd-1", Result.FAILED, 2.04, NO_SSH),), Outcome("builder", Result.UNCHANGED)))
    printed = capsys.readouterr()
    assert [line.split() for line in printed.out.splitlines()] == [
        ["amd-1", "failed", "2.0", "s"],
        ["builder", "unchanged", "0.0", "s"],
    ]
    assert printed.err.splitlines() == ["  SSH: no answer", "    try: is the host up?"]


@pytest.mark.parametrize(
    ("pinned", "text"),
    [
        ((), "–"),
        (("linux/amd64",), "amd64"),
        (("linux/amd64", "linux/amd64/v2", "linux/amd64/v3", "linux/386"), "amd64 v2 v3, 386"),
        (("linux/arm64", "linux/arm/v7", "linux/arm/v6"), "arm64, arm v7 v6"),
    ],
)
def test_platforms_for_a_narrow_column(pinned: tuple[str, ...], text: str) -> None:
    assert platforms(values.platforms(*pinned)) == text


# ----------------------------------------------------------------------------------- remembered inventories

FULL = """\
fleet: acme
limits: {cpus: 4}
ssh: {user: build, port: 2222, identity_file: key}
tls:
  ca: {cert: ca.pem, key: ca.key}
  ca_passphrase_command: [pass, show, fleet/ca]
  client: {cert: me.pem, key: me.pem}
  key_type: p384
  client_days: 90
buildkit:
  image: moby/buildkit:v0.33.0
  config: {worker: {oci: {labels: {a: b}, gcpolicy: [{all: true, keepDuration: 48h}]}}, dns: {nameservers: [10.0.0.1]}}
hosts:
  amd-1: {address: 10.0.0.1, platforms: [linux/amd64, linux/386], tls: {cert: amd-1.pem, key: amd-1.key}}
  amd-2:
    address: 10.0.0.2
    limits: {memory: 8GB}
    max_builds: 2
    buildkit: {config: {dns: {options: [edns0]}}}
  arm-1: {address: arm.example, port: 1299, ssh: {user: root, sudo: true}}
  here: {connection: local}
"""
NAMED = ("key", "ca.pem", "ca.key", "me.pem", "amd-1.pem", "amd-1.key")


@pytest.fixture
def full(home: Path) -> Path:
    """An inventory with a part of each kind, and the files that it names."""
    for name in NAMED:
        (home / name).touch()
    (home / "inventory.yaml").write_text(FULL)
    return home / "inventory.yaml"


def test_a_remembered_inventory_decides_the_same(home: Path, full: Path) -> None:
    fresh, first, again = load(full), remembered.load(full), remembered.load(full)
    assert first == fresh
    # Lists of buildkit.config come back as lists; what is made of them is the same.
    same = tuple(replace(one, config=other.config) for one, other in zip(again.hosts, fresh.hosts, strict=True))
    assert replace(again, buildkit=fresh.buildkit, hosts=same) == fresh
    assert again.buildkit.image == fresh.buildkit.image
    for one, other in zip(fresh.hosts, again.hosts, strict=True):
        assert daemon_spec(fresh, one, "amd64", vault()) == daemon_spec(again, other, "amd64", vault())
    assert list((home / "cache" / "fleet" / "inventories").iterdir())


def test_a_changed_inventory_is_read_anew(home: Path) -> None:
    path = home / "inventory.yaml"
    assert [entry.name for entry in remembered.load(path).hosts] == ["amd-1"]
    path.write_text(INVENTORY + "  amd-2: {address: 10.0.0.2}\n")
    assert [entry.name for entry in remembered.load(path).hosts] == ["amd-1", "amd-2"]
    path.write_text("fleet: Acme\n")
    with pytest.raises(InventoryError):
        remembered.load(path)


@pytest.mark.parametrize("name", NAMED)
def test_a_file_that_has_gone_is_noticed(home: Path, full: Path, name: str) -> None:
    remembered.load(full)
    (home / name).unlink()
    with pytest.raises(InventoryError, match=f"there is no file '{name}'"):
        remembered.load(full)


def test_named_files_are_found_from_any_folder(home: Path, full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remembered.load(Path("inventory.yaml"))
    (home / "elsewhere").mkdir()
    for name in NAMED:
        (home / "elsewhere" / name).touch()
    monkeypatch.chdir(home / "elsewhere")
    assert remembered.load(full).hosts[0].ssh.identity_file == str(home / "key")


def test_an_inventory_saved_while_it_is_checked_is_not_remembered_as_what_it_was(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = home / "inventory.yaml"
    first = path.read_text()
    checked = parse.load

    def saved_meanwhile(path: Path) -> FleetSpec:
        spec = checked(path)
        path.write_text(first + "# saved\n")
        return spec

    monkeypatch.setattr(parse, "load", saved_meanwhile)
    remembered.load(path)
    assert not list(home.glob("cache/fleet/inventories/*"))


def test_a_torn_memory_is_of_no_account(home: Path) -> None:
    path = home / "inventory.yaml"
    fresh = remembered.load(path)
    for entry in (home / "cache" / "fleet" / "inventories").iterdir():
        entry.write_text("{")
    assert remembered.load(path) == fresh


def test_every_module_that_checks_an_inventory_is_part_of_what_is_remembered() -> None:
    code = "import sys, fleet.inventory.parse; print(*sorted(n for n in sys.modules if n.startswith('fleet.')))"
    checking = {name.removeprefix("fleet.").replace(".", "/") for name in python(code).split()}
    covered = {it.removesuffix(".py") for it in remembered._CHECKERS}
    assert {name for name in checking if name not in covered and name.split("/")[0] not in covered} == {"errors"}
