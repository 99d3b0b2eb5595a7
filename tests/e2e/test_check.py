"""`fleet check` on real hosts: what stands in the way, and what is in order beside it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.e2e.conftest import Operator

if TYPE_CHECKING:
    from tests.lab import Lab

PORT = 1249


def findings(checked: Any, node: str) -> dict[str, dict[str, str]]:
    """Topic -> what was found there."""
    return {
        finding["topic"]: finding
        for entry in checked["nodes"]
        if entry["name"] == node
        for finding in entry["findings"]
    }


def test_all_that_stands_in_the_way_is_told_at_once(lab: Lab, operator: Operator) -> None:
    operator.inventory(("amd-1", "amd-2"))
    path = operator.home / "inventory.yaml"
    wanted = json.loads(path.read_text())
    wanted["buildkit"]["image"] = f"{lab.env()['LAB_REGISTRY']}/moby/buildkit:none"
    wanted["hosts"]["amd-1"] |= {"port": 22, "platforms": ["linux/arm64"]}
    wanted["hosts"]["amd-2"]["ssh"] = {"user": "nodocker"}
    wanted["hosts"]["nobody"] = {"address": "127.0.0.1", "ssh": {"port": 1}}
    path.write_text(json.dumps(wanted))
    checked = operator.json("check", expect=1)
    taken, denied, nobody = (findings(checked, name) for name in ("amd-1", "amd-2", "nobody"))
    assert {topic for topic, found in taken.items() if found["state"] == "problem"} == {"architecture", "port", "image"}
    assert "port 22 is taken by a program" in taken["port"]["text"]
    assert "manifest unknown" in taken["image"]["text"]
    assert "may not use Docker" in denied["Docker"]["text"]
    assert denied["port"]["state"] == "ok"
    assert nobody["login"]["state"] == "problem"
    assert all(found["remedy"] for found in (*taken.values(), *denied.values()) if found["state"] == "problem")


def test_one_host_alone_may_be_checked(operator: Operator) -> None:
    operator.inventory(("amd-1", "amd-2"))
    done = operator.fleet("check", "amd-2")
    assert done.stdout.splitlines()[-1] == "1 node: 1 ready for fleet up"


def test_a_daemon_that_runs_has_its_own_port(operator: Operator) -> None:
    operator.inventory(("amd-1",))
    operator.fleet("up")
    found = findings(operator.json("check"), "amd-1")
    assert found["port"]["text"] == f"port {PORT} is fleet.{operator.name}.amd-1's"
    assert "can be reached from here" in found["reachable"]["text"]


def test_a_gateway_is_judged_where_it_is_to_be(lab: Lab, operator: Operator) -> None:
    operator.inventory(("amd-1",))
    operator.fleet("up")
    operator.inventory(("amd-1", "amd-2"))
    path, env = operator.home / "inventory.yaml", lab.env()
    wanted = json.loads(path.read_text())
    wanted["gateway"] = {"hosts": ["amd-1"], "image": env["LAB_GATEWAY_IMAGE"], "ports": {"amd64": 1295}}
    path.write_text(json.dumps(wanted))
    checked = operator.json("check")
    free = findings(checked, "amd-1")["gateway"]
    assert (free["state"], "port 1295 is free" in free["text"]) == ("ok", True), free
    assert "gateway" not in findings(checked, "amd-2")
    wanted["hosts"]["amd-1"]["port"] = 1296
    wanted["gateway"] |= {"image": f"{env['LAB_REGISTRY']}/lab/haproxy:none", "ports": {"amd64": PORT}}
    path.write_text(json.dumps(wanted))
    taken = findings(operator.json("check", expect=3), "amd-1")["gateway"]
    assert taken["state"] == "problem"
    assert f"port {PORT} is taken by the container fleet.{operator.name}.amd-1" in taken["text"]
    assert "manifest unknown" in taken["text"]
