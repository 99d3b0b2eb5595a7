"""A fleet that changes node by node: put back where it goes wrong, mended after a kill.

While builds of every platform run: test_while_building.
"""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import Operator
from tests.support.building import PAUSE, Kind, build
from tests.support.lab import eventually

PORT = 1257
AMD = ("amd-1", "amd-2")
EMULATED_PAUSE = 2 * PAUSE


@pytest.fixture(scope="module", autouse=True)
def deployed(operator: Operator) -> None:
    operator.inventory(AMD)
    operator.fleet("up")


def change(operator: Operator, *, parallelism: int, image: str | None = None) -> None:
    """Write the inventory anew, with another setting of BuildKit that makes no difference here."""
    operator.inventory(sorted(operator.touched))
    inventory = json.loads((operator.home / "inventory.yaml").read_text())
    inventory["buildkit"]["config"]["worker"] = {"oci": {"max-parallelism": parallelism}}
    inventory["buildkit"]["image"] = image or inventory["buildkit"]["image"]
    (operator.home / "inventory.yaml").write_text(json.dumps(inventory))


def ask(operator: Operator, command: str) -> dict[str, str]:
    """What each host's shell says; DAEMON stands for the name of this fleet's daemon there."""
    return {
        name: operator.lab.hosts[name].ssh(command.replace("DAEMON", f"fleet.{operator.name}.{name}")).strip()
        for name in sorted(operator.touched)
    }


def containers(operator: Operator) -> dict[str, str]:
    return ask(operator, "docker ps -a --no-trunc --filter name=DAEMON --format '{{.Names}} {{.ID}} {{.State}}'")


def on_amd_1(operator: Operator) -> str:
    return operator.lab.hosts["amd-1"].ssh(
        f"docker ps -a --filter name=fleet.{operator.name} --format '{{{{.Names}}}}'"
    )


def caches(operator: Operator) -> dict[str, str]:
    return ask(operator, "docker volume inspect -f '{{.CreatedAt}}' DAEMON")


def kind(person: Operator, command: str, platform: str) -> Kind:
    """A build of theirs by plain `docker`, or by `fleet`."""
    typed = ("docker", "buildx", "build", "--builder", person.name) if command == "docker" else ("fleet", "build")
    # An emulated node is as busy with one build as others are with several.
    pause = EMULATED_PAUSE if "arm" in platform else PAUSE
    return Kind(f"{person.home.name}: {command} {platform}", (*typed, "--platform", platform), person.env, pause)


def builds_go_on(operator: Operator, context: Path) -> None:
    for command in ("docker", "fleet"):
        made = build(context, operator.lab.env()["LAB_BASE_IMAGE"], kind(operator, command, "linux/amd64"))
        assert made.code == 0, made


def all_are_ready(operator: Operator) -> None:
    """No node is drained or down; an emulated host may be slow to say so."""

    def unready() -> list[str]:
        return [str(node) for node in operator.json("status", expect=None)["nodes"] if node["health"] != "ready"]

    eventually(lambda: not unready() or None, seconds=120)


def is_settled(operator: Operator) -> None:
    """As it is wanted, nothing left over, no node drained."""
    assert operator.json("plan", "--exit-code")["empty"] is True
    assert {text.count("\n") for text in containers(operator).values()} == {0}
    all_are_ready(operator)


def test_a_broken_change_stops_at_the_canary_and_puts_it_back(operator: Operator, context: Path) -> None:
    before, kept = containers(operator), caches(operator)
    good = (operator.home / "inventory.yaml").read_text()
    change(operator, parallelism=12, image=operator.lab.env()["LAB_BASE_IMAGE"])
    try:
        report = operator.json("up", expect=1)
        nodes = {node["name"]: node for node in report["nodes"]}
        assert {name: node["result"] for name, node in nodes.items()} == {
            "amd-1": "failed",
            "amd-2": "blocked",
        }
        assert "the former daemon is back" in json.dumps(nodes["amd-1"])
        assert "not begun, as amd-1 failed" in json.dumps(nodes["amd-2"])
        assert (containers(operator), caches(operator)) == (before, kept)
        all_are_ready(operator)
        said = operator.json("plan", "--exit-code", expect=4)
        assert all(node["why"] for node in said["nodes"])
        builds_go_on(operator, context)
    finally:
        (operator.home / "inventory.yaml").write_text(good)
    is_settled(operator)


def interrupted(operator: Operator, sign: signal.Signals) -> subprocess.CompletedProcess[str]:
    """`fleet up` that gets the signal as soon as a daemon is set aside."""
    run = subprocess.Popen(
        ("fleet", "up", "-v"),
        env=operator.env,
        cwd=operator.home,
        text=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        eventually(lambda: ".aside" in on_amd_1(operator) or None)
        run.send_signal(sign)
        out, err = run.communicate(timeout=200)
    finally:
        run.kill()
    return subprocess.CompletedProcess(run.args, run.returncode, out, err)


def test_after_a_kill_in_the_middle_the_next_run_ends_clean(operator: Operator) -> None:
    kept = caches(operator)
    change(operator, parallelism=13)
    assert interrupted(operator, signal.SIGKILL).returncode == -signal.SIGKILL
    assert ".aside" in on_amd_1(operator)
    operator.fleet("up")
    assert caches(operator) == kept
    is_settled(operator)


def test_an_interrupt_in_the_middle_leaves_every_host_as_one_can_be_left(operator: Operator, context: Path) -> None:
    before, kept = containers(operator), caches(operator)
    change(operator, parallelism=14)
    stopped = interrupted(operator, signal.SIGINT)
    assert stopped.returncode == 130, stopped.stderr
    assert "stopped before" in stopped.stderr + stopped.stdout
    after = containers(operator)
    assert {name: text == before[name] for name, text in after.items()} == {
        "amd-1": False,
        "amd-2": True,
    }
    all_are_ready(operator)
    builds_go_on(operator, context)
    operator.fleet("up")
    assert caches(operator) == kept
    is_settled(operator)
