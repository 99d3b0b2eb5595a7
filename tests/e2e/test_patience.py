"""How long `fleet up` waits for builds, and where it says it stopped: --no-wait, --timeout, ctrl-C at each stage."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Operator
from tests.support.lab import eventually

PORT = 1287
AMD = ("amd-1", "amd-2")
STOPPED = "stopped before: its daemon is replaced"


@pytest.fixture(scope="module")
def running(operator: Operator) -> Operator:
    """Two nodes at work, of which amd-1 is the owner."""
    operator.inventory(AMD)
    operator.fleet("up")
    return operator


def change(operator: Operator, parallelism: int) -> None:
    """Want another setting of BuildKit on amd-1, which makes no difference here."""
    path = operator.home / "inventory.yaml"
    wanted = json.loads(path.read_text())
    wanted["hosts"]["amd-1"]["buildkit"] = {"config": {"worker": {"oci": {"max-parallelism": parallelism}}}}
    path.write_text(json.dumps(wanted))


def is_whole(operator: Operator) -> None:
    """Every node takes builds, and the daemon is the one that was there: all is still to be done."""
    health = {node["name"]: node["health"] for node in operator.settled_status()["nodes"]}
    assert health == dict.fromkeys(AMD, "ready")
    [why] = operator.json("plan", "--host", "amd-1")["nodes"][0]["why"]
    assert why.startswith("config: ")


@pytest.fixture
def build(running: Operator, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A build under way on amd-1 that takes five minutes."""
    base = running.lab.env()["LAB_BASE_IMAGE"]
    (tmp_path / "Dockerfile").write_text(f"FROM {base}\nARG SALT\nRUN sleep 300\n")
    argv = (*("docker", "buildx", "build", "--builder", running.name), "--progress", "plain")
    with subprocess.Popen(
        (*argv, "--build-arg", f"SALT={tmp_path}", "--output", "type=cacheonly", str(tmp_path)),
        env=running.env,
        text=True,
        stderr=subprocess.PIPE,
    ) as under_way:
        try:
            eventually(lambda: builds(running)["amd-1"] or None)
            yield under_way
        finally:
            under_way.kill()


def builds(operator: Operator) -> dict[str, int]:
    return {node["name"]: node["active_builds"] or 0 for node in operator.json("status", expect=None)["nodes"]}


def failures(printed: str) -> dict[str, str]:
    """Node -> why its lane did not end well."""
    nodes: list[Any] = json.loads(printed)["nodes"]
    return {node["name"]: node["failure"]["reason"] for node in nodes if node["failure"]}


def interrupt(run: subprocess.Popen[str]) -> None:
    run.send_signal(signal.SIGINT)


def test_a_build_is_waited_for_until_the_time_is_over_or_the_patience_of_who_waits(
    running: Operator, build: subprocess.Popen[str]
) -> None:
    change(running, 21)
    late = running.fleet("up", "--json", "--timeout", "8s", expect=3)
    assert failures(late.stdout) == {"amd-1": f"the time was over, {STOPPED}"}
    is_whole(running)
    waiting = running.at("up", "--json", lines=["amd-1: waiting for 1 build to end"], do=interrupt)
    assert waiting.returncode == 130, waiting.stderr
    assert failures(waiting.stdout) == {"amd-1": STOPPED}
    is_whole(running)
    assert (build.poll(), builds(running)["amd-1"]) == (None, 1)
    hurried = running.fleet("up", "-v", "--no-wait")
    assert "amd-1: do not wait until its builds have ended" in hurried.stderr
    assert "running builds have 10 s" in hurried.stderr
    assert build.wait(timeout=20) != 0
    assert running.json("plan", "--exit-code")["empty"]


def test_when_the_time_is_over_at_once_nothing_is_begun(running: Operator) -> None:
    change(running, 22)
    late = running.fleet("up", "--json", "--timeout", "0s", expect=3)
    assert failures(late.stdout) == {"amd-1": "the time was over, stopped before: keep new builds away"}
    is_whole(running)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("fleet: asking", "fleet: interrupted at: asking 2 hosts"),
        ("builder: ", "fleet: interrupted at: builder: "),
        ("fleet: looking again", "fleet: interrupted at: looking again"),
    ],
)
def test_an_interrupt_says_where_it_was_and_the_next_run_goes_on_there(running: Operator, line: str, said: str) -> None:
    running.run("docker", "buildx", "rm", running.name)
    stopped = running.at("up", lines=[line], do=interrupt)
    assert stopped.returncode == 130, stopped.stderr
    assert said in stopped.stderr
    assert "try: run the command again: it goes on where it stopped" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    running.fleet("up")
    assert running.json("plan", "--exit-code")["empty"]
