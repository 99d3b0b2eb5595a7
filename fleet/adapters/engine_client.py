"""The Docker SDK's client, speaking through any byte stream to an Engine's socket."""

from __future__ import annotations

import errno
import queue
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

import docker
import urllib3
from docker.transport.basehttpadapter import BaseHTTPAdapter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import requests

API_VERSION = "1.44"
"""Docker 25 and all since speak it, and 29 nothing older: so nobody has to be asked before the first request."""
REQUEST_TIMEOUT = 60
"""Seconds for one request: an emulated or busy host takes many seconds to create a container."""
LOAD_TIMEOUT = 600
"""Seconds from the last byte of an image to the first word of Docker, which unpacks it before."""


class Stream(Protocol):
    """What a socket and an SSH channel have in common."""

    def settimeout(self, timeout: float | None, /) -> None:
        """As for a socket."""
        ...

    def close(self) -> None:
        """As for a socket."""
        ...


class Client(docker.APIClient):
    """The SDK's client, speaking through our stream, in the newest API version of an Engine that refuses ours."""

    def __init__(self, open_stream: Callable[[], Stream]) -> None:
        super().__init__(base_url="http://localhost:1", version=API_VERSION, timeout=REQUEST_TIMEOUT)
        self.base_url = "http+docker://host"
        self.trust_env = False
        self.mount(self.base_url, _Adapter(open_stream))
        self._engine_version = ""

    @property
    def engine_version(self) -> str:
        """The Engine's own version, as it adds it to whatever it answers."""
        if not self._engine_version:
            # Asking for its version makes an Engine start runc and others to learn theirs; a ping costs nothing.
            self.get(f"{self.base_url}/_ping").raise_for_status()
        return self._engine_version

    def send(self, request: requests.PreparedRequest, **settings: Any) -> requests.Response:
        """Send a request, once more when it was refused for the version it was made in."""
        answer = super().send(request, **settings)
        # Docker/26.1.5 (linux)
        if version := answer.headers.get("Server", "").partition("/")[2].partition(" ")[0]:
            self._engine_version = version
        newest = answer.headers.get("Api-Version")
        if not newest or answer.status_code != HTTPStatus.BAD_REQUEST or b"API version" not in answer.content:
            return answer
        self._version = newest
        # Of a stream nothing is left to be sent again.
        if not isinstance(request.body, str | bytes | None):
            return answer
        again = request.copy()
        again.url = re.sub(r"/v[0-9.]+/", f"/v{newest}/", str(request.url), count=1)
        return super().send(again, **settings)

    def open_log(self, container: str, parameters: Mapping[str, str | float]) -> requests.Response:
        """The container's log as it is sent; the SDK's own stream looks for a real socket beneath it."""
        url = self._url("/containers/{0}/logs", container)  # type: ignore[attr-defined]  # the stubs lack it
        # A daemon may be silent for days.
        patience = None if parameters["follow"] else REQUEST_TIMEOUT
        answer = self.get(url, params=parameters, stream=True, timeout=(REQUEST_TIMEOUT, patience))
        self._raise_for_status(answer)  # type: ignore[attr-defined]  # as above
        return answer

    def archive(self, container: str, directory: str) -> bytes:
        """A directory of a container, as a tar archive; the SDK's own stream looks for a real socket beneath it."""
        url = self._url("/containers/{0}/archive", container)  # type: ignore[attr-defined]  # the stubs lack it
        answer = self.get(url, params={"path": directory}, timeout=REQUEST_TIMEOUT)
        self._raise_for_status(answer)  # type: ignore[attr-defined]  # as above
        return answer.content

    def load(self, pieces: Iterator[bytes]) -> Iterator[Mapping[str, Any]]:
        """Send an archive of images, and what is said of it; the SDK's own way takes a refusal for an answer."""
        answer = self.post(
            self._url("/images/load"),  # type: ignore[attr-defined]  # the stubs lack it
            params={"quiet": False},
            data=pieces,
            headers={"Content-Type": "application/x-tar"},
            stream=True,
            timeout=(REQUEST_TIMEOUT, LOAD_TIMEOUT),
        )
        self._raise_for_status(answer)  # type: ignore[attr-defined]  # as above
        said: Iterator[Mapping[str, Any]] = self._stream_helper(answer, decode=True)  # type: ignore[attr-defined]  # private
        return said


class _Adapter(BaseHTTPAdapter):
    def __init__(self, open_stream: Callable[[], Stream]) -> None:
        self._pool = _Pool(open_stream)
        super().__init__()

    def get_connection(self, url: object, proxies: object = None) -> _Pool:  # noqa: ARG002 - the SDK's signature
        return self._pool


class _Pool(urllib3.HTTPConnectionPool):
    def __init__(self, open_stream: Callable[[], Stream]) -> None:
        super().__init__("localhost", timeout=REQUEST_TIMEOUT, maxsize=6)
        self._open_stream = open_stream

    def _new_conn(self) -> _Connection:
        return _Connection(self._open_stream)

    def _get_conn(self, timeout: float | None = None) -> Any:
        # The stock method asks for a file descriptor to see whether the peer hung up; a channel makes a pipe for it.
        try:
            conn = self.pool.get(block=False, timeout=timeout) if self.pool else None
        except queue.Empty:
            conn = None
        return conn or self._new_conn()


class _Connection(urllib3.connection.HTTPConnection):
    def __init__(self, open_stream: Callable[[], Stream]) -> None:
        super().__init__("localhost", timeout=REQUEST_TIMEOUT)
        self._open_stream = open_stream

    def connect(self) -> None:
        self.sock: Any = self._open_stream()
        self.sock.settimeout(self.timeout)

    def send(self, data: Any) -> None:
        try:
            super().send(data)
        except OSError as error:
            if error.errno is not None:
                raise
            # Whoever stops reading has usually answered. paramiko has no error number for it.
            raise BrokenPipeError(errno.EPIPE, str(error)) from error
