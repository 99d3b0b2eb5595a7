"""Connections that are begun early: each is taken once; none where the configuration may lead elsewhere."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.adapters.dialling import Dialling
from tests.support.lab import eventually


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)
        yield listening


def place(server: socket.socket) -> tuple[str, int]:
    address, port = server.getsockname()
    return address, port


def test_a_connection_is_taken_once(server: socket.socket, tmp_path: Path) -> None:
    dialling = Dialling([place(server)], tmp_path / "none")
    accepted, _ = server.accept()
    with accepted, eventually(lambda: dialling.take(*place(server)), seconds=10) as taken:
        taken.sendall(b"SSH")
        assert accepted.recv(3) == b"SSH"
        assert dialling.take(*place(server)) is None


def test_where_nobody_listens_there_is_nothing_to_take(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert Dialling([place(closed)], tmp_path / "none").take(*place(closed)) is None


@pytest.mark.parametrize("config", ["", "Host *\n  User build\n  IdentityFile ~/.ssh/fleet\n"])
def test_a_config_that_names_no_place_changes_nothing(server: socket.socket, tmp_path: Path, config: str) -> None:
    (tmp_path / "config").write_text(config)
    dialling = Dialling([place(server)], tmp_path / "config")
    server.accept()[0].close()
    eventually(lambda: dialling.take(*place(server)), seconds=10).close()


@pytest.mark.parametrize(
    "config",
    [
        "Host amd\n  HostName 10.0.0.1\n",
        "Host *\n  proxyjump bastion\n",
        "Port=2222\n",
        "Include work/*\n",
        "Match exec true\n",
    ],
)
def test_a_config_that_may_lead_elsewhere_is_heeded(server: socket.socket, tmp_path: Path, config: str) -> None:
    (tmp_path / "config").write_text(config)
    server.settimeout(0.2)
    Dialling([place(server)], tmp_path / "config")
    with pytest.raises(TimeoutError):
        server.accept()
