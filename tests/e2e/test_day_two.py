"""Looking and cleaning on real hosts: logs, logins, caches and disks. Each test goes on from the last."""

from __future__ import annotations

import getpass
import itertools
import json
import select
import signal
import socket
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fleet.dispatching.spread import order
from tests.e2e.conftest import Operator
from tests.support.lab import eventually

if TYPE_CHECKING:
    from tests.lab import Lab

PORT = 1241
HOSTS = ("amd-1", "amd-2")
DOCKERFILE = "ARG BASE\nFROM $BASE\nARG SALT\nARG PAUSE\nRUN head -c 3000000 /dev/urandom > /noise && sleep $PAUSE\n"


@pytest.fixture(scope="module")
def running(operator: Operator) -> Operator:
    """An operator whose fleet is up."""
    operator.inventory(HOSTS)
    (operator.home / "Dockerfile").write_text(DOCKERFILE)
    operator.json("up")
    return operator


@pytest.fixture(scope="module")
def member(running: Operator, tmp_path_factory: pytest.TempPathFactory) -> Operator:
    """Somebody who has joined that fleet and has never logged in to a host."""
    somebody = running.elsewhere(tmp_path_factory.mktemp("member"))
    running.json("certs", "issue", "ci", "-o", str(somebody.home / "bundle"))
    somebody.json("join", "bundle")
    return somebody


def building(operator: Operator, salt: str, *, pause: int = 0) -> tuple[str, ...]:
    """A build that leaves 3 MB on amd-1, and takes `pause` seconds more."""
    arguments = (f"BASE={operator.lab.env()['LAB_BASE_IMAGE']}", f"SALT={salt}", f"PAUSE={pause}")
    key = next(key for key in map(str, itertools.count()) if order(key, dict.fromkeys(HOSTS, 1))[0] == "amd-1")
    return (
        *("fleet", "build", "--affinity", key, "--progress", "plain", "--platform", "linux/amd64"),
        *(word for argument in arguments for word in ("--build-arg", argument)),
        *("--output", "type=cacheonly", "."),
    )


def held(operator: Operator, *nodes: str) -> dict[str, Any]:
    return {node["name"]: node for node in operator.json("du", *nodes)["nodes"]}


# ---------------------------------------------------------------------------------------------------- logs


def test_the_logs_of_all_nodes_are_one_in_the_order_of_time(running: Operator) -> None:
    lines = [json.loads(line) for line in running.fleet("logs", "--json").stdout.splitlines()]
    assert {line["node"] for line in lines} == set(HOSTS)
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    for name in HOSTS:
        assert any("running server on" in line["line"] for line in lines if line["node"] == name)


def test_logs_may_be_of_some_nodes_and_of_the_last_lines(running: Operator) -> None:
    lines = running.fleet("logs", "amd-2", "-n", "2").stdout.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("amd-2 | time=") for line in lines)


def test_logs_may_begin_at_a_moment(running: Operator) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert running.fleet("logs", "--since", tomorrow.isoformat()).stdout == ""
    assert running.fleet("logs", "--since", "1h").stdout == running.fleet("logs").stdout


def test_a_node_without_a_daemon_does_not_stop_the_others(lab: Lab, running: Operator) -> None:
    lab.hosts["amd-2"].ssh(f"docker rm -f fleet.{running.name}.amd-2")
    try:
        done = running.fleet("logs", expect=3)
    finally:
        running.json("up")
    assert {line.split()[0] for line in done.stdout.splitlines()} == {"amd-1"}
    assert "amd-2: container: Docker said: No such container" in done.stderr


