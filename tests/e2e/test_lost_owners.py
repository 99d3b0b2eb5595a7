"""Twenty pushes that lose their node, each at another moment; and twenty builds at once: on two hosts of one kind."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from docker import APIClient

from tests.e2e.conftest import Operator
from tests.e2e.test_dispatch import affine, nothing_is_left
from tests.support.lab import docker_socket

PORT = 1267
AMD = ("amd-1", "amd-2")

SEED = 20
TIMES = 20
STEPS = 4

KILLS: Mapping[str, Callable[[APIClient, str], object]] = {
    "stays dead": lambda docker, daemon: docker.kill(daemon),
    # Begun anew at once, it remembers nothing of what it was at.
    "comes back": lambda docker, daemon: docker.restart(daemon, timeout=0),
}

DOCKERFILE = "ARG BASE\nFROM $BASE\nARG SALT\n" + "".join(
    f"RUN sleep 0.4; head -c 400000 /dev/urandom > /noise-{step}; echo $SALT > /salt-{step}\n" for step in range(STEPS)
)


@pytest.fixture(scope="module", autouse=True)
def _up(operator: Operator) -> None:
    operator.inventory(AMD)
    (operator.home / "context").mkdir()
    (operator.home / "context/Dockerfile").write_text(DOCKERFILE)
    operator.json("up")


@dataclass(frozen=True, slots=True)
class Push:
    """A build that pushes an image of its own, from a project whose node is this one."""

    operator: Operator
    name: str
    node: str

    @property
    def image(self) -> str:
        return f"{self.operator.lab.env()['LAB_REGISTRY']}/e2e/lost-owners:{self.name}"

    @property
    def salt(self) -> str:
        return f"{self.operator.home}/{self.name}"

    def begin(self) -> subprocess.Popen[str]:
        """Begin it, and wait until buildx is at work."""
        base = self.operator.lab.env()["LAB_BASE_IMAGE"]
        argv = (
            *("fleet", "build", "--json", "--platform", "linux/amd64", "--affinity", affine(self.node)),
            *("--progress", "plain", "--build-arg", f"BASE={base}", "--build-arg", f"SALT={self.salt}"),
            *("--output", f"type=image,name={self.image},push=true,registry.insecure=true", "context"),
        )
        home = self.operator.home
        pipe = subprocess.PIPE
        build = subprocess.Popen(argv, env=self.operator.env, cwd=home, stdout=pipe, stderr=pipe, text=True)
        assert build.stderr
        assert build.stderr.readline().startswith("#"), build.communicate()
        return build

    def runs(self, node: str) -> bool:
        """Whether this host's Docker, which verifies every layer, pulls it whole, and it runs."""
        said = self.operator.lab.hosts[node].ssh(
            f"docker run --rm --quiet {self.image} sh -c 'cat /salt-*'; docker rmi --force {self.image} > /dev/null"
        )
        return said.split() == [self.salt] * STEPS


@pytest.mark.timeout(400)
def test_killed_at_any_moment_every_push_ends_whole_on_the_other_node(operator: Operator) -> None:
    took = [_seconds(Push(operator, f"healthy-{name}", name)) for name in AMD]
    # Before all is pushed: what fleet and buildx do after that takes a quarter of a second.
    chance, latest, lost = random.Random(SEED), 0.85 * min(took), 0  # noqa: S311 - moments, no secrets
    # A login would take as long as some of the moments.
    docker = {name: APIClient(f"unix://{docker_socket(operator.lab, name)}") for name in AMD}
    print(f"\nseed {SEED}; healthy: {max(took):.1f} s")  # noqa: T201 - the table to quote
    for number in range(TIMES):
        node, other = AMD[number % 2], AMD[(number + 1) % 2]
        how, after = chance.choice(list(KILLS)), chance.uniform(0, latest)
        push = Push(operator, str(number), node)
        with push.begin() as build:
            time.sleep(after)
            killed = time.monotonic()
            KILLS[how](docker[node], f"fleet.{operator.name}.{node}")
            out, said = build.communicate()
        seconds = time.monotonic() - killed
        docker[node].start(f"fleet.{operator.name}.{node}")
        assert build.returncode == 0, f"killed after {after:.2f} s\n{said}"
        assert push.runs(other), f"killed after {after:.2f} s\n{said}"
        told = f"{node} is lost (" in said and f"linux/amd64 goes on on {other}" in said
        finished = json.loads(out)["builds"][0]["node"]
        print(f"| {after:.2f} s | {node} {how} | whole on {finished} | {seconds:.1f} s |")  # noqa: T201 - the same
        # One that is killed when all is pushed is not missed.
        assert finished == (other if told else node), said
        lost += told
    assert lost >= TIMES * 3 // 4
    nothing_is_left(operator)


def _seconds(push: Push) -> float:
    with push.begin() as build:
        began = time.monotonic()
        out, said = build.communicate()
        seconds = time.monotonic() - began
    assert json.loads(out)["builds"][0]["node"] == push.node, said
    return seconds


def test_many_from_one_machine_share_nothing_that_changes(operator: Operator, tmp_path: Path) -> None:
    users, base = _contents(operator.home / "buildx"), operator.lab.env()["LAB_BASE_IMAGE"]
    argv = (
        *("fleet", "build", "--json", "--platform", "linux/amd64", "--progress", "plain", "--no-cache"),
        *("--build-arg", f"BASE={base}", "--output", "type=cacheonly", "context"),
    )
    env = operator.env | {"TMPDIR": str(tmp_path)}
    begun = [
        subprocess.Popen(argv, env=env, cwd=operator.home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(TIMES)
    ]
    ended = [(*process.communicate(), process.returncode) for process in begun]
    assert [said for _, said, code in ended if code] == []
    used = Counter(_node(json.loads(out)) for out, _, _ in ended)
    assert set(used) == set(AMD)
    assert min(used.values()) >= TIMES // 5, used
    nothing_is_left(operator)
    assert list(tmp_path.iterdir()) == []
    assert _contents(operator.home / "buildx") == users
    # One builder a node is made, and used by all.
    assert len(list((operator.vault / "buildx/instances").iterdir())) == len(AMD)


def _node(told: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    [built] = told["builds"]
    return str(built["node"])


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
