"""The main story on real hosts, told in order: check, plan, up, build, break, heal, down.

Each test goes on from the last.
"""

from __future__ import annotations

import json
import socket
import ssl
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from fleet.adapters.buildkit import BuildkitProber
from fleet.adapters.ssh import connect
from fleet.inventory.parse import load
from fleet.model.facts import ApiFacts, Down, Stage
from tests.e2e.conftest import HOSTS, PORT, Operator, objects
from tests.support import pushed
from tests.support.lab import host_spec

if TYPE_CHECKING:
    from tests.lab import Lab
    from tests.lab.hosts import Fault

PLATFORMS = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}
DOCKERFILE = "ARG BASE\nFROM $BASE\nARG SALT\nRUN echo $SALT && uname -m > /machine\n"


@pytest.fixture(scope="module")
def before(lab: Lab, operator: Operator) -> dict[str, str]:
    """What stands on the hosts at first: BuildKit's image is not on amd-2, unless somebody's container uses it."""
    operator.inventory(HOSTS)
    image = lab.env()["LAB_BUILDKIT_IMAGE"]
    # Docker would take the name away from an image that somebody has under another name, too.
    lab.hosts["amd-2"].ssh(f"docker ps -aqf ancestor={image} | grep -q . || docker rmi -f {image}")
    return objects(lab, HOSTS)


@pytest.fixture(scope="module")
def context(operator: Operator) -> Path:
    folder = operator.home / "context"
    folder.mkdir()
    (folder / "Dockerfile").write_text(DOCKERFILE)
    return folder


def test_check_finds_the_hosts_fit_and_changes_nothing(lab: Lab, operator: Operator, before: dict[str, str]) -> None:
    checked = operator.json("check")
    assert {entry["name"]: entry["fitness"] for entry in checked["nodes"]} == dict.fromkeys(HOSTS, "ready")
    wrong = [
        (entry["name"], finding)
        for entry in checked["nodes"]
        for finding in entry["findings"]
        # What runs elsewhere on the lab may fill a disk, or move a clock.
        if finding["state"] != "ok" and finding["topic"] not in {"disk", "clock"}
    ]
    assert wrong == []
    assert {finding["state"] for finding in checked["this_machine"]} == {"ok"}
    assert objects(lab, HOSTS) == before
    assert not operator.vault.exists()
    assert not (operator.home / "buildx").exists()


def test_plan_says_what_it_would_do_and_changes_nothing(lab: Lab, operator: Operator, before: dict[str, str]) -> None:
    said = operator.json("plan", "--exit-code", expect=4)
    assert [node["why"] for node in said["nodes"]] == [["there is no daemon"]] * 3
    assert said["vault"]
    assert said["builder"]
    assert objects(lab, HOSTS) == before
    assert not operator.vault.exists()
    assert not (operator.home / "buildx").exists()


def test_up_deploys_every_host_and_registers_the_builder(operator: Operator) -> None:
    report = operator.json("up")
    assert {node["name"]: node["result"] for node in report["nodes"]} == dict.fromkeys(HOSTS, "done")
    assert report["builder"]["result"] == "done"


def test_keys_are_for_the_operator_alone(operator: Operator) -> None:
    assert operator.vault.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in operator.vault.glob("*.pem")} == dict.fromkeys(
        ("authority.pem", "ca.pem", "client.pem"), 0o600
    )


def test_then_the_plan_is_empty_and_a_second_up_changes_nothing(lab: Lab, operator: Operator) -> None:
    deployed = objects(lab, HOSTS)
    files = {path: path.stat().st_mtime_ns for path in operator.home.rglob("*.pem")}
    assert operator.json("plan", "--exit-code")["empty"] is True
    report = operator.json("up")
    assert {node["result"] for node in report["nodes"]} == {"unchanged"}
    assert report["builder"]["result"] == "unchanged"
    assert objects(lab, HOSTS) == deployed
    assert {path: path.stat().st_mtime_ns for path in operator.home.rglob("*.pem")} == files


def test_status_shows_three_ready_nodes(operator: Operator) -> None:
    status = operator.settled_status()
    assert status["builder"] == {"registered": True, "default": False}
    nodes = {node["name"]: node for node in status["nodes"]}
    assert {name: (node["health"], node["arch"]) for name, node in nodes.items()} == {
        "amd-1": ("ready", "amd64"),
        "amd-2": ("ready", "amd64"),
        "arm-1": ("ready", "arm64"),
    }
    assert "linux/amd64" in nodes["amd-1"]["owns"]
    assert nodes["amd-2"]["owns"] == []
    assert nodes["arm-1"]["owns"][0] == "linux/arm64"
    assert all(node["certificate"]["days_left"] in {364, 365} for node in nodes.values())


