"""The operator's own machine as a host: its Docker Engine, without SSH."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

from fleet.adapters import host_lock
from fleet.adapters.engine import DockerEngine
from fleet.errors import EngineError, HostError
from fleet.model.facts import Stage
from fleet.ports import Completed

if TYPE_CHECKING:
    from collections.abc import Sequence

DOCKER_SOCKET = "/var/run/docker.sock"


class LocalHost:
    """The machine that fleet runs on."""

    def __init__(self) -> None:
        self._locks: list[int] = []

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

    def hold(self, name: str, holder: str) -> str | None:
        """Take the lock of that name until this is closed; None: it is ours, else who has it."""
        path = host_lock.path(name)
        try:
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
            # Without O_CREAT: fs.protected_regular refuses it for another user's file.
            lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError as error:
            raise HostError(Stage.DOCKER, f"{path}: {error.strerror}", "remove it") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with os.fdopen(lock, errors="replace") as file:
                return host_lock.readable(file.readline(300))
        self._locks.append(lock)
        if os.fstat(lock).st_uid == os.geteuid():
            with suppress(OSError), open(path, "r+") as file:
                file.truncate(file.write(f"{holder}\n"))
        return None

    def engine(self) -> DockerEngine:
        """Docker on this machine."""
        return self._engine

    @cached_property
    def _engine(self) -> DockerEngine:
        return DockerEngine(_open_docker)

    def close(self) -> None:
        """Let go of the locks; nothing else is held open."""
        while self._locks:
            os.close(self._locks.pop())


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
