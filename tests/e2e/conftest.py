"""A fleet of its own on the lab: other names, ports, vault and builders than whoever else uses the lab."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fleet.parallel import gather
from tests.lab import Lab
from tests.support.building import in_folder
from tests.support.lab import eventually, running_lab

HOSTS = ("amd-1", "amd-2", "arm-1")

PORT = 1235
"""Beside the default port, which belongs to the lab's own inventory."""


@pytest.fixture(scope="session")
def lab() -> Lab:
    """The lab with two hosts; arm64/ has a third."""
    return running_lab(*HOSTS[:2])


@dataclass(frozen=True, slots=True)
class Operator:
    """A person at a machine: an inventory, a home for keys, a buildx, and the `fleet` command."""

    home: Path
    lab: Lab
    name: str
    environment: Mapping[str, str] = field(default_factory=dict)
    port: int = PORT
    touched: set[str] = field(default_factory=set)
    """The hosts that an inventory has named, which alone are this module's: others may be at work on the rest."""

    @property
    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            **self.lab.env(),
            "FLEET_INVENTORY": str(self.home / "inventory.yaml"),
            "FLEET_HOME": str(self.home / "vault"),
            "BUILDX_CONFIG": str(self.home / "buildx"),
            "NO_COLOR": "1",
            **self.environment,
        }

    @property
    def vault(self) -> Path:
        return self.home / "vault" / self.name

    def elsewhere(self, home: Path, **environment: str) -> Operator:
        """Somebody else, whose machine has neither inventory nor keys."""
        (home / "user").mkdir(parents=True)
        bare = {"HOME": str(home / "user"), "SSH_AUTH_SOCK": "", "FLEET_INVENTORY": ""}
        return replace(self, home=home, environment=bare | environment)

    def inventory(
        self,
        hosts: Sequence[str],
        *,
        address: str | None = None,
        tls: Mapping[str, Any] | None = None,
        brought: Mapping[str, Mapping[str, str]] | None = None,
        **ssh: str | int | bool | None,
    ) -> None:
        """Write the inventory of these hosts; `ssh` overrides how to log in, None leaves a key out.

        `tls`: of the fleet; `brought`: host -> its own.
        """
        for name in {*hosts} - self.touched:
            _clear_away(self, name)
            self.touched.add(name)
        env = self.lab.env()
        login = {
            "user": "build",
            "identity_file": str(self.lab.home.ssh_key),
            "known_hosts_file": str(self.lab.home.known_hosts),
            **ssh,
        }
        addresses = {name: address or self.lab.hosts[name].host.address for name in hosts}
        content = {
            "fleet": self.name,
            "buildkit": {
                "image": env["LAB_BUILDKIT_IMAGE"],
                "config": {"registry": {env["LAB_REGISTRY"]: {"http": True}}},
            },
            "ssh": {key: value for key, value in login.items() if value is not None},
            "hosts": {
                name: {"address": place, "port": self.port}
                | ({"tls": brought[name]} if brought and name in brought else {})
                for name, place in addresses.items()
            },
        } | ({"tls": tls} if tls else {})
        # JSON is YAML.
        (self.home / "inventory.yaml").write_text(json.dumps(content, indent=1))

    def add_gateway(self, ports: Mapping[str, int], **changed: Any) -> None:
        """Have the inventory want a gateway on amd-1; `ports`: architecture -> its own."""
        path = self.home / "inventory.yaml"
        gateway = {"hosts": ["amd-1"], "image": self.lab.env()["LAB_GATEWAY_IMAGE"], "ports": {**ports}, **changed}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"gateway": gateway}))

    def fleet(
        self, *arguments: str, expect: int | None = 0, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run fleet; `expect` is the exit code that it must have, None for any."""
        done = self.run("fleet", *arguments, stdin=stdin)
        shown = f"fleet {' '.join(arguments)} exited {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert expect is None or done.returncode == expect, shown
        assert "Traceback" not in done.stderr, shown
        return done

    def at(
        self, *arguments: str, lines: Iterable[str], do: Callable[[subprocess.Popen[str]], object]
    ) -> subprocess.CompletedProcess[str]:
        """Run fleet -v and do something once it has told these lines, one after the other; it goes on meanwhile."""
        argv, told = ("fleet", *arguments, "-v"), list[str]()
        with subprocess.Popen(
            argv, env=self.env, cwd=self.home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as run:
            assert run.stderr
            for line in lines:
                while not told or line not in told[-1]:
                    told.append(next(run.stderr, ""))
                    assert told[-1], f"it never said {line!r}\n{''.join(told)}"
                told.append("\n")
            do(run)
            out, rest = run.communicate()
        return subprocess.CompletedProcess(argv, run.returncode, out, "".join(told) + rest)

    def json(self, *arguments: str, expect: int | None = 0, stdin: str | None = None) -> Any:
        """Run fleet with --json; what it printed."""
        return json.loads(self.fleet(*arguments, "--json", expect=expect, stdin=stdin).stdout)

    def settled_status(self) -> Any:
        """The status once no node is unknown: an emulated host may be slow to answer, which status says as it is."""
        for _ in range(20):
            status = self.json("status", expect=None)
            if all(node["health"] != "unknown" for node in status["nodes"]):
                break
        return status

    def under_way(self, count: int = 1) -> None:
        """Wait until the nodes are at work on so many builds."""

        def at_work() -> bool | None:
            nodes = self.json("status", expect=None)["nodes"]
            return sum(node["active_builds"] or 0 for node in nodes) >= count or None

        eventually(at_work)

    def run(self, *argv: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv, env=self.env, cwd=self.home, input=stdin, capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="module")
def operator(lab: Lab, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Operator]:
    """An operator whose fleet is named after the test module; at the end nothing of it is left."""
    name = request.module.__name__.rpartition(".")[2].removeprefix("test_").replace("_", "-")
    # Modules with a port of their own can run beside others.
    operator = Operator(tmp_path_factory.mktemp(name), lab, name, port=getattr(request.module, "PORT", PORT))
    yield operator
    if touched := sorted(operator.touched):
        gather({name: lab.hosts[name].heal for name in touched})
        operator.inventory(touched)
        operator.fleet("down", "--volumes", "--yes", expect=None)


def _clear_away(operator: Operator, host: str) -> None:
    """Remove what a killed run of this module left: its vault is gone, so `fleet up` would refuse its daemons."""
    mine = f"fleet.{operator.name}"
    operator.lab.hosts[host].ssh(
        f"docker ps -aqf 'name=^{mine}[.]' | xargs -r docker rm -f; docker volume ls -qf 'name=^{mine}[.]' | "
        f"xargs -r docker volume rm; docker image ls '{mine}' --format '{{{{.Repository}}}}:{{{{.Tag}}}}' | "
        f"xargs -r docker rmi; rm -f ~build/.local/state/fleet/{operator.name}.jsonl"
    )


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a module's builds are made from, unless it has its own."""
    return in_folder(tmp_path_factory.mktemp("building") / "context")


def objects(lab: Lab, hosts: Sequence[str]) -> dict[str, str]:
    """What stands on these hosts' Docker: containers, volumes, networks and images."""
    ask = (
        "docker ps -a --no-trunc --format '{{.ID}} {{.Names}} {{.State}}'; docker volume ls -q; "
        "docker network ls --format '{{.Name}}'; docker image ls -q --no-trunc | sort"
    )
    return gather({name: partial(lab.hosts[name].ssh, ask) for name in hosts})