def test_every_native_variant_is_pinned_and_nothing_foreign(operator: Operator) -> None:
    for node in operator.settled_status()["nodes"]:
        family = {"amd64": ("amd64", "386"), "arm64": ("arm64", "arm")}[node["arch"]]
        assert all(platform.split("/")[1] in family for platform in node["platforms"])
    stored = json.loads((operator.home / "buildx/instances" / operator.name).read_text())
    pinned = {entry["architecture"] for node in stored["Nodes"] for entry in node["Platforms"] or ()}
    assert pinned <= {"amd64", "386", "arm64", "arm"}


@pytest.mark.parametrize("command", [("docker", "buildx", "build", "--builder", "story"), ("fleet", "build")])
def test_both_platforms_are_built_natively(
    lab: Lab, operator: Operator, context: Path, command: tuple[str, ...]
) -> None:
    registry, repository = lab.env()["LAB_REGISTRY"], f"e2e/{command[0]}"
    done = operator.run(
        *command,
        *("--platform", ",".join(PLATFORMS)),
        *("--build-arg", f"BASE={lab.env()['LAB_BASE_IMAGE']}", "--build-arg", f"SALT={operator.home}"),
        *("--output", f"type=image,name={registry}/{repository}:1,push=true,registry.insecure=true"),
        str(context),
    )
    assert done.returncode == 0, done.stderr
    images = pushed.read(registry, repository, "1")
    assert {platform: image.files["machine"].decode().strip() for platform, image in images.items()} == PLATFORMS


def test_a_platform_that_nobody_runs_is_refused_before_anything_is_sent(operator: Operator, context: Path) -> None:
    definitions = set((operator.vault / "buildx").rglob("*"))
    done = operator.fleet("build", "--platform", "linux/amd64,linux/riscv64", str(context), expect=1)
    assert "no healthy node runs linux/riscv64 natively" in done.stderr
    assert all(name in done.stderr for name in HOSTS)
    assert set((operator.vault / "buildx").rglob("*")) == definitions


def test_a_failing_build_keeps_its_exit_code(operator: Operator, context: Path) -> None:
    stock = operator.run("docker", "buildx", "build", "--builder", operator.name, "-f", "missing", str(context))
    ours = operator.fleet("build", "-f", "missing", str(context), expect=stock.returncode)
    assert stock.returncode != 0
    assert "missing" in ours.stderr


def test_the_images_emulators_are_masked(lab: Lab, operator: Operator) -> None:
    found = lab.hosts["amd-1"].ssh(f"docker exec fleet.{operator.name}.amd-1 ls -l /usr/bin/buildkit-qemu-aarch64")
    assert found.startswith("-rw-r--r--")
    assert found.split()[4] == "0"


# ------------------------------------------------------------------------------------------- who may drive a daemon


def test_a_client_without_a_certificate_is_refused(operator: Operator) -> None:
    context = ssl.create_default_context(cafile=str(operator.vault / "ca.pem"))
    context.set_alpn_protocols(["h2"])
    address = operator.lab.hosts["amd-1"].host.address
    with (
        socket.create_connection((address, PORT), timeout=5) as stream,
        context.wrap_socket(stream, server_hostname=address) as tls,
        pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"),
    ):
        tls.recv(1)
    assert operator.run("buildctl", "--addr", f"tcp://{address}:{PORT}", *_trusting(operator)).returncode != 0


def test_a_client_of_a_foreign_authority_is_refused(operator: Operator, tmp_path: Path) -> None:
    certificate = trustme.CA().issue_cert(common_name="intruder")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "intruder.pem"))
    refused = _probe(operator, tmp_path / "intruder.pem")
    assert refused.stage is Stage.TLS
    assert "refused this client's certificate" in refused.reason


def test_a_nodes_certificate_cannot_build(lab: Lab, operator: Operator, tmp_path: Path) -> None:
    container = f"fleet.{operator.name}.amd-1"
    files = "/etc/buildkit/tls/cert.pem /etc/buildkit-keys/key.pem"
    stolen = lab.hosts["amd-1"].ssh(f"docker exec {container} cat {files}")
    (tmp_path / "stolen.pem").write_text(stolen)
    refused = _probe(operator, tmp_path / "stolen.pem")
    assert refused.stage is Stage.TLS
    assert "refused this client's certificate" in refused.reason


def test_the_operators_own_certificate_is_accepted(operator: Operator) -> None:
    assert isinstance(_ask(operator, operator.vault / "client.pem"), ApiFacts)


def _probe(operator: Operator, client: Path) -> Down:
    answer = _ask(operator, client)
    assert isinstance(answer, Down), answer
    return answer


def _ask(operator: Operator, client: Path) -> ApiFacts | Down:
    files = {"cacert": str(operator.vault / "ca.pem"), "cert": str(client), "key": str(client)}
    return BuildkitProber(files).probe(load(operator.home / "inventory.yaml").host("amd-1"), timeout=5)


