"""Docker Engines through the Docker SDK, over any byte stream to their socket."""

from __future__ import annotations

import io
import json
import queue
import tarfile
from contextlib import contextmanager, suppress
from datetime import datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

import docker
import requests
import urllib3
from docker.errors import APIError, DockerException, NotFound
from docker.transport.basehttpadapter import BaseHTTPAdapter

from fleet.errors import EngineError
from fleet.model import CertificateFacts, DaemonFacts, Stage
from fleet.ports import Survey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from certs.authority import Certificate
    from fleet.daemon import DaemonSpec, Files

LABEL_FLEET = "dev.fleet.name"
LABEL_NODE = "dev.fleet.node"
LABEL_SETTINGS = "dev.fleet.settings"
LABEL_HASH = "dev.fleet.hash"
LABEL_PULLED = "dev.fleet.pulled"
LABEL_CERTIFICATE = "dev.fleet.certificate"

DAEMON_PORT = "1234/tcp"
STATE_DIRECTORY = "/var/lib/buildkit"
REQUEST_TIMEOUT = 60
"""Seconds for one request: an emulated or busy host takes many seconds to create a container."""


class Stream(Protocol):
    """What a socket and an SSH channel have in common."""

    def settimeout(self, timeout: float | None, /) -> None:
        """As for a socket."""
        ...

    def close(self) -> None:
        """As for a socket."""
        ...


class DockerEngine:
    """One Docker Engine; the connection is opened by the first request and kept."""

    def __init__(self, open_stream: Callable[[], Stream]) -> None:
        self._open_stream = open_stream
        self._opened: _Client | None = None

    def version(self) -> str:
        """The Engine's own version, such as 26.1.5."""
        with _translated():
            return self._client.engine_version

    def survey(self, fleet: str) -> Survey:
        """The containers and volumes there are: this fleet's, and the names of all others."""
        with _translated():
            containers = self._client.containers(all=True)
            volumes = self._client.volumes()["Volumes"] or []
        ours = [entry for entry in containers if entry["Labels"].get(LABEL_FLEET) == fleet]
        foreign = {_name(entry) for entry in containers if entry not in ours}
        own_volumes = [v["Name"] for v in volumes if (v["Labels"] or {}).get(LABEL_FLEET) == fleet]
        return Survey(
            daemons=tuple(_daemon(entry) for entry in ours),
            volumes=tuple(sorted(own_volumes)),
            foreign=frozenset(foreign | {v["Name"] for v in volumes if v["Name"] not in own_volumes}),
            root=next((parts[0] for v in volumes if (parts := v["Mountpoint"].partition("/volumes/"))[1]), None),
        )

    def has_image(self, reference: str) -> bool:
        """Whether the image is there without pulling."""
        with _translated():
            try:
                self._client.inspect_image(reference)  # type: ignore[no-untyped-call]  # the stubs lack it
            except NotFound:
                return False
        return True

    def pull(self, reference: str, progress: Callable[[str], None]) -> None:
        """Pull the image with the operator's registry credentials; `progress` gets short texts."""
        with _translated(Stage.IMAGE, f"is the reference right, and can the host reach its registry? {reference}"):
            said = None
            for line in self._client.pull(reference, stream=True, decode=True):
                if "error" in line:
                    raise DockerException(line["error"])
                if (status := line.get("status")) in {"Downloading", "Extracting"} and status != said:
                    said = status
                    progress(f"{status.lower()} the image")

    def create(self, wanted: DaemonSpec, certificate: Certificate, files: Files, *, pulled: str | None) -> str:
        """Make the state volume and the container (not started) and put the files in; its id."""
        labels = {LABEL_FLEET: wanted.fleet, LABEL_NODE: wanted.node}
        client = self._client
        with _translated(Stage.CONTAINER):
            client.create_volume(wanted.name, labels=labels)
            container: str = client.create_container(
                wanted.image,
                name=wanted.name,
                hostname=wanted.node,
                # The operator's proxy, password and all, is no business of the host's.
                use_config_proxy=False,
                ports=[1234],
                labels=labels
                | {
                    LABEL_SETTINGS: json.dumps(wanted.settings, sort_keys=True),
                    LABEL_HASH: wanted.fingerprint,
                    LABEL_PULLED: pulled or "",
                    LABEL_CERTIFICATE: json.dumps(
                        {
                            "serial": certificate.serial,
                            "expires": certificate.not_after.isoformat(),
                            "names": certificate.names,
                        }
                    ),
                },
                host_config=client.create_host_config(
                    privileged=True,
                    init=True,
                    restart_policy={"Name": "unless-stopped"},
                    binds={wanted.name: {"bind": STATE_DIRECTORY, "mode": "rw"}},
                    port_bindings={DAEMON_PORT: (wanted.bind, wanted.port)},
                ),
            )["Id"]
            client.put_archive(container, "/", _archive(files))
        return container

    def start(self, container: str) -> None:
        """Start a container."""
        with _translated(Stage.CONTAINER, "is its port free on the host? another one is set as hosts.NAME.port"):
            self._client.start(container)

    def remove(self, container: str, *, grace: int) -> None:
        """Stop it, waiting `grace` seconds before it is killed, and remove it; absent is fine."""
        with _translated(Stage.CONTAINER):
            try:
                self._client.stop(container, timeout=grace)
                self._client.remove_container(container, v=True)
            except NotFound:
                return
            except APIError as error:
                if error.status_code != HTTPStatus.CONFLICT:
                    raise
                # Somebody else is removing it already.
                with suppress(NotFound):
                    self._client.wait(container, timeout=REQUEST_TIMEOUT, condition="removed")

    def remove_volume(self, name: str) -> None:
        """Remove a volume; absent is fine."""
        with _translated(Stage.CONTAINER):
            try:
                self._client.remove_volume(name)
            except NotFound:
                return

    def remove_image(self, reference: str) -> None:
        """Remove an image; absent or still in use is fine."""
        with _translated(Stage.IMAGE):
            try:
                self._client.remove_image(reference)
            except APIError as error:
                if error.status_code not in {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT}:
                    raise

    def logs(self, container: str, *, tail: int) -> str:
        """The last lines that the container wrote."""
        with _translated(Stage.CONTAINER):
            return self._client.logs(container, tail=tail).decode(errors="replace").strip()

    @property
    def _client(self) -> _Client:
        if self._opened is None:
            with _translated():
                self._opened = _Client(self._open_stream)
        return self._opened


