"""Who would build what, what runs and what ran, and what came of it: `route`, `builds` and `inspect` on real parts."""

from __future__ import annotations

import json
import select
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fleet.model.platforms import Platform
from tests.e2e.conftest import Operator
from tests.support import pushed
from tests.support.lab import eventually

PORT = 1265
HOSTS = ("amd-1", "amd-2")
DOCKERFILE = """\
ARG BASE
FROM $BASE AS base
ARG SALT
ARG PAUSE=0
ARG TOKEN
RUN sleep $PAUSE && echo $SALT > /salt
RUN cp /salt /pepper && echo "the token is $TOKEN"
FROM base AS broken
RUN exit 7
FROM base
"""
SOURCE = "https://anna:s3cret@git.example.com/acme/app.git"


@pytest.fixture(scope="module")
def running(operator: Operator) -> Operator:
    """An operator whose fleet is up, in a checkout whose remote has a password in it."""
    operator.inventory(HOSTS)
    (operator.home / "Dockerfile").write_text(DOCKERFILE)
    operator.json("up")
    operator.run("git", "init", "--quiet", ".")
    operator.run("git", "remote", "add", "origin", SOURCE)
    return operator


def build(operator: Operator, *options: str, pause: int = 0, salt: str = "") -> tuple[str, ...]:
    given = {"BASE": operator.lab.env()["LAB_BASE_IMAGE"], "SALT": salt, "PAUSE": str(pause), "TOKEN": "s3cret"}
    return (
        *("fleet", "build", "--progress", "plain", "--platform", "linux/amd64"),
        *(word for key, value in given.items() for word in ("--build-arg", f"{key}={value}")),
        *(options or ("--output", "type=cacheonly")),
        ".",
    )


def builds(operator: Operator) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = operator.json("builds")["builds"]
    return found


# --------------------------------------------------------------------------------------------------- route


def test_route_says_where_the_build_then_goes(running: Operator) -> None:
    (told,) = running.json("route", "--platform", "linux/amd64")["routes"]
    assert (told["platform"], told["refused"]) == ("linux/amd64", False)
    assert {told["node"], *(other["name"] for other in told["others"])} == set(HOSTS)
    before = {record["ref"] for record in builds(running)}
    assert running.run(*build(running, salt="route")).returncode == 0
    (built,) = [record for record in builds(running) if record["ref"] not in before]
    assert built["node"] == told["node"]


def test_route_follows_the_project(running: Operator) -> None:
    nodes = {
        running.json("route", "--platform", "linux/amd64", "--affinity", str(key))["routes"][0]["node"]
        for key in range(4)
    }
    assert nodes == set(HOSTS)


def test_route_tells_all_platforms_and_why_others_would_not(running: Operator) -> None:
    running.fleet("drain", "amd-2")
    try:
        lines = running.fleet("route", "--explain").stdout.splitlines()
    finally:
        running.fleet("resume", "amd-2")
    assert lines[0].split() == ["platform", "node", "why"]
    assert any(line.startswith("linux/amd64 ") and "amd-1" in line for line in lines)
    assert any(line.startswith("  amd-2: drained: by ") for line in lines)


def test_a_platform_that_nobody_has_is_told_in_the_words_of_a_build(running: Operator) -> None:
    asked = ("--platform", "linux/arm64")
    told = running.fleet("route", *asked, expect=1)
    refused = running.fleet("build", *asked, ".", expect=1)
    assert "no healthy node runs linux/arm64 natively" in told.stderr
    assert told.stderr.splitlines()[-4:] == refused.stderr.splitlines()[-4:]


