"""The same fleet by `fleet up`, by an Ansible playbook and by a pyinfra deploy, side by side in one run, on the lab.

The end state is the same: the image is there beforehand, certificates and configuration are delivered, buildkitd runs
and answers over mutual TLS, which is checked from outside. The others get their certificates made for them. Cold: all
but the image is absent. Then once more with nothing to do. Docker's own work is what the same requests take that
`fleet up` makes, asked of the hosts' Docker sockets without a network between; the rest is what a tool adds, less the
time in which fleet registers the builder, which is no part of the end state of the others.

Prints a table; with --write it also goes into README. Runs are in turn, medians are quoted, what counts is the ratio
within this run. Many endpoints: several sshds on each machine, each with a /tmp of its own, where fleet's locks are.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.controlled import PYTHON, installed, with_python
from certs.authority import create_authority, issue_client, issue_node
from certs.certificate import describe
from fleet.adapters.buildkit import BuildkitProber
from fleet.adapters.engine import DockerEngine
from fleet.containers import buildkitd
from fleet.containers.daemon import DaemonSpec
from fleet.model.facts import ApiFacts
from fleet.model.spec import HostSpec
from fleet.parallel import gather
from tests.lab import Lab
from tests.support.lab import docker_socket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

README = Path(__file__).parent.parent / "README.md"
PEERS = Path(__file__).parent / "peers"
MARK = "<!-- bench:convergence -->\n"
FLEET = "bench"
REPORT = "report.json"
"""What the last `fleet up` said, in the folder to work in."""
TOOLS = ("fleet", "pyinfra", "Ansible")
PORT = 1300
"""The first that a daemon listens on."""
SSH_PORT = 2265
"""Of the proxies, which have an address for each endpoint, and the first of the sshds that a machine has besides."""
Row = dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Way:
    """How an endpoint is reached, and the machine that is behind it."""

    machine: str
    address: str
    ssh_port: int = 22
    place: int = 0
    """Its number on that machine."""

    def port(self, tool: str) -> int:
        """Where the tool is to have its daemon listen."""
        return PORT + len(TOOLS) * self.place + TOOLS.index(tool)


@dataclass(frozen=True, slots=True)
class Ground:
    """The lab, a folder to work in, and the endpoints by name."""

    lab: Lab
    work: Path
    ways: Mapping[str, Way]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--delay", type=float, default=0.05, help="seconds of an added round trip, 0: not measured")
    parser.add_argument("--hosts", nargs="+", default=["amd-1", "amd-2"], help="amd64 hosts of the lab that are up")
    parser.add_argument("--endpoints", type=int, default=8, help="SSH endpoints a host, 0: not measured")
    parser.add_argument("--write", action="store_true", help="put the table into README")
    options = parser.parse_args()
    lab, programs = Lab.current(), installed()
    rows: dict[str, Row] = {}
    with with_python(lab, options.hosts), tempfile.TemporaryDirectory() as folder:
        for name in options.hosts:
            lab.hosts[name].ssh(f"docker pull --quiet {lab.env()['LAB_BUILDKIT_IMAGE']}")
        shutil.copytree(PEERS, Path(folder) / "peers")
        near = Ground(lab, Path(folder), {name: Way(name, lab.hosts[name].host.address) for name in options.hosts})
        rows[f"{len(near.ways)} hosts"] = _measured(near, programs, options.rounds)
        if options.endpoints:
            with _multiplied(near, options.endpoints) as many:
                rows[f"{len(many.ways)} endpoints"] = _measured(many, programs, options.rounds)
        if options.delay:
            with _delayed(near, options.delay) as far:
                rows[f"{options.delay * 1000:.0f} ms away"] = _measured(far, programs, options.rounds)
    table = _table(rows)
    print(table)
    if options.write:
        before, _, rest = README.read_text().partition(MARK)
        README.write_text(before + MARK + table + rest[rest.index("<!-- /bench -->") :])


# ------------------------------------------------------------------------------------------------- measuring


def _measured(ground: Ground, programs: Path, rounds: int) -> Row:
    rows: Row = {}
    _certificates(ground)
    run = _runs(ground, programs)
    try:
        for _ in range(rounds):
            rows.setdefault("docker", []).append(_dockers_own(ground))
            for tool in TOOLS:
                _clear(ground)
                rows.setdefault(f"{tool} cold", []).append(_timed(run[tool]))
                rows.setdefault(f"{tool} builder", []).append(_registering(ground) if tool == "fleet" else 0.0)
                _check(ground, tool)
                rows.setdefault(f"{tool} idle", []).append(_timed(run[tool]))
                _check(ground, tool)
                rows.setdefault(f"{tool} ssh", []).append(_logins(ground))
            rows.setdefault("bare idle", []).append(_timed(partial(_bare_login, ground)))
            rows.setdefault("bare ssh", []).append(_logins(ground))
    finally:
        _clear(ground)
    return rows


def _runs(ground: Ground, programs: Path) -> dict[str, Callable[[], object]]:
    """What converges the hosts, each with an inventory that leads there."""
    lab, work, image = ground.lab, ground.work, ground.lab.env()["LAB_BUILDKIT_IMAGE"]
    key, known = str(lab.home.ssh_key), work / "known_hosts"
    keys = {line.split()[0]: line.split(maxsplit=1)[1] for line in lab.home.known_hosts.read_text().splitlines()}
    known.write_text(
        "".join(
            f"{way.address if way.ssh_port == 22 else f'[{way.address}]:{way.ssh_port}'} "
            f"{keys[lab.hosts[way.machine].host.address]}\n"
            for way in ground.ways.values()
        )
    )
    login = {"user": "build", "identity_file": key, "known_hosts_file": str(known)}
    hosts = {
        name: {"address": way.address, "port": way.port("fleet"), "ssh": {"port": way.ssh_port}}
        for name, way in ground.ways.items()
    }
    inventory = {"fleet": FLEET, "buildkit": {"image": image}, "ssh": login, "hosts": hosts}
    (work / "inventory.yaml").write_text(json.dumps(inventory))

    def told(tool: str, name: str) -> dict[str, object]:
        shared = {"image": image, "certificates": str(work / "certificates"), "port": ground.ways[name].port(tool)}
        return shared | {"folder": f"/home/build/bench-{tool}-{name}", "container": f"bench-{tool}-{name}"}

    reached = {
        name: {
            "ansible_host": way.address,
            "ansible_port": way.ssh_port,
            "ansible_user": "build",
            "ansible_ssh_private_key_file": key,
            "ansible_python_interpreter": PYTHON,
            "ansible_ssh_common_args": f"-F none -o UserKnownHostsFile={known}",
            **told("Ansible", name),
        }
        for name, way in ground.ways.items()
    }
    (work / "hosts.json").write_text(json.dumps({"builders": {"hosts": reached}}))
    (work / "ansible.cfg").write_text(
        f"[defaults]\nforks = {len(hosts)}\n[ssh_connection]\npipelining = true\ncontrol_path_dir = {work}/masters\n"
    )
    login = {"ssh_user": "build", "ssh_key": key, "ssh_known_hosts_file": str(known), "ssh_config_file": os.devnull}
    entries = [
        (name, login | {"ssh_hostname": way.address, "ssh_port": way.ssh_port} | told("pyinfra", name))
        for name, way in ground.ways.items()
    ]
    (work / "targets.py").write_text(f"hosts = {entries!r}\n")

    def ansible() -> None:
        play = (programs / "ansible-playbook", "-i", "hosts.json", "peers/playbook.yaml")
        try:
            _run(work, *play)
        finally:
            for master in (work / "masters").glob("*"):
                subprocess.run(
                    ("ssh", "-O", "exit", "-o", f"ControlPath={master}", "x"), capture_output=True, check=False
                )

    return {
        "fleet": lambda: (work / REPORT).write_text(_run(work, "fleet", "up", "--json")),
        "pyinfra": partial(_run, work, programs / "pyinfra", "-y", "targets.py", "peers/deploy.py"),
        "Ansible": ansible,
    }


def _run(work: Path, *command: str | Path) -> str:
    """What it printed."""
    environment = os.environ | {
        "FLEET_INVENTORY": str(work / "inventory.yaml"),
        "FLEET_HOME": str(work / "vault"),
        "BUILDX_CONFIG": str(work / "buildx"),
        "ANSIBLE_CONFIG": str(work / "ansible.cfg"),
        "SSH_AUTH_SOCK": "",
    }
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} exited {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _registering(ground: Ground) -> float:
    """For how many seconds the last `fleet up` was at the builder."""
    return float(json.loads((ground.work / REPORT).read_text())["builder"]["seconds"])


def _timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _logins(ground: Ground) -> float:
    """OpenSSH logging in to every host at once."""
    options = ("-F", "none", "-i", str(ground.lab.home.ssh_key), "-o", f"UserKnownHostsFile={ground.work}/known_hosts")
    logins = {
        name: partial(_run, ground.work, "ssh", *options, "-p", str(way.ssh_port), f"build@{way.address}", "true")
        for name, way in ground.ways.items()
    }
    return _timed(partial(gather, logins))


def _bare_login(ground: Ground) -> None:
    """What no Python with these libraries goes below."""
    places = (f"{way.address}:{way.ssh_port}" for way in ground.ways.values())
    _run(ground.work, sys.executable, "peers/login.py", "known_hosts", str(ground.lab.home.ssh_key), *places)


def _clear(ground: Ground) -> None:
    """Take everything away but the image."""
    if (ground.work / "vault" / FLEET).exists():
        _run(ground.work, "fleet", "down", "--volumes", "--yes")
    for machine in {way.machine for way in ground.ways.values()}:
        ground.lab.hosts[machine].ssh(
            "docker rm -f -v $(docker ps -aq --filter name=bench-) 2>/dev/null; "
            "docker volume rm $(docker volume ls -q --filter name=bench-) 2>/dev/null; rm -rf /home/build/bench-*"
        )


def _check(ground: Ground, tool: str) -> None:
    """All daemons answer over mutual TLS, with the certificates that fleet has made or those that were delivered."""
    prober = _prober(ground.work / "vault" / FLEET if tool == "fleet" else ground.work / "certificates")
    nodes = [HostSpec(name, way.address, way.port(tool)) for name, way in ground.ways.items()]
    answers = gather({node.name: partial(prober.probe, node, timeout=10) for node in nodes})
    assert all(isinstance(answer, ApiFacts) for answer in answers.values()), answers


def _prober(folder: Path) -> BuildkitProber:
    client = f"{folder}/client.pem"
    return BuildkitProber({"cacert": f"{folder}/ca.pem", "cert": client, "key": client})


# --------------------------------------------------------------------------------------------- Docker's own work


def _certificates(ground: Ground) -> None:
    """What the others deliver."""
    now, folder = datetime.now(UTC), ground.work / "certificates"
    authority = create_authority("bench CA", now=now)
    places = {"ca": "/etc/buildkit/ca.pem", "cert": "/etc/buildkit/cert.pem", "key": "/etc/buildkit/key.pem"}
    folder.mkdir(exist_ok=True)
    listen = '["unix:///run/buildkit/buildkitd.sock", "tcp://0.0.0.0:1234"]'
    tls = "".join(f'{key} = "{path}"\n' for key, path in places.items())
    (folder / "buildkitd.toml").write_text(f"[grpc]\naddress = {listen}\n[grpc.tls]\n{tls}")
    (folder / "ca.pem").write_bytes(authority.certificate)
    client = issue_client(authority, "bench", now=now)
    (folder / "client.pem").write_bytes(client.certificate + client.key.reveal())
    for name, way in ground.ways.items():
        node = issue_node(authority, name, names=[way.address, ground.lab.hosts[way.machine].host.address], now=now)
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "cert.pem").write_bytes(node.certificate)
        (folder / name / "key.pem").write_bytes(node.key.reveal())


def _dockers_own(ground: Ground) -> float:
    """From the first request until every daemon answers, on all hosts at once, without a network between."""
    folder, image = ground.work / "certificates", ground.lab.env()["LAB_BUILDKIT_IMAGE"]
    prober, config = _prober(folder), buildkitd.render({})

    def opened(name: str) -> socket.socket:
        stream = socket.socket(socket.AF_UNIX)
        stream.connect(str(docker_socket(ground.lab, ground.ways[name].machine)))
        return stream

    def make(name: str) -> None:
        way, certificate = ground.ways[name], (folder / name / "cert.pem").read_bytes()
        files = {
            buildkitd.CONFIG_PATH: (config.encode(), 0o644),
            buildkitd.CA_PATH: ((folder / "ca.pem").read_bytes(), 0o644),
            buildkitd.CERT_PATH: (certificate, 0o644),
            buildkitd.KEY_PATH: ((folder / name / "key.pem").read_bytes(), 0o600),
        }
        wanted = DaemonSpec(FLEET, f"own-{name}", image, way.port("fleet"), "", config, (), "")
        engines[name].start(engines[name].create(wanted, describe(certificate), files))
        near = HostSpec(name, ground.lab.hosts[way.machine].host.address, way.port("fleet"))
        deadline = time.monotonic() + 60
        while not isinstance(answer := prober.probe(near, timeout=5), ApiFacts):
            assert time.monotonic() < deadline, answer
            time.sleep(0.02)

    engines = {name: DockerEngine(partial(opened, name)) for name in ground.ways}
    prober.prepare()
    try:
        return _timed(partial(gather, {name: partial(make, name) for name in ground.ways}))
    finally:
        for name, engine in engines.items():
            engine.remove(f"fleet.{FLEET}.own-{name}", grace=0)
            engine.remove_volume(f"fleet.{FLEET}.own-{name}")


# ------------------------------------------------------------------------------------------------------- delay


@contextmanager
def _multiplied(near: Ground, times: int) -> Iterator[Ground]:
    """Each host as several endpoints."""
    ways = {
        f"{way.machine}-{place}": replace(way, ssh_port=SSH_PORT + place, place=place)
        for way in near.ways.values()
        for place in range(times)
    }
    begin = "unshare --mount sh -c 'mount -t tmpfs tmpfs /tmp; exec /usr/sbin/sshd -p PORT -o PidFile=/run/bench-PORT'"
    try:
        for way in ways.values():
            near.lab.hosts[way.machine].ssh(begin.replace("PORT", str(way.ssh_port)))
        yield replace(near, ways=ways)
    finally:
        for way in near.ways.values():
            near.lab.hosts[way.machine].ssh("cat /run/bench-* | xargs -r kill; rm -f /run/bench-*")


@contextmanager
def _delayed(near: Ground, round_trip: float) -> Iterator[Ground]:
    """The hosts behind a proxy that adds a round trip to whatever crosses it, to SSH and to BuildKit alike."""
    far = {
        name: replace(way, address=f"127.0.1.{place}", ssh_port=SSH_PORT)
        for place, (name, way) in enumerate(near.ways.items(), 1)
    }
    routes = [
        f"{far[name].address}:{here}={way.address}:{there}"
        for name, way in near.ways.items()
        for here, there in {SSH_PORT: way.ssh_port, **{way.port(tool): way.port(tool) for tool in TOOLS}}.items()
    ]
    program = (sys.executable, "-m", "benchmarks.delay", str(round_trip / 2), *routes)
    with subprocess.Popen(program, stdout=subprocess.PIPE, cwd=PEERS.parent.parent) as proxy:
        try:
            assert proxy.stdout
            assert proxy.stdout.readline()
            yield replace(near, ways=far)
        finally:
            proxy.terminate()


# ------------------------------------------------------------------------------------------------------- table


def _table(rows: Mapping[str, Row]) -> str:
    lines = [
        "| | cold | of that not Docker's own work | nothing to do | against `ssh HOST true` |",
        "|---|---|---|---|---|",
    ]
    for where, row in rows.items():
        median = {name: statistics.median(seconds) for name, seconds in row.items()}
        added = {
            tool: [
                cold - own - builder
                for cold, own, builder in zip(row[f"{tool} cold"], row["docker"], row[f"{tool} builder"], strict=True)
            ]
            for tool in TOOLS
        }
        of_login = {
            tool: statistics.median(i / s for i, s in zip(row[f"{tool} idle"], row[f"{tool} ssh"], strict=True))
            for tool in (*TOOLS, "bare")
        }
        for tool in TOOLS:
            of_ours = statistics.median(t / o for t, o in zip(added[tool], added["fleet"], strict=True))
            beside = "" if tool == "fleet" else f", {of_ours:.1f} ×"
            lines.append(
                f"| {tool}, {where} | {median[f'{tool} cold']:.1f} s | {statistics.median(added[tool]):.1f} s{beside} "
                f"| {median[f'{tool} idle']:.1f} s | {of_login[tool]:.1f} × |"
            )
        lines.append(f"| a Python that logs in, {where} | | | {median['bare idle']:.1f} s | {of_login['bare']:.1f} × |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