class _Client(docker.APIClient):
    """The SDK's client, speaking through our stream and in the newest API version that the Engine offers."""

    def __init__(self, open_stream: Callable[[], Stream]) -> None:
        super().__init__(base_url="http://localhost:1", version="1.24", timeout=REQUEST_TIMEOUT)
        self.base_url = "http+docker://host"
        self.trust_env = False
        self.mount(self.base_url, _Adapter(open_stream))
        answer = self.version(api_version=False)
        self.engine_version: str = answer["Version"]
        self._version: str = answer["ApiVersion"]


class _Adapter(BaseHTTPAdapter):
    def __init__(self, open_stream: Callable[[], Stream]) -> None:
        self._pool = _Pool(open_stream)
        super().__init__()

    def get_connection(self, url: object, proxies: object = None) -> _Pool:  # noqa: ARG002 - the SDK's signature
        return self._pool


class _Pool(urllib3.HTTPConnectionPool):
    def __init__(self, open_stream: Callable[[], Stream]) -> None:
        super().__init__("localhost", timeout=REQUEST_TIMEOUT, maxsize=4)
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


@contextmanager
def _translated(stage: Stage = Stage.DOCKER, remedy: str | None = None) -> Iterator[None]:
    try:
        yield
    except APIError as error:
        raise EngineError(stage, f"Docker said: {error.explanation or error}", remedy) from error
    except DockerException as error:
        raise EngineError(stage, f"Docker said: {error}", remedy) from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, EOFError) as error:
        raise EngineError(
            Stage.DOCKER,
            f"the Docker Engine does not answer ({_innermost(error)})",
            "on the host: systemctl status docker",
        ) from error


def _innermost(error: BaseException) -> str:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return str(error) or type(error).__name__


def _name(container: Mapping[str, Any]) -> str:
    return str(container["Names"][0]).removeprefix("/") if container["Names"] else str(container["Id"])


def _daemon(container: Mapping[str, Any]) -> DaemonFacts:
    labels: Mapping[str, str] = container["Labels"]
    return DaemonFacts(
        id=container["Id"],
        name=_name(container),
        node=labels.get(LABEL_NODE, ""),
        state=container["State"],
        settings=_mapping(labels.get(LABEL_SETTINGS)),
        certificate=_certificate(_mapping(labels.get(LABEL_CERTIFICATE))),
        detail=container["Status"],
        pulled=labels.get(LABEL_PULLED) or None,
    )


def _mapping(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _certificate(label: Mapping[str, Any]) -> CertificateFacts | None:
    try:
        return CertificateFacts(
            serial=str(label["serial"]),
            expires=datetime.fromisoformat(label["expires"]),
            names=tuple(map(str, label["names"])),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _archive(files: Files) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for path, (content, mode) in files.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()
