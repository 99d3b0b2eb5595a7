"""The operator's own machine as a host: its Docker Engine, without SSH."""

from __future__ import annotations

import socket
import subprocess
from functools import cached_property
from typing import TYPE_CHECKING

from fleet.adapters.engine import DockerEngine
from fleet.errors import EngineError, HostError
from fleet.model import Stage
from fleet.ports import Completed

if TYPE_CHECKING:
    from collections.abc import Sequence

DOCKER_SOCKET = "/var/run/docker.sock"


class LocalHost:
    """The machine that fleet runs on."""

    def run(self, argv: Sequence[str], *, timeout: float = 30.0) -> Completed:
        """Run a command to its end; `timeout` in seconds."""
        try:
            done = subprocess.run(
                argv, capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired as error:
            raise HostError(Stage.DOCKER, f"{argv[0]} did not end within {timeout:.0f} s") from error
        except OSError as error:
            raise HostError(Stage.DOCKER, f"{argv[0]}: {error.strerror}") from error
        return Completed(done.returncode, done.stdout, done.stderr)

    def engine(self) -> DockerEngine:
        """Docker on this machine."""
        return self._engine

    @cached_property
    def _engine(self) -> DockerEngine:
        return DockerEngine(_open_docker)

    def close(self) -> None:
        """Nothing is held open."""


def _open_docker() -> socket.socket:
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        stream.connect(DOCKER_SOCKET)
    except OSError as error:
        stream.close()
        raise EngineError(
            Stage.DOCKER, f"{DOCKER_SOCKET}: {error.strerror}", "is the Docker Engine running?"
        ) from error
    return stream
