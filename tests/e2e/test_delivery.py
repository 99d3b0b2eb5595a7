"""Hosts that cannot pull: the image comes over SSH; and a registry under a CA that only its company knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Operator
from tests.lab import Lab

PORT = 1255
AMD = ("amd-1", "amd-2")


@pytest.fixture(scope="module")
def reference(lab: Lab, operator: Operator) -> str:
    """BuildKit's image in a registry whose certificate the hosts' Docker does not trust; no host has it."""
    operator.inventory(AMD)
    env = lab.env()
    plain, tls = env["LAB_REGISTRY"], env["LAB_TLS_REGISTRY"]
    upgrade = env["LAB_UPGRADE_IMAGE"]
    for name in AMD:
        ids = lab.hosts[name].ssh(f"docker images -q --no-trunc {upgrade}").split()
        lab.hosts[name].ssh(f"docker rmi -f {' '.join(ids)} || true" if ids else "true")
    return upgrade.replace(plain, tls)


@pytest.fixture(scope="module")
def deliver(operator: Operator, lab: Lab, reference: str) -> Any:
    """Writes an inventory that gets the image in this way."""

    def write(delivery: str) -> None:
        operator.inventory(AMD)
        path = operator.home / "inventory.yaml"
        inventory = json.loads(path.read_text())
        env = lab.env()
        inventory["buildkit"] = {
            "image": reference,
            "delivery": delivery,
            "config": {"registry": {env["LAB_TLS_REGISTRY"]: {"ca": [env["LAB_TLS_REGISTRY_CA"]]}}},
        }
        path.write_text(json.dumps(inventory))

    return write


def images(lab: Lab, name: str) -> set[str]:
    listed = lab.hosts[name].ssh("docker image ls --format '{{.Repository}}:{{.Tag}}'")
    return set(listed.split())


def test_hosts_that_do_not_trust_the_registry_cannot_pull(operator: Operator, deliver: Any) -> None:
    deliver("registry")
    report = operator.json("up", expect=1)
    assert [node["failure"]["stage"] for node in report["nodes"]] == ["image", "image"]
    assert "unknown authority" in report["nodes"][0]["failure"]["reason"]


def test_a_disk_that_fills_on_the_way_is_said_in_one_line_and_keeps_nothing(
    operator: Operator, deliver: Any, lab: Lab, reference: str
) -> None:
    deliver("stream")
    host, filler = lab.hosts["amd-2"], "/var/lib/docker/filler"
    free = "df --output=avail -B1 /var/lib/docker | tail -1"
    host.ssh(f"fallocate -l $(($({free}) - 20000000)) {filler}")
    try:
        before = int(host.ssh(free))
        report = operator.json("up", "--host", "amd-2", expect=1)
        [node] = report["nodes"]
        assert node["failure"]["stage"] == "image"
        assert "no space left on device" in node["failure"]["reason"]
        assert "\n" not in node["failure"]["reason"]
        assert "are free where Docker keeps its files: " in node["failure"]["remedy"]
        assert "fleet ssh amd-2 docker system df" in node["failure"]["remedy"]
        assert reference not in images(lab, "amd-2")
        assert int(host.ssh(free)) > before - 1_000_000
    finally:
        host.ssh(f"rm {filler}")


def test_the_image_is_sent_there_instead(operator: Operator, deliver: Any, lab: Lab, reference: str) -> None:
    deliver("stream")
    [finding] = [one for one in operator.json("check", expect=None)["nodes"][0]["findings"] if one["topic"] == "image"]
    assert finding["text"].startswith(f"{reference} can be sent there (")
    planned = operator.json("plan")
    assert [node["actions"][0].split(" (")[0] for node in planned["nodes"]] == [f"send {reference}"] * 2
    told = operator.fleet("up", "-v").stderr
    assert "sent " in told
    assert all(reference in images(lab, name) for name in AMD)
    operator.fleet("plan", "--exit-code")


def test_builds_trust_the_registry(operator: Operator, lab: Lab, tmp_path: Path) -> None:
    env = lab.env()
    base = env["LAB_BASE_IMAGE"].replace(env["LAB_REGISTRY"], env["LAB_TLS_REGISTRY"])
    (tmp_path / "Dockerfile").write_text(f"FROM {base}\nRUN uname -m\n")
    operator.fleet("build", "--platform", "linux/amd64", "--no-cache", str(tmp_path))


def test_another_authority_is_delivered(operator: Operator, lab: Lab, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(Path(lab.env()["LAB_TLS_REGISTRY_CA"]).read_bytes() * 2)
    path = operator.home / "inventory.yaml"
    inventory = json.loads(path.read_text())
    inventory["buildkit"]["config"]["registry"][lab.env()["LAB_TLS_REGISTRY"]]["ca"] = [str(both)]
    path.write_text(json.dumps(inventory))
    [why] = operator.json("plan", "--host", "amd-1")["nodes"][0]["why"]
    assert why.startswith("registries: ")
    operator.fleet("up", "--host", "amd-1")
    operator.fleet("plan", "--exit-code", "--host", "amd-1")


def test_down_takes_the_image_away(operator: Operator, lab: Lab, reference: str) -> None:
    operator.fleet("down", "--volumes", "--yes")
    assert not any(reference in images(lab, name) for name in AMD)
    assert not any(f"fleet.{operator.name}:" in image for name in AMD for image in images(lab, name))
