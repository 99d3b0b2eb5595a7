"""The one connection to an Engine's API, whoever asks first."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from fleet.adapters import engine
from fleet.adapters.engine import DockerEngine
from fleet.errors import EngineError
from fleet.parallel import Gathering, gather


class Client:
    """Stands for the Docker SDK's, which greets the Engine when it is made."""

    made = 0
    go = threading.Event()
    engine_version = "26.1.5"

    def __init__(self, _open: object) -> None:
        type(self).made += 1
        if not self.go.wait(10):
            raise OSError("nobody answers")
        if self.made == 1:
            raise OSError("gone")


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch) -> DockerEngine:
    monkeypatch.setattr(Client, "made", 0)
    monkeypatch.setattr(Client, "go", threading.Event())
    monkeypatch.setattr(engine, "Client", Client)
    return DockerEngine(lambda: pytest.fail("it opens nothing"))


def test_all_who_ask_at_once_get_what_comes_of_it_and_the_next_one_tries_again(docker: DockerEngine) -> None:
    def version() -> str:
        try:
            return docker.version()
        except EngineError as error:
            return error.message

    asking = Gathering(dict.fromkeys(range(5), version))
    threading.Timer(0.2, Client.go.set).start()
    assert set(asking.results().values()) == {"the Docker Engine does not answer (gone)"}
    assert Client.made == 1
    assert set(gather({number: partial(docker.version) for number in range(5)}).values()) == {"26.1.5"}
    assert Client.made == 2
