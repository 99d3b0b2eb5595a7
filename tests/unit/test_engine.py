"""The way to an Engine's API, whoever asks first and whatever version it speaks."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

import pytest
from docker.errors import APIError

from fleet.adapters.engine_client import API_VERSION, Client
from fleet.adapters.ssh import SshHost
from fleet.errors import EngineError
from fleet.model.facts import Stage
from fleet.model.spec import HostSpec
from fleet.parallel import Gathering

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CREATED, REFUSED = 201, 400


class Engine(BaseHTTPRequestHandler):
    """Docker 20.10, as far as versions go; it creates whatever it is asked to, but for an image named `bad`."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "Docker/20.10.24", "(linux)"
    asked: list[tuple[str, str]]

    def do_POST(self) -> None:
        _, version, what = self.path.partition("?")[0].split("/", maxsplit=2)
        image = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["Image"]
        self.asked.append((version, image))
        if version != "v1.41":
            answer = {"message": f"client version {version[1:]} is too new. Maximum supported API version is 1.41"}
        else:
            answer = {"message": "invalid reference format"} if image == "bad" else {"Id": what}
        content = json.dumps(answer).encode()
        self.send_response(REFUSED if "message" in answer else CREATED)
        self.send_header("Api-Version", "1.41")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is told."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    noted: list[tuple[str, str]] = []
    monkeypatch.setattr(Engine, "asked", noted, raising=False)
    return noted


@pytest.fixture
def client(asked: list[tuple[str, str]]) -> Iterator[Client]:  # noqa: ARG001 - the Engine notes it there
    with ExitStack() as opened:

        def open_stream() -> socket.socket:
            near, far = map(opened.enter_context, socket.socketpair())
            threading.Thread(target=Engine, args=(far, ("", 0), None), daemon=True).start()
            return near

        yield Client(open_stream)


def test_an_older_engine_is_asked_once_more_and_from_then_on_in_its_own_version(
    client: Client, asked: list[tuple[str, str]]
) -> None:
    assert client.create_container("one")["Id"] == "containers/create"
    assert client.create_container("two")["Id"] == "containers/create"
    assert asked == [(f"v{API_VERSION}", "one"), ("v1.41", "one"), ("v1.41", "two")]
    assert client.engine_version == "20.10.24"


def test_what_an_engine_refuses_for_itself_is_not_asked_again(client: Client, asked: list[tuple[str, str]]) -> None:
    for _ in range(2):
        with pytest.raises(APIError, match="invalid reference format"):
            client.create_container("bad")
    assert asked == [(f"v{API_VERSION}", "bad"), ("v1.41", "bad"), ("v1.41", "bad")]


def test_the_relay_is_proved_once_for_all_who_need_it_at_one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    proved, go = [], threading.Event()

    def ask(_: SshHost, docker: Sequence[str]) -> None:
        proved.append(docker)
        assert go.wait(10)
        if len(proved) == 1:
            raise EngineError(Stage.DOCKER, "it does not work")

    monkeypatch.setattr(SshHost, "_ask_relay", ask)
    host = SshHost(HostSpec("a", "a.example"), [])

    def prove() -> str:
        try:
            host._prove(("docker",))
        except EngineError as error:
            return error.message
        return "proved"

    asking = Gathering(dict.fromkeys(range(5), prove))
    threading.Timer(0.2, go.set).start()
    assert set(asking.results().values()) == {"it does not work"}
    assert len(proved) == 1
    assert prove() == "proved"
    assert len(proved) == 2
