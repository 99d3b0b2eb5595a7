"""What a host's shell answers to `fleet check`: the very script run by a real shell, and its words read."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from fleet.check.ground import Ground, Port, Reach, answer, question, registries
from fleet.model.spec import GatewaySpec
from tests.support.values import fleet

# ------------------------------------------------------------------------------------------------- registries

REGISTRIES: dict[str, tuple[str, dict[str, object], tuple[str, ...]]] = {
    "Docker Hub has a machine of its own": ("moby/buildkit:v1", {}, ("registry-1.docker.io:443",)),
    "so has an image without a repository": ("buildkit:v1", {}, ("registry-1.docker.io:443",)),
    "a name with a dot is a registry": ("ghcr.io/x/buildkit:v1", {}, ("ghcr.io:443",)),
    "a name with a port is a registry": ("reg:5000/buildkit:v1", {}, ("reg:5000",)),
    "localhost is one": ("localhost/buildkit:v1", {}, ("localhost:443",)),
    "plain HTTP has another port": ("reg.example/b:v1", {"reg.example": {"http": True}}, ("reg.example:80",)),
    "mirrors stand for their registry, without their path": (
        "reg.example/b:v1",
        {"docker.io": {"mirrors": ["one.example/hub", "two.example:5000"]}, "one.example": {"http": True}},
        ("reg.example:443", "one.example:80", "two.example:5000"),
    ),
    "each is named once": ("docker.io/moby/buildkit:v1", {"docker.io": {}}, ("registry-1.docker.io:443",)),
}


@pytest.mark.parametrize(("image", "configured", "wanted"), REGISTRIES.values(), ids=REGISTRIES)
def test_the_registries_that_an_inventory_names(
    image: str, configured: dict[str, object], wanted: tuple[str, ...]
) -> None:
    spec = fleet(image=image, config={"registry": configured})
    assert registries(spec, spec.hosts[0]) == wanted


def test_where_a_gateway_is_its_image_has_one_too() -> None:
    spec = replace(fleet(), gateway=GatewaySpec(("amd-1",), "reg.example/haproxy:3.2", {"amd64": 1250}))
    assert [registries(spec, one) for one in spec.hosts] == [
        ("registry-1.docker.io:443", "reg.example:443"),
        ("registry-1.docker.io:443",),
    ]


# ---------------------------------------------------------------------------------------------------- script


@pytest.fixture
def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def ask(*ports: int, registries: tuple[str, ...] = (), root: str = "/", path: str | None = None) -> Ground:
    argv = question(root, ports, registries)
    environment = os.environ | ({"PATH": path} if path else {})
    shell = shutil.which(argv[0]) or argv[0]
    done = subprocess.run((shell, *argv[1:]), env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return answer(done.stdout)


def tools(folder: Path, *names: str) -> str:
    """A PATH on which there is nothing else."""
    for name in names:
        program = shutil.which(name)
        assert program, name
        (folder / name).symlink_to(program)
    return str(folder)


def test_a_shell_answers_the_script(listening: socket.socket) -> None:
    with listening:
        port = listening.getsockname()[1]
        open_, shut = f"127.0.0.1:{port}", f"127.0.0.1:{closed_port()}"
        ground = ask(port, registries=(open_, shut))
    assert ground.ports[port].taken
    assert ground.reach == {open_: Reach.OPEN, shut: Reach.REFUSED}
    assert ground.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    kinds = {line.split()[1]: line.split()[2] for line in Path("/proc/mounts").read_text().splitlines()}
    assert ground.file_system == kinds["/"]
    assert ground.nameservers is not None


def test_the_inodes_are_those_that_df_counts() -> None:
    ground, counted = ask(1, root="/dev/shm"), os.statvfs("/dev/shm")
    assert (ground.inodes, ground.file_system) == (counted.f_files, "tmpfs")
    assert ground.free_inodes is not None
    assert 0 < ground.free_inodes <= counted.f_files


def test_a_port_that_nobody_has_is_free(listening: socket.socket) -> None:
    with listening:
        free, taken = closed_port(), listening.getsockname()[1]
        assert {port: found.taken for port, found in ask(free, taken).ports.items()} == {free: False, taken: True}


def test_a_path_that_is_not_there_has_no_file_system() -> None:
    ground = ask(1, root="/nonexistent/docker")
    assert (ground.inodes, ground.free_inodes, ground.file_system) == (None, None, None)


def test_without_any_tool_little_is_known_and_nothing_guessed(tmp_path: Path) -> None:
    ground = ask(1, registries=("127.0.0.1:1",), path=tools(tmp_path))
    assert (ground.ports, ground.file_system, ground.inodes, ground.reach) == ({}, None, None, {})
    assert ground.boot_id


NC = {
    "nc connects": ("exit 0", Reach.OPEN),
    "nc is refused": (
        'echo "nc: can\'t connect to remote host (10.0.0.1): Connection refused" >&2; exit 1',
        Reach.REFUSED,
    ),
    "nc gives up": ("echo 'nc: timed out' >&2; exit 1", Reach.SILENT),
    "nc finds no route": ('echo "nc: can\'t connect: No route to host" >&2; exit 1', Reach.UNROUTED),
    "nc is of another kind": ("echo 'usage: nc [-l]' >&2; exit 1", Reach.UNKNOWN),
    "nc says nothing": ("exit 1", Reach.UNKNOWN),
    "nc is ended, connected or not": ("exit 124", Reach.UNKNOWN),
}


@pytest.mark.parametrize(("script", "reach"), NC.values(), ids=NC)
def test_without_bash_nc_tries(tmp_path: Path, script: str, reach: Reach) -> None:
    path = tools(tmp_path, "timeout", "sh")
    (tmp_path / "nc").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "nc").chmod(0o755)
    assert ask(1, registries=("10.0.0.1:443",), path=path).reach == {"10.0.0.1:443": reach}


NAMES = {"2": Reach.UNRESOLVED, "124": Reach.UNRESOLVED, "1": Reach.UNKNOWN}


@pytest.mark.parametrize(("status", "reach"), NAMES.items(), ids=NAMES)
def test_a_name_is_resolved_first(tmp_path: Path, status: str, reach: Reach) -> None:
    path = tools(tmp_path, "timeout", "sh", "bash")
    (tmp_path / "getent").write_text(f"#!/bin/sh\nexit {status}\n")
    (tmp_path / "getent").chmod(0o755)
    assert ask(1, registries=("registry.invalid:443",), path=path).reach == {"registry.invalid:443": reach}


def test_a_name_in_the_inventory_is_no_command(tmp_path: Path) -> None:
    ask(1, registries=(f"127.0.0.1:$(touch {tmp_path}/done)",))
    assert not (tmp_path / "done").exists()


# ----------------------------------------------------------------------------------------------------- words

WORDS: dict[str, tuple[str, Ground]] = {
    "nothing": ("", Ground()),
    "a host that answers": (
        (
            "machine-id 3d12\nboot-id 581c\nresolv\nnameserver 10.0.0.53\nnameserver ::1\ninodes 1000 900\n"
            "file-system ext4\nnic eth0 1400\nport 1234 free\nport 1250 taken\n"
        ),
        Ground(
            *("3d12", "581c", "ext4", 1000, 900, "eth0", 1400, {1234: Port(taken=False), 1250: Port(taken=True)}),
            nameservers=("10.0.0.53", "::1"),
        ),
    ),
    "an empty machine-id": ("machine-id \n", Ground()),
    "no name servers": ("resolv\n", Ground(nameservers=())),
    "a file system without inodes": ("inodes - -\n", Ground()),
    "the file system that was mounted last": ("file-system ext4\nfile-system nfs4\n", Ground(file_system="nfs4")),
    "who listens": (
        'port 1234 taken LISTEN 0 511 0.0.0.0:1234 0.0.0.0:* users:(("nginx",pid=77,fd=6))\n',
        Ground(ports={1234: Port(taken=True, by="nginx (process 77)")}),
    ),
    "who listens is hidden": (
        "port 1234 taken LISTEN 0 511 *:1234 *:*\n",
        Ground(ports={1234: Port(taken=True)}),
    ),
    "bash, too late": ("reach a:1 bash 124\n", Ground(reach={"a:1": Reach.SILENT})),
    "bash, ended by BusyBox": ("reach a:1 bash 143\n", Ground(reach={"a:1": Reach.SILENT})),
    "bash without /dev/tcp": (
        "reach a:1 bash 1 a: line 1: /dev/tcp/a/1: No such file or directory\n",
        Ground(reach={"a:1": Reach.UNKNOWN}),
    ),
}


@pytest.mark.parametrize(("said", "wanted"), WORDS.values(), ids=WORDS)
def test_what_the_script_says(said: str, wanted: Ground) -> None:
    assert answer(said) == wanted
