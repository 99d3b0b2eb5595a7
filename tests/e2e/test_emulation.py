"""Binfmt handlers on a real kernel: installed and removed, and used by nobody who has not asked for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Operator
from tests.lab import Lab
from tests.support.lab import eventually

pytestmark = pytest.mark.alone

PORT = 1269
HANDLER = "/proc/sys/fs/binfmt_misc/qemu-aarch64"


def degraded(operator: Operator) -> Any:
    [node] = operator.json("status", expect=None)["nodes"]
    return node if node["health"] == "degraded" else None


@pytest.fixture(scope="module", autouse=True)
def _without_handlers(lab: Lab) -> Iterator[None]:
    """The namespace hosts share this machine's kernel, and so its handlers."""
    host = lab.hosts["amd-1"]
    if "aarch64" in host.ssh("ls /proc/sys/fs/binfmt_misc"):
        pytest.skip("this machine emulates arm64 already, and that is not the tests' to change")
    yield
    host.ssh(f"[ ! -e {HANDLER} ] || echo -1 > {HANDLER}")


def test_handlers_come_serve_who_asks_and_go(operator: Operator, tmp_path: Path) -> None:
    env, host = operator.lab.env(), operator.lab.hosts["amd-1"]
    operator.inventory(["amd-1"])
    operator.json("up")
    (tmp_path / "Dockerfile").write_text(
        "ARG BASE\nFROM $BASE AS run\nRUN uname -m > /machine\nFROM scratch\nCOPY --from=run /machine /\n"
    )
    build = (
        *("build", "--platform", "linux/arm64", "--progress", "plain", "--build-arg", f"BASE={env['LAB_BASE_IMAGE']}"),
        *("--output", f"type=local,dest={tmp_path / 'out'}", str(tmp_path)),
    )
    refused = operator.fleet(*build, "--allow-emulation", expect=1)
    assert "no healthy node runs linux/arm64" in refused.stderr

    images = host.ssh("docker image ls -q --no-trunc")
    image = ("--image", env["LAB_BINFMT_IMAGE"])
    assert operator.json("emulation", "install", "amd-1", "arm64", *image)["nodes"][0]["emulates"] == ["arm64"]
    assert operator.json("emulation", "list")["nodes"][0]["emulates"] == ["arm64"]
    assert host.ssh("docker image ls -q --no-trunc") == images
    operator.json("restart", "amd-1")
    # Of a host that is late the status does not wait for what it has to say.
    assert "linux/arm64" not in eventually(lambda: degraded(operator))["platforms"]

    refused = operator.fleet(*build, expect=1)
    assert "natively, and would emulate this one (--allow-emulation)" in refused.stderr
    told = operator.json(*build, "--allow-emulation")
    assert [(built["platforms"], built["native"]) for built in told["builds"]] == [(["linux/arm64"], False)]
    assert (tmp_path / "out/machine").read_text() == "aarch64\n"

    assert operator.json("emulation", "remove", "amd-1", "arm64", *image)["nodes"][0]["emulates"] == []
    assert host.ssh("docker image ls -q --no-trunc") == images
    operator.json("restart", "amd-1")
    [node] = operator.settled_status()["nodes"]
    assert node["health"] == "ready", json.dumps(node)