def _trusting(operator: Operator) -> tuple[str, ...]:
    return ("--tlscacert", str(operator.vault / "ca.pem"), "debug", "workers")


# ------------------------------------------------------------------------------------------------- break and heal


@pytest.mark.parametrize(
    ("fault", "stage"),
    [("stop-daemon", "container"), ("freeze", "container"), ("stop-docker", "Docker"), ("blackhole", "TCP")],
)
def test_a_broken_node_is_down_with_the_stage_it_broke_at(
    lab: Lab, operator: Operator, fault: Fault, stage: str
) -> None:
    lab.hosts["amd-2"].inflict(fault)
    try:
        status = operator.settled_status()
        operator.fleet("status", expect=3)
    finally:
        lab.hosts["amd-2"].heal()
    nodes = {node["name"]: node for node in status["nodes"]}
    assert nodes["amd-2"]["health"] == "down"
    assert nodes["amd-2"]["reason"].startswith(f"{stage}: ")
    assert {nodes[name]["health"] for name in ("amd-1", "arm-1")} == {"ready"}


def test_up_mends_a_daemon_that_was_removed_by_hand_and_keeps_its_cache(lab: Lab, operator: Operator) -> None:
    container = f"fleet.{operator.name}.amd-2"
    volume = lab.hosts["amd-2"].ssh(f"docker volume inspect -f '{{{{.CreatedAt}}}}' {container}")
    lab.hosts["amd-2"].ssh(f"docker rm -f {container}")
    report = operator.json("up")
    assert {node["name"]: node["result"] for node in report["nodes"]} == {
        "amd-1": "unchanged",
        "amd-2": "done",
        "arm-1": "unchanged",
    }
    assert lab.hosts["amd-2"].ssh(f"docker volume inspect -f '{{{{.CreatedAt}}}}' {container}") == volume


def test_a_second_operator_is_told_who_is_at_work(lab: Lab, operator: Operator, tmp_path: Path) -> None:
    """Also one whose machine has no builder yet, unless there is nothing to do for them."""
    anew = replace(operator, environment={"BUILDX_CONFIG": str(tmp_path)})
    container = f"fleet.{operator.name}.amd-2"
    bob = connect(host_spec(lab, "amd-1", port=PORT))
    lab.hosts["amd-2"].ssh(f"docker stop -t 1 {container}")
    try:
        assert bob.hold(operator.name, "bob@desk, fleet up, since noon") is None
        for one in (operator, anew):
            refused = one.fleet("up", expect=1)
            assert "amd-1 is being changed: bob@desk, fleet up, since noon" in refused.stderr
        anew.fleet("up", "--only-new")
        assert not list(tmp_path.glob("instances/*"))
        assert "exited" in lab.hosts["amd-2"].ssh(f"docker inspect -f '{{{{.State.Status}}}}' {container}")
    finally:
        bob.close()
    operator.json("up")


def test_with_an_owner_dead_the_next_native_node_builds(lab: Lab, operator: Operator, context: Path) -> None:
    lab.hosts["amd-1"].ssh(f"docker stop -t 0 fleet.{operator.name}.amd-1")
    try:
        operator.fleet(
            *("build", "--platform", "linux/amd64", "--build-arg", f"BASE={lab.env()['LAB_BASE_IMAGE']}"),
            *("--build-arg", "SALT=owner", str(context)),
        )
    finally:
        operator.json("up")


def test_a_host_that_is_now_one_of_another_architecture_is_not_taken_for_the_one_that_was_pinned(
    lab: Lab, operator: Operator
) -> None:
    path = operator.home / "inventory.yaml"
    operator.inventory(HOSTS[:2])
    inventory = json.loads(path.read_text())
    inventory["hosts"]["amd-2"] |= {"address": lab.hosts["arm-1"].host.address, "platforms": ["linux/amd64"]}
    path.write_text(json.dumps(inventory))
    [node] = operator.json("plan", "--host", "amd-2", expect=1)["nodes"]
    operator.inventory(HOSTS)
    assert node["actions"] == []
    assert "linux/amd64 of it, but uname -m says aarch64" in node["blocked"]["reason"]
    assert node["blocked"]["remedy"] == "correct the host's platforms, or its address"


def test_down_leaves_the_hosts_as_they_were_found(lab: Lab, operator: Operator, before: dict[str, str]) -> None:
    operator.fleet("down", expect=2)  # it asks, and nobody is there to answer
    operator.json("down", "--volumes", "--yes")
    assert objects(lab, HOSTS) == before
    assert not any(lab.hosts[name].ssh(f"find ~build/.local -name {operator.name}.jsonl") for name in HOSTS)
    assert not (operator.home / "buildx/instances" / operator.name).exists()
    assert operator.json("down", "--volumes", "--yes")["builder"]["result"] == "unchanged"
