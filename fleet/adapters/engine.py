"""Docker Engines through the Docker SDK, over any byte stream to their socket."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from contextlib import closing, contextmanager, suppress
from functools import partial
from http import HTTPStatus
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import requests
import urllib3
from docker.errors import APIError, DockerException, NotFound
from docker.types import Mount

from fleet.adapters.engine_answers import (
    LABEL_CERTIFICATE,
    LABEL_FILES,
    LABEL_FLEET,
    LABEL_HASH,
    LABEL_NODE,
    LABEL_PROXY,
    LABEL_SETTINGS,
    STATE_DIRECTORY,
    container_facts,
    container_name,
    digest,
    digests,
    engine_info,
)
from fleet.adapters.engine_client import REQUEST_TIMEOUT, Client
from fleet.containers import buildkitd, proxy
from fleet.containers.daemon import RESTART
from fleet.errors import EngineError
from fleet.logs import lines
from fleet.model.facts import CertificateFacts, Image, Stage
from fleet.model.platforms import Platform
from fleet.model.spec import pull_mark
from fleet.parallel import gather
from fleet.ports import Survey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

    from certs.certificate import Certificate
    from fleet.adapters.engine_client import Stream
    from fleet.check.ground import EngineInfo
    from fleet.containers.daemon import DaemonSpec, Files
    from fleet.containers.images import Archive
    from fleet.containers.proxy import ProxySpec
    from fleet.logs import Line
    from fleet.model.facts import Offer

DAEMON_PORT = "1234/tcp"
_REFUSALS = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}


class DockerEngine:
    """One Docker Engine; connections are opened by the first requests and kept."""

    def __init__(self, open_stream: Callable[[], Stream]) -> None:
        with _translated():
            # It reads this machine's ~/.docker/config.json.
            self._client = Client(open_stream)

    def version(self) -> str:
        """The Engine's own version, such as 26.1.5."""
        with _translated():
            return self._client.engine_version

    def survey(self, fleet: str, closely: Mapping[str, str] = MappingProxyType({})) -> Survey:
        """The containers and volumes there are: this fleet's, and the names of all others.

        `closely`: containers to be looked into, and the directory of each that has its files.
        """
        with _translated():
            # By name and beside the list: a distant host counts round trips.
            asked: dict[str, Callable[[], Any]] = {
                "containers": partial(self._client.containers, all=True),
                "volumes": self._client.volumes,
                "looked": lambda: [self._look(fleet, *one) for one in closely.items()],
            }
            found = gather(asked)
        containers, volumes = found["containers"], found["volumes"]["Volumes"] or []
        ours = [entry for entry in containers if entry["Labels"].get(LABEL_FLEET) == fleet]
        foreign = {container_name(entry) for entry in containers if entry not in ours}
        own_volumes = [v["Name"] for v in volumes if (v["Labels"] or {}).get(LABEL_FLEET) == fleet]
        looked = {made["Id"]: (made, files) for made, files in found["looked"] if made}
        facts = [(LABEL_PROXY in one["Labels"], container_facts(one, *looked.get(one["Id"], ()))) for one in ours]
        return Survey(
            daemons=tuple(fact for is_proxy, fact in facts if not is_proxy),
            proxies=tuple(fact for is_proxy, fact in facts if is_proxy),
            volumes=tuple(sorted(own_volumes)),
            foreign=frozenset(foreign | {v["Name"] for v in volumes if v["Name"] not in own_volumes}),
            root=next((parts[0] for v in volumes if (parts := v["Mountpoint"].partition("/volumes/"))[1]), None),
        )

    def _look(
        self, fleet: str, container: str, directory: str
    ) -> tuple[Mapping[str, Any] | None, dict[str, str] | None]:
        """What Docker does for a container, None: it is absent; and path -> digest of each file of that directory.

        No files: they cannot be read now, or must not be: of a stranger, or of a daemon made before its keys had a
        folder of their own.
        """
        made: Mapping[str, Any] | None = None
        with suppress(NotFound):
            made = self._client.inspect_container(container)
        labels = (made and made["Config"]["Labels"]) or {}
        if not made or labels.get(LABEL_FLEET) != fleet or LABEL_FILES not in labels:
            return made, None
        try:
            return made, digests(self._client.archive(made["Id"], directory), directory)
        except NotFound:
            return made, {}
        except (APIError, tarfile.TarError):
            return made, None

    def image(self, reference: str, mark: str) -> Image:
        """Whether the image is there without pulling, and whether it bears the mark."""
        with _translated():
            tags = self._tags(reference, mark)
        if tags is None:
            return Image.ABSENT
        return Image.PULLED if mark in tags else Image.FOUND

    def info(self) -> EngineInfo:
        """What it says of itself and its host, and who has which port there."""
        with _translated():
            client = self._client
            asked: dict[str, Any] = gather(
                {"info": client.info, "containers": client.containers, "bridge": self._bridge}
            )
        return engine_info(asked["info"], asked["containers"], asked["bridge"])

    def _bridge(self) -> Mapping[str, str]:
        """Options of the network that containers are on unless they ask for another; none where it is off."""
        try:
            return self._client.inspect_network("bridge")["Options"] or {}
        except NotFound:
            return {}

    def distribution(self, reference: str) -> frozenset[Platform]:
        """Without pulling, for which platforms the image's registry has it; empty: the registry does not say."""
        with _translated(Stage.IMAGE, f"is the reference right, and can the host reach its registry? {reference}"):
            try:
                said = self._client.inspect_distribution(reference)  # type: ignore[no-untyped-call]  # the stubs lack it
            except APIError as error:
                if error.status_code not in _REFUSALS:
                    raise
                raise EngineError(
                    Stage.IMAGE,
                    f"the registry does not give {reference} away: {error.explanation}",
                    "if it is private: docker login on this machine; else correct buildkit.image",
                ) from error
        return frozenset(
            Platform(entry["os"], entry["architecture"], entry.get("variant", "")).normalised()
            for entry in said["Platforms"] or ()
            # What belongs to an image but is none, such as its provenance.
            if entry["architecture"] != "unknown"
        )

    def pull(self, reference: str, mark: str, progress: Callable[[str], None]) -> None:
        """Pull the image with the operator's registry credentials and mark it; `progress` gets short texts."""
        with _translated(Stage.IMAGE, f"is the reference right, and can the host reach its registry? {reference}"):
            said = None
            for line in self._client.pull(reference, stream=True, decode=True):
                if "error" in line:
                    raise DockerException(line["error"])
                if (status := line.get("status")) in {"Downloading", "Extracting"} and status != said:
                    said = status
                    progress(f"{status.lower()} the image")
            repository, _, tag = mark.partition(":")
            self._client.tag(reference, repository, tag)

    def load(self, archive: Archive, offer: Offer, mark: str, progress: Callable[[int], None]) -> None:
        """Take in an archive that bears the mark alone, refuse it unless it is what was offered, and name it so."""

        def sent() -> Iterator[bytes]:
            count = 0
            for piece in archive.pieces:
                yield piece
                progress(count := count + len(piece))

        with _translated(Stage.IMAGE, "is there room for it where Docker keeps its files?"):
            for line in self._client.load(sent()):
                if "error" in line:
                    raise DockerException(line["error"])
            loaded = self._client.inspect_image(mark)["Id"]  # type: ignore[no-untyped-call]  # the stubs lack it
            if loaded not in {offer.config, offer.digest}:
                self._untag(mark)
                raise DockerException(f"what arrived as {offer.reference} is {loaded}, not {offer.config}")
            # A digest cannot be given as a name: such an image is known by its mark alone.
            if "@" not in offer.reference:
                repository, _, tag = offer.reference.rpartition(":")
                self._client.tag(mark, repository, tag)

    def create(self, wanted: DaemonSpec, certificate: Certificate, files: Files) -> str:
        """Make the state volume and the container (not started) and put the files in; its id."""
        labels = {LABEL_FLEET: wanted.fleet, LABEL_NODE: wanted.node}
        client, facts = self._client, CertificateFacts.of(certificate)
        with _translated(Stage.CONTAINER):
            return self._put(
                wanted,
                files,
                buildkitd.DIRECTORY,
                hostname=wanted.node,
                ports=[1234],
                labels=labels
                | {
                    LABEL_CERTIFICATE: json.dumps(
                        {
                            "serial": facts.serial,
                            "subject": facts.subject,
                            "issued": facts.issued and facts.issued.isoformat(),
                            "expires": facts.expires.isoformat(),
                            "names": facts.names,
                        }
                    ),
                },
                host_config=client.create_host_config(
                    privileged=True,
                    init=True,
                    restart_policy={"Name": RESTART},
                    nano_cpus=wanted.limits.cpus and wanted.limits.cpus * 10**9,
                    mem_limit=wanted.limits.memory,
                    # Docker makes the volume if there is none.
                    mounts=[Mount(STATE_DIRECTORY, wanted.name, labels=labels)],
                    port_bindings={DAEMON_PORT: (wanted.bind, wanted.port)},
                ),
            )

    def create_proxy(self, wanted: ProxySpec, files: Files) -> str:
        """Make the gateway's container (not started), on the host's network, and put the files in; its id."""
        with _translated(Stage.CONTAINER):
            return self._put(
                wanted,
                files,
                proxy.DIRECTORY,
                entrypoint=list(proxy.COMMAND),
                stop_signal=proxy.STOP_SIGNAL,
                labels={LABEL_FLEET: wanted.fleet, LABEL_PROXY: ""},
                host_config=self._client.create_host_config(
                    network_mode="host",
                    cap_drop=["ALL"],
                    security_opt=["no-new-privileges"],
                    restart_policy={"Name": RESTART},
                ),
            )

    def _put(
        self,
        wanted: DaemonSpec | ProxySpec,
        files: Files,
        directory: str,
        *,
        labels: Mapping[str, str],
        **settings: Any,
    ) -> str:
        """Make a container that remembers what it was made with, and put the files in; its id.

        Of the files it remembers those in `directory`.
        """
        put = {path: digest(content) for path, (content, _) in files.items() if path.startswith(f"{directory}/")}
        mark = pull_mark(wanted.fleet, wanted.image)
        container: str = self._client.create_container(
            # One that was loaded is not known by its digest.
            mark if "@" in wanted.image and self._tags(wanted.image) is None else wanted.image,
            name=wanted.name,
            # The operator's proxy, password and all, is no business of the host's.
            use_config_proxy=False,
            labels={
                **labels,
                LABEL_SETTINGS: json.dumps(wanted.settings, sort_keys=True),
                LABEL_HASH: wanted.fingerprint,
                LABEL_FILES: json.dumps(put, sort_keys=True),
            },
            **settings,
        )["Id"]
        self._client.put_archive(container, "/", _archive(files))
        return container

    def start(self, container: str) -> None:
        """Start a container."""
        with _translated(Stage.CONTAINER, "is its port free on the host? another one is set as hosts.NAME.port"):
            self._client.start(container)

    def stop(self, container: str, *, grace: int) -> None:
        """Stop a container, which has `grace` seconds for it before it is killed."""
        with _translated(Stage.CONTAINER):
            self._client.stop(container, timeout=grace)

    def kill_unless(self, container: str, busy: Callable[[int], bool]) -> bool:
        """Freeze a container and kill it, unless it is `busy`: then it goes on. Whether it has ended."""
        with _translated(Stage.CONTAINER):
            state = self._client.inspect_container(container)["State"]
            if not state["Running"]:
                return True
            if not state["Paused"]:
                self._client.pause(container)
            idle = False
            try:
                if idle := not busy(state["Pid"]):
                    self._client.kill(container)
                    self._client.wait(container, timeout=REQUEST_TIMEOUT)
            finally:
                if not idle:
                    self._client.unpause(container)
        return idle

    def rename(self, container: str, name: str) -> None:
        """Give a container another name; it may have it already."""
        with _translated(Stage.CONTAINER):
            if self._client.inspect_container(container)["Name"] != f"/{name}":
                self._client.rename(container, name)

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

    def remove_image(self, reference: str, mark: str) -> None:
        """Remove the mark, and the image if it bore it; absent, found, still in use or tagged by others is fine."""
        with _translated(Stage.IMAGE):
            tags = self._tags(reference, mark) or set()
            digests: list[str] = []
            with suppress(NotFound):
                if tags == {mark}:
                    digests = self._client.inspect_image(mark)["RepoDigests"] or []  # type: ignore[no-untyped-call]  # the stubs lack it
            self._untag(mark)
            # A name that was given to another image leaves its digest behind, which keeps the image; a second digest is
            # somebody else's.
            if len(digests) == 1:
                self._untag(digests[0])
            # Of an image with another tag Docker would remove the reference although a container uses it.
            if mark in tags and len(tags - {mark}) <= ("@" not in reference):
                self._untag(reference)

    def run(self, image: str, arguments: Sequence[str], *, timeout: int) -> str:
        """Run an image that is there to its end, privileged and without a network, and leave nothing; what it said."""
        client = self._client
        with _translated(Stage.CONTAINER):
            container = client.create_container(
                image,
                list(arguments),
                use_config_proxy=False,
                host_config=client.create_host_config(privileged=True, network_mode="none"),
            )["Id"]
            try:
                client.start(container)
                status = client.wait(container, timeout=timeout)["StatusCode"]
                said = client.logs(container).decode(errors="replace").strip()
            finally:
                client.remove_container(container, force=True, v=True)
            if status:
                last = (said.splitlines() or ["no output"])[-1]
                raise DockerException(f"{image} ended with {status}: {last}")
        return said

    def logs(self, container: str, *, tail: int) -> str:
        """The last lines that the container wrote."""
        with _translated(Stage.CONTAINER):
            return self._client.logs(container, tail=tail).decode(errors="replace").strip()

    def log_stream(
        self, container: str, *, since: datetime | None = None, tail: int | None = None, follow: bool = False
    ) -> Iterator[Line]:
        """The container's log from `since` on, of that the last `tail` lines; `follow`: until it stops or is removed.

        Asks before it returns; what is lost later raises while it is read.
        """
        with _translated(Stage.CONTAINER, "fleet plan"):
            answer = self._client.open_log(
                container,
                {
                    "timestamps": True,
                    "stdout": True,
                    "stderr": True,
                    "follow": follow,
                    "tail": "all" if tail is None else tail,
                    "since": since.timestamp() if since else 0,
                },
            )
        return _read_log(answer)

    def _tags(self, *names: str) -> set[str] | None:
        """The tags of the image with the first of these names that there is, maybe none; None: it is absent."""
        for name in names:
            with suppress(NotFound):
                image = self._client.inspect_image(name)  # type: ignore[no-untyped-call]  # the stubs lack it
                return set(image["RepoTags"] or ())
        return None

    def _untag(self, reference: str) -> None:
        try:
            self._client.remove_image(reference)
        except APIError as error:
            if error.status_code not in {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT}:
                raise


def _read_log(answer: requests.Response) -> Iterator[Line]:
    with _translated(Stage.CONTAINER), closing(answer):
        try:
            yield from lines(_frames(answer.raw))
        except ValueError as error:
            raise DockerException(f"a log that cannot be read: {error}") from error


def _frames(sent: urllib3.HTTPResponse) -> Iterator[tuple[int, bytes]]:
    """(stream, content), as Docker's API multiplexes them: a byte, three that are not used, the length, the content."""
    while header := sent.read(8):
        stream, length = struct.unpack(">BxxxL", header)
        yield stream, sent.read(length)


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


def _archive(files: Files) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for path, (content, mode) in files.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()
