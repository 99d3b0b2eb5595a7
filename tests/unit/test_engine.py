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

from fleet.adapters.engine import DockerEngine
from fleet.adapters.engine_client import API_VERSION, Client
from fleet.adapters.ssh import SshHost
from fleet.errors import EngineError
from fleet.model.facts import Stage
from fleet.model.spec import HostSpec
from fleet.parallel import Gathering

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

CREATED, REFUSED = 201, 400


class Engine(BaseHTTPRequestHandler):
    """A Docker that speaks some versions of its API, and creates whatever it is asked to but an image named `bad`."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "Docker/20.10.24", "(linux)"
    speaks: tuple[str, ...]
    asked: list[tuple[str, str]]

    def do_POST(self) -> None:
        _, version, what = self.path.partition("?")[0].split("/", maxsplit=2)
        image = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["Image"]
        self.asked.append((version, image))
        if version.removeprefix("v") not in self.speaks:
            answer = {"message": f"client version {version[1:]} is too new. Maximum supported API version is another"}
        else:
            answer = {"message": "invalid reference format"} if image == "bad" else {"Id": what}
        content = json.dumps(answer).encode()
        self.send_response(REFUSED if "message" in answer else CREATED)
        self.send_header("Api-Version", self.speaks[-1])
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is told."""


OLDER, NEWER = ("1.40", "1.41"), (API_VERSION, "1.99")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What an Engine was asked, by version and image: a newer one, unless the test says something else."""
    noted: list[tuple[str, str]] = []
    monkeypatch.setattr(Engine, "asked", noted, raising=False)
    monkeypatch.setattr(Engine, "speaks", NEWER, raising=False)
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
    client: Client, asked: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "speaks", OLDER)
    assert client.create_container("one")["Id"] == "containers/create"
    assert client.create_container("two")["Id"] == "containers/create"
    assert asked == [(f"v{API_VERSION}", "one"), ("v1.41", "one"), ("v1.41", "two")]
    assert client.engine_version == "20.10.24"


def test_an_engine_that_was_upgraded_meanwhile_is_asked_in_what_it_speaks_now(
    client: Client, asked: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "speaks", OLDER)
    client.create_container("one")
    monkeypatch.setattr(Engine, "speaks", NEWER)
    client.create_container("two")
    assert asked[2:] == [("v1.41", "two"), ("v1.99", "two")]


def test_what_an_engine_refuses_for_itself_is_asked_once(client: Client, asked: list[tuple[str, str]]) -> None:
    with pytest.raises(APIError, match="invalid reference format"):
        client.create_container("bad")
    assert client.create_container("good")["Id"]
    assert asked == [(f"v{API_VERSION}", "bad"), (f"v{API_VERSION}", "good")]


def test_what_is_read_while_it_is_sent_is_not_sent_again(
    client: Client, asked: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "speaks", OLDER)
    url, body = f"{client.base_url}/v{API_VERSION}/containers/create", b'{"Image": "one"}'
    answer = client.post(url, data=iter([body]), headers={"Content-Length": str(len(body))})
    assert answer.status_code == REFUSED
    assert asked == [(f"v{API_VERSION}", "one")]


def test_a_docker_configuration_that_cannot_be_read_is_an_error_of_docker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text('{"auths": {"registry.example": "x"}}')
    with pytest.raises(EngineError, match="Docker said: Invalid configuration for registry") as caught:
        DockerEngine(lambda: pytest.fail("it opens nothing"))
    assert caught.value.stage is Stage.DOCKER


def test_the_relay_is_proved_once_for_all_who_need_it_at_one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    proved, go = [], threading.Event()

    def ask(_: SshHost, docker: Sequence[str]) -> None:
        proved.append(docker)
        assert go.wait(10)
        if len(proved) == 1:
            raise EngineError(Stage.DOCKER, "it does not work")

    monkeypatch.setattr(SshHost, "_ask_relay", ask)
    host = SshHost(HostSpec("a", "a.example"), [])
    all_are_there = threading.Barrier(5, threading.Timer(0.5, go.set).start)

    def prove() -> str:
        if not proved:
            all_are_there.wait(10)
        try:
            host._prove(("docker",))
        except EngineError as error:
            return error.message
        return "proved"

    asking = Gathering(dict.fromkeys(range(5), prove))
    assert set(asking.results().values()) == {"it does not work"}
    assert len(proved) == 1
    assert prove() == "proved"
    assert len(proved) == 2