@pytest.mark.parametrize("asked", ["amd64", "linux/amd64/v1", "linux/x86_64", "linux/386", "linux/386,linux/amd64"])
def test_however_a_platform_is_spelled_buildx_finds_the_node(running: Operator, asked: str) -> None:
    (running.home / "scratch").write_text("FROM scratch\nCOPY Dockerfile /\n")
    before = {record["ref"] for record in builds(running)}
    arguments = ("--platform", asked, "-f", "scratch", "--output", "type=cacheonly", ".")
    assert running.run("fleet", "build", *arguments).returncode == 0
    built = [record for record in builds(running) if record["ref"] not in before]
    assert {platform for record in built for platform in record["platforms"]} == {
        str(Platform.parse(text)) for text in asked.split(",")
    }
    routes = running.json("route", "--platform", asked)["routes"]
    assert {record["node"] for record in built} == {told["node"] for told in routes}


# -------------------------------------------------------------------------------------------------- builds


def test_a_build_is_told_without_its_secrets(running: Operator) -> None:
    assert running.run(*build(running, salt="told")).returncode == 0
    told = builds(running)[-1]
    assert (told["state"], told["platforms"], told["asked_by"]) == ("done", ["linux/amd64"], "this machine")
    assert told["project"] == "git.example.com/acme/app"
    assert 0 < told["steps"]["done"] <= told["steps"]["total"]
    assert 0 < told["seconds"] < 60
    for arguments in (("builds",), ("builds", "--json")):
        assert "s3cret" not in running.fleet(*arguments).stdout


def test_the_same_build_again_comes_from_the_cache(running: Operator) -> None:
    for _ in range(2):
        assert running.run(*build(running, salt="again")).returncode == 0
    first, second = (record["steps"]["cached"] for record in builds(running)[-2:])
    assert second > first


def test_a_build_is_told_step_by_step_without_its_secrets(running: Operator) -> None:
    assert running.run(*build(running, salt="by step")).returncode == 0
    ref = builds(running)[-1]["ref"]
    lines = running.fleet("builds", "--steps", ref[:10]).stdout.splitlines()
    assert any(line.endswith("the token is $TOKEN") for line in lines)
    assert any(line.endswith("echo $SALT > /salt") for line in lines)
    assert lines[-1].startswith("git.example.com/acme/app, linux/amd64 on ")
    told = running.json("builds", "--steps", ref)
    assert (told["ref"], told["state"]) == (ref, "done")
    assert {step["state"] for step in told["log"]} <= {"done", "cached"}
    assert "s3cret" not in json.dumps(told) + "".join(lines)


def test_a_build_that_runs_is_told_to_its_end(running: Operator) -> None:
    with subprocess.Popen(
        build(running, pause=3, salt="to the end"), env=running.env, cwd=running.home, stderr=subprocess.DEVNULL
    ) as process:
        last = eventually(lambda: next((one for one in builds(running) if one["state"] == "running"), None))
        told = running.json("builds", "--steps", last["ref"])
        assert process.wait() == 0
    assert (told["ref"], told["state"]) == (last["ref"], "done")
    assert any("sleep 3" in step["step"] or "sleep $PAUSE" in step["step"] for step in told["log"])
    assert told["steps"]["done"] == told["steps"]["total"]


def test_a_build_that_fails_says_why_and_one_that_is_interrupted_that_it_was(running: Operator) -> None:
    output = ("--output", "type=cacheonly")
    assert running.run(*build(running, "--target", "broken", *output, salt="x")).returncode
    told = builds(running)[-1]
    assert (told["state"], told["project"]) == ("failed", "git.example.com/acme/app (broken)")
    assert "exit code: 7" in told["reason"]
    with subprocess.Popen(
        build(running, pause=60, salt="interrupted"), env=running.env, cwd=running.home, stderr=subprocess.DEVNULL
    ) as process:
        eventually(lambda: builds(running)[-1]["state"] == "running" or None)
        process.send_signal(signal.SIGINT)
    assert eventually(lambda: (last := builds(running)[-1])["state"] != "running" and last)["state"] == "canceled"