def test_what_is_followed_comes_as_it_is_written_and_ends_by_interrupt(lab: Lab, running: Operator) -> None:
    with subprocess.Popen(
        ("fleet", "logs", "-f", "-n", "0"), env=running.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as follow:
        try:
            # A restart before it follows is not seen: go on until one is.
            eventually(lambda: _restart(lab, f"fleet.{running.name}.amd-2", follow))
            follow.send_signal(signal.SIGINT)
            shown, told = follow.communicate(timeout=20)
        finally:
            follow.kill()
    assert "stopping server" in shown
    assert all(line.startswith("amd-2 | ") for line in shown.splitlines())
    assert told == "amd-2: its log has ended: the daemon has stopped\n"
    assert follow.returncode == 0


def _restart(lab: Lab, container: str, follow: subprocess.Popen[str]) -> bool | None:
    """Restart a daemon; whether that was seen."""
    lab.hosts["amd-2"].ssh(f"docker restart -t 5 {container}")
    assert follow.stderr
    return True if select.select([follow.stderr], [], [], 1)[0] else None


# -------------------------------------------------------------------------------------------------- history


def test_who_changed_what_is_noted_on_the_hosts(lab: Lab, running: Operator) -> None:
    operator, begun = f"{getpass.getuser()}@{socket.gethostname()}", datetime.now(UTC)
    running.json("drain", "amd-2")
    running.json("resume", "amd-2")
    drained, resumed = running.json("history", "-n", "2")["entries"]
    assert [(entry["node"], entry["command"], entry["result"]) for entry in (drained, resumed)] == [
        ("amd-2", "drain", "done"),
        ("amd-2", "resume", "done"),
    ]
    assert drained["by"] == operator
    assert begun <= datetime.fromisoformat(drained["at"]) <= datetime.fromisoformat(resumed["at"]) <= datetime.now(UTC)
    deployed = [entry for entry in running.json("history")["entries"] if entry["command"] == "up"]
    assert {entry["node"] for entry in deployed} == set(HOSTS)
    assert any(f"start fleet.{running.name}.amd-1" in entry["actions"] for entry in deployed)
    at = f"~build/.local/state/fleet/{running.name}.jsonl"
    assert lab.hosts["amd-1"].ssh(f"stat -c '%a %U' {at}").strip() == "600 build"
    before = lab.hosts["amd-1"].ssh(f"wc -l {at}")
    running.json("up")
    assert lab.hosts["amd-1"].ssh(f"wc -l {at}") == before


# ---------------------------------------------------------------------------------------------------- login


def test_a_command_runs_on_the_host_with_its_exit_code(running: Operator) -> None:
    name = running.lab.hosts["amd-1"].host.name
    assert running.fleet("ssh", "amd-1", "hostname", "&&", "echo", "-n", "$USER").stdout == f"{name}\nbuild"
    assert running.fleet("ssh", "amd-2", "exit 7", expect=7).stdout == ""


def test_a_host_whose_key_nobody_knows_is_refused(running: Operator, tmp_path: Path) -> None:
    (tmp_path / "known_hosts").touch()
    running.inventory(HOSTS, known_hosts_file=str(tmp_path / "known_hosts"))
    try:
        refused = running.fleet("ssh", "amd-1", "true", expect=255)
    finally:
        running.inventory(HOSTS)
    assert "Host key verification failed" in refused.stderr


@pytest.mark.parametrize("typed", [("ssh", "amd-1"), ("logs",)], ids=str)
def test_who_has_joined_has_no_way_into_the_hosts(member: Operator, typed: tuple[str, ...]) -> None:
    assert "this needs an operator" in member.fleet(*typed, expect=2).stderr


# ------------------------------------------------------------------------------------------ caches and disks


def test_a_build_is_seen_in_the_cache_and_the_disk(running: Operator, member: Operator) -> None:
    built = running.run(*building(running, "first"))
    assert built.returncode == 0, built.stderr
    eventually(lambda: held(running)["amd-1"]["in_use_bytes"] == 0 or None)
    found = held(running)
    assert found["amd-1"]["cache_bytes"] > 3_000_000
    assert found["amd-1"]["records"] > 0
    assert 0 < found["amd-1"]["free_bytes"] < found["amd-1"]["disk_bytes"]
    theirs = held(member)
    assert theirs["amd-1"]["cache_bytes"] == found["amd-1"]["cache_bytes"]
    assert (theirs["amd-1"]["free_bytes"], theirs["amd-1"]["warning"]) == (None, None)


def test_pruning_asks_and_nobody_is_there_to_answer(running: Operator) -> None:
    before = held(running)
    asked = running.fleet("prune", expect=2)
    assert "amd-1  about " in asked.stderr
    assert "say --yes" in asked.stderr
    assert held(running)["amd-1"]["cache_bytes"] == before["amd-1"]["cache_bytes"]


def test_what_may_stay_stays(running: Operator) -> None:
    for option in (("--keep", "1GB"), ("--older", "1h")):
        freed = running.json("prune", "--yes", *option)
        assert [node["freed_bytes"] for node in freed["nodes"]] == [0, 0]


def test_builds_under_way_are_not_disturbed(running: Operator) -> None:
    argv = building(running, "second", pause=6)
    with subprocess.Popen(argv, env=running.env, cwd=running.home, text=True, stderr=subprocess.PIPE) as build:
        eventually(lambda: _builds(running) or None)
        freed = running.json("prune", "--all", "--yes")
        assert _builds(running) == 1
        said = build.communicate()[1]
    assert build.returncode == 0, said
    assert freed["nodes"][0]["freed_bytes"] > 3_000_000
    assert freed["nodes"][0]["failure"] is None


def _builds(operator: Operator) -> int:
    return int(operator.json("status")["nodes"][0]["active_builds"] or 0)


def test_who_has_joined_may_prune_a_node(member: Operator) -> None:
    eventually(lambda: held(member)["amd-1"]["in_use_bytes"] == 0 or None)
    freed = member.json("prune", "amd-1", "--all", "--yes")
    assert [(node["name"], node["freed_bytes"] > 3_000_000) for node in freed["nodes"]] == [("amd-1", True)]
    assert held(member)["amd-1"]["cache_bytes"] == 0


def test_a_node_that_is_down_is_told_and_the_others_are_pruned(lab: Lab, running: Operator) -> None:
    lab.hosts["amd-2"].ssh(f"docker stop -t 5 fleet.{running.name}.amd-2")
    try:
        freed = running.json("prune", "--yes", expect=3)
        shown = running.fleet("du", expect=3)
    finally:
        lab.hosts["amd-2"].ssh(f"docker start fleet.{running.name}.amd-2")
    assert [node["failure"] and node["failure"]["stage"] for node in freed["nodes"]] == [None, "TCP"]
    assert "amd-2: TCP: " in shown.stderr


# -------------------------------------------------------------------------------------------------- limits


def test_a_step_that_takes_more_than_its_hosts_limit_is_ended_and_the_daemon_goes_on(running: Operator) -> None:
    path = running.home / "inventory.yaml"
    wanted = json.loads(path.read_text())
    path.write_text(json.dumps(wanted | {"limits": {"memory": "256MB"}, "max_builds": 2}))
    changed = running.json("up")
    assert [node["result"] for node in changed["nodes"]] == ["done", "done"]
    (running.home / "greedy").mkdir()
    (running.home / "greedy" / "Dockerfile").write_text(
        f"FROM {running.lab.env()['LAB_BASE_IMAGE']}\nRUN head -c 400000000 /dev/zero | tail -c 350000000 | grep -q .\n"
    )
    greedy = ("--progress", "plain", "--platform", "linux/amd64", "--output", "type=cacheonly", "greedy")
    said = running.fleet("build", *greedy, expect=1).stderr
    assert "Killed" in said
    nodes = running.settled_status()["nodes"]
    assert [(node["health"], node["max_builds"]) for node in nodes] == [("ready", 2), ("ready", 2)]