def test_what_runs_is_followed_to_its_end(running: Operator) -> None:
    with subprocess.Popen(
        ("fleet", "builds", "-f", "-n", "0", "--json"), env=running.env, stdout=subprocess.PIPE, text=True
    ) as feed:
        assert feed.stdout
        with subprocess.Popen(
            build(running, pause=3, salt="followed"), env=running.env, cwd=running.home, stderr=subprocess.DEVNULL
        ) as process:
            begun = _next(feed)
            while (now := builds(running)[-1])["state"] == "running" and not (now["steps"] or {}).get("total"):
                pass
            assert now["steps"]["done"] < now["steps"]["total"]
            assert now["asked_by"] == "this machine"
            assert process.wait() == 0
        ended = _next(feed)
        feed.send_signal(signal.SIGINT)
        assert feed.wait(10) == 0
    assert (begun["ref"], begun["state"], ended["state"]) == (ended["ref"], "running", "done")


def _next(feed: subprocess.Popen[str]) -> dict[str, Any]:
    assert feed.stdout
    assert select.select([feed.stdout], [], [], 60)[0]
    told: dict[str, Any] = json.loads(feed.stdout.readline())
    return told


def test_a_node_that_does_not_answer_is_named(running: Operator) -> None:
    container = f"fleet.{running.name}.amd-2"
    running.lab.hosts["amd-2"].ssh(f"docker stop -t 1 {container}")
    try:
        told = running.fleet("builds", expect=3)
    finally:
        running.lab.hosts["amd-2"].ssh(f"docker start {container}")
    assert told.stderr.startswith("amd-2: TCP: ")
    eventually(lambda: running.fleet("builds", expect=None).returncode == 0 or None)


def test_somebody_who_joined_sees_the_same_and_who_asked_only_of_their_own(running: Operator, tmp_path: Path) -> None:
    member = running.elsewhere(tmp_path)
    running.json("certs", "issue", "ci", "-o", str(tmp_path / "bundle"))
    member.json("join", "bundle")
    known = {record["ref"]: record for record in builds(running)}
    seen = {record["ref"]: record for record in builds(member)}
    assert seen.keys() == known.keys()
    assert {record["asked_by"] for record in seen.values()} == {None}
    (route,) = member.json("route", "--platform", "linux/amd64", "--affinity", "app")["routes"]
    assert route == running.json("route", "--platform", "linux/amd64", "--affinity", "app")["routes"][0]


# ------------------------------------------------------------------------------------------------- inspect


def test_what_was_pushed_is_what_it_is_listed_as(running: Operator) -> None:
    image = f"{running.lab.env()['LAB_REGISTRY']}/e2e/builds:v1"
    output = ("--output", f"type=image,name={image},push=true,registry.insecure=true")
    assert running.run(*build(running, *output)).returncode == 0
    told = running.json("inspect", image)
    (found,) = told["images"]
    assert (found["platform"], found["actual_platform"], found["matches"]) == ("linux/amd64", "linux/amd64", True)
    assert found["size_bytes"] > 100_000
    assert found["attestations"] == ["https://slsa.dev/provenance/v1"]
    assert image in running.fleet("inspect", image).stdout


def test_an_image_that_is_listed_as_another_is_told(running: Operator) -> None:
    registry = running.lab.env()["LAB_REGISTRY"]
    image = f"{registry}/e2e/builds"
    output = ("--output", f"type=image,name={image}:v2,push=true,registry.insecure=true")
    assert running.run(*build(running, *output)).returncode == 0
    listed = pushed.index(registry, "e2e/builds", "v2")
    listed["manifests"][0]["platform"]["architecture"] = "arm64"
    pushed.put_index(registry, "e2e/builds", "wrong", listed)
    told = running.fleet("inspect", f"{image}:wrong", expect=1)
    assert "linux/arm64: this image is for linux/amd64 (sha256:" in told.stderr


def test_an_image_that_is_not_there_is_said(running: Operator) -> None:
    missing = f"{running.lab.env()['LAB_REGISTRY']}/e2e/nothing:v1"
    assert f"cannot get {missing}" in running.fleet("inspect", missing, expect=1).stderr
