"""The ports in memory: machines, Engines, daemons and buildx that a test can set up, break and read.

They keep the same contracts as the real adapters (tests/contract), as far as fleet relies on them.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import itertools
import json
import re
import tarfile
import threading
import time
import tomllib
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from fleet import buildx
from fleet.applying import history
from fleet.check.ground import Reach
from fleet.containers import buildkitd, proxy
from fleet.errors import BuilderError, EngineError, HostError, Unreachable
from fleet.logs import Line
from fleet.model.facts import ApiFacts, BuilderFacts, BuilderNode, CertificateFacts, DaemonFacts, Down, Image, Stage
from fleet.model.platforms import machine_arch
from fleet.notes import DRAIN
from fleet.ports import Completed, Survey
from tests.support.values import INFO, NOW, WORKER_PLATFORMS, platforms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

    from certs.certificate import Certificate
    from fleet.builds import BuildRecord, Step, Written
    from fleet.cache import CacheRecord, Pruning
    from fleet.check.ground import EngineInfo
    from fleet.containers.daemon import DaemonSpec, Files
    from fleet.containers.images import Archive
    from fleet.containers.proxy import ProxySpec
    from fleet.model.facts import Offer
    from fleet.model.platforms import Platform
    from fleet.model.spec import HostSpec
    from fleet.parallel import Stop
    from tests.support.fake_vault import FakeVault

BINFMT_MAGICS = {
    "amd64": "7f454c4602010100000000000000000002003e00",
    "arm": "7f454c4601010100000000000000000002002800",
    "arm64": "7f454c460201010000000000000000000200b700",
    "s390x": "7f454c4602020100000000000000000000020016",
}


# ------------------------------------------------------------------------------------------ host and Engine


@dataclass(slots=True)
class Container:
    """A container on a machine; `fleet` is its label, None for somebody else's."""

    id: str
    name: str
    fleet: str | None = None
    node: str = ""
    state: str = "created"
    settings: Mapping[str, str] = field(default_factory=dict)
    certificate: CertificateFacts | None = None
    image: str = ""
    port: int | None = None
    volume: str = ""
    files: Files = field(default_factory=dict)
    put: Files = field(default_factory=dict)
    """The files as they were when it was made."""
    enforced: Mapping[str, str] = field(default_factory=dict)
    """What Docker does for it."""
    proxy: bool = False
    """Whether it is a gateway."""

    @property
    def gates(self) -> dict[int, list[tuple[str, int]]]:
        """A gateway's ports, and the addresses and ports of the nodes behind each."""
        content, _ = self.files.get(proxy.CONFIG_PATH, (b"", 0))
        _, *listeners = content.decode().split("\nlisten ")
        return {
            int(re.findall(r"bind \S*:(\d+)", text)[0]): [
                (address.strip("[]"), int(port)) for address, port in re.findall(r"server \S+ (\S+):(\d+)\n", text)
            ]
            for text in listeners
        }


@dataclass(slots=True)
class Machine:
    """A computer with Docker, and all that can be wrong with it."""

    address: str
    machine: str = "x86_64"
    containers: list[Container] = field(default_factory=list)
    volumes: dict[str, str | None] = field(default_factory=dict)
    """Name -> fleet label, None for somebody else's."""
    images: set[str] = field(default_factory=set)
    marks: dict[str, str] = field(default_factory=dict)
    """Tag -> image that it was given to when it was pulled."""
    emulated: tuple[str, ...] = ()
    refuses: frozenset[str] = frozenset()
    """Images that cannot do here what they are for."""
    reported: tuple[str, ...] = ()
    """What a daemon here reports instead of what such a machine runs."""
    ahead: float = 0.0
    """Seconds by which its clock is wrong."""
    login: bool = True
    """Whether sshd lets us in."""
    network: bool = True
    """Whether packets to its daemons arrive."""
    full: bool = False
    """Whether there is no room for another image."""
    docker: bool = True
    docker_words: str = "ok"
    """What the host says of its Docker socket: ok, absent or denied."""
    pulls: bool = True
    """Whether its registry answers."""
    crashes: bool = False
    """Whether daemons end as soon as they start."""
    freezes: bool = True
    """Whether its kernel can freeze a container now."""
    builds: int = 0
    """How many run on its daemons."""
    built: dict[str, list[BuildRecord]] = field(default_factory=dict)
    """State volume -> the builds there, as they begin and end."""
    steps: dict[str, list[Step | Written]] = field(default_factory=dict)
    """Ref -> what is told of the steps of that build, in order."""
    log: str = "toml: incomplete number\nfailed to parse config\nmain.main\n\tmain.go:137"
    """What its daemons have written, a line every `log_pace` from `log_from` on."""
    log_from: datetime = NOW
    log_pace: timedelta = timedelta(seconds=1)
    writes: list[Line] = field(default_factory=list)
    """What is yet to be written, for those who follow."""
    breaks_off: bool = False
    """Whether Docker goes away while its log is read."""
    cache: dict[str, list[CacheRecord]] = field(default_factory=dict)
    """State volume -> what the daemon on it has cached."""
    info: EngineInfo = INFO
    """What its Engine says, less who has which port."""
    ground: str = ""
    """What its shell answers to `fleet check`."""
    ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    notes: dict[str, dict[str, str]] = field(default_factory=dict)
    """State volume -> what has been left in it for others to read."""
    connected: int = 0
    """Clients that are connected to the daemon here, whose builds may not have begun."""
    histories: dict[str, str] = field(default_factory=dict)
    """Fleet -> the file of who changed what."""
    home: bool = True
    """Whether its login may write there."""
    locks: dict[str, tuple[object, str]] = field(default_factory=dict)
    """Name -> the connection that holds it, and who that is."""
    stopped: list[tuple[str, int]] = field(default_factory=list)
    """Names of stopped containers and the grace that they had."""
    removed: list[tuple[str, int]] = field(default_factory=list)
    """Names of removed containers and the grace that they had."""

    def settle(self) -> None:
        """What kept daemons from coming up is over."""
        for container in self.containers:
            if container.state == "restarting" and self.bears(container):
                container.state = "running"

    def bears(self, container: Container) -> bool:
        """Whether the container stays up once it is started."""
        return not self.crashes and "broken" not in container.image and _is_toml(container.files)

    def log_lines(self) -> list[Line]:
        """The log so far, with times."""
        return [Line(self.log_from + at * self.log_pace, text) for at, text in enumerate(self.log.splitlines())]

    def prune_images(self) -> None:
        """Take every image away, whatever names it has."""
        self.images.clear()
        self.marks.clear()

    def supersede(self, reference: str) -> None:
        """Somebody pulls another image of that name; what is made from the old one still is."""
        old = f"{reference} as it was"
        self.marks = {mark: old if marked == reference else marked for mark, marked in self.marks.items()}
        for container in self.containers:
            container.image = old if container.image == reference else container.image

    def container(self, key: str) -> Container | None:
        """The container of that name or id."""
        return next((c for c in self.containers if key in {c.id, c.name}), None)

    def gateway(self, port: int) -> Container | None:
        """The running gateway that has the port."""
        return next((c for c in self.containers if c.proxy and c.state == "running" and port in c.gates), None)

    def listening(self, port: int) -> Container | None:
        """The running container that has the port."""
        return next((c for c in self.containers if c.port == port and c.state in _HOLDS_PORT), None)


_HOLDS_PORT = {"running", "paused"}


class FakeEngine:
    """Docker of a machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def version(self) -> str:
        self._reach()
        return "26.1.5"

    def survey(self, fleet: str, closely: Mapping[str, str] = MappingProxyType({})) -> Survey:
        self._reach()

        def looked_into(c: Container, facts: DaemonFacts) -> DaemonFacts:
            if c.name not in closely:
                return facts
            inside = [path for path in c.put if path.startswith(f"{closely[c.name]}/")]
            changed = sorted(path for path in inside if c.files.get(path) != c.put[path])
            enforced = (
                {**c.enforced} if c.image in self.machine.images else {**c.enforced, "image": f"sha256:{c.image}"}
            )
            return replace(facts, enforced=enforced, changed=tuple(changed))

        ours = [c for c in self.machine.containers if c.fleet == fleet]
        others = {c.name for c in self.machine.containers if c.fleet != fleet}
        volumes = self.machine.volumes
        return Survey(
            daemons=tuple(
                looked_into(c, DaemonFacts(c.id, c.name, c.node, c.state, c.settings, c.certificate, f"is {c.state}"))
                for c in ours
                if not c.proxy
            ),
            proxies=tuple(
                looked_into(c, DaemonFacts(c.id, c.name, "", c.state, c.settings, None, f"is {c.state}"))
                for c in ours
                if c.proxy
            ),
            volumes=tuple(sorted(name for name, label in volumes.items() if label == fleet)),
            foreign=frozenset(others | {name for name, label in volumes.items() if label != fleet}),
        )

    def image(self, reference: str, mark: str) -> Image:
        self._reach()
        if reference not in self.machine.images:
            return Image.ABSENT
        return Image.PULLED if self.machine.marks.get(mark) == reference else Image.FOUND

    def info(self) -> EngineInfo:
        self._reach()
        holders = {c.port: c.name for c in self.machine.containers if c.port and c.state in _HOLDS_PORT}
        return replace(self.machine.info, published=holders)

    def distribution(self, reference: str) -> frozenset[Platform]:
        self._reach()
        if not self.machine.pulls or "nowhere" in reference:
            raise EngineError(Stage.IMAGE, f"Docker said: no {reference} here", "is the reference right?")
        return frozenset(platforms("linux/amd64", "linux/arm64"))

    def pull(self, reference: str, mark: str, progress: Callable[[str], None]) -> None:
        self._reach()
        if not self.machine.pulls or "nowhere" in reference:
            raise EngineError(Stage.IMAGE, f"Docker said: no {reference} here", "is the reference right?")
        progress("downloading layer")
        self.machine.images.add(reference)
        self.machine.marks[mark] = reference

    def load(self, archive: Archive, offer: Offer, mark: str, progress: Callable[[int], None]) -> None:
        self._reach()
        received = b""
        for piece in archive.pieces:
            received += piece
            progress(len(received))
            if self.machine.full:
                raise EngineError(Stage.IMAGE, "Docker said: no space left on device", "make room")
        config, tags = _loaded(received)
        assert tags == [mark]
        if config != offer.config:
            raise EngineError(Stage.IMAGE, f"Docker said: what arrived as {offer.reference} is {config}", "again")
        self.machine.images.add(offer.reference)
        self.machine.marks[mark] = offer.reference

    def create(self, wanted: DaemonSpec, certificate: Certificate, files: Files) -> str:
        self._reach()
        if wanted.image not in self.machine.images:
            raise EngineError(Stage.CONTAINER, f"Docker said: No such image: {wanted.image}")
        if self.machine.container(wanted.name):
            raise EngineError(Stage.CONTAINER, f"Docker said: the name {wanted.name} is in use")
        if (wanted.limits.cpus or 0) > (self.machine.info.cpus or 0):
            raise EngineError(Stage.CONTAINER, "Docker said: there are not as many CPUs available")
        self.machine.volumes.setdefault(wanted.name, wanted.fleet)
        container = Container(
            id=f"{self.machine.address}-{next(self.machine.ids)}",
            name=wanted.name,
            fleet=wanted.fleet,
            node=wanted.node,
            settings=wanted.settings,
            certificate=CertificateFacts.of(certificate),
            image=wanted.image,
            port=wanted.port,
            volume=wanted.name,
            files=dict(files),
            put=dict(files),
            enforced=wanted.enforced,
        )
        self.machine.containers.append(container)
        return container.id

    def create_proxy(self, wanted: ProxySpec, files: Files) -> str:
        self._reach()
        if wanted.image not in self.machine.images:
            raise EngineError(Stage.CONTAINER, f"Docker said: No such image: {wanted.image}")
        if self.machine.container(wanted.name):
            raise EngineError(Stage.CONTAINER, f"Docker said: the name {wanted.name} is in use")
        container = Container(
            id=f"{self.machine.address}-{next(self.machine.ids)}",
            name=wanted.name,
            fleet=wanted.fleet,
            settings=wanted.settings,
            image=wanted.image,
            files=dict(files),
            put=dict(files),
            enforced=wanted.enforced,
            proxy=True,
        )
        self.machine.containers.append(container)
        return container.id

    def start(self, container: str) -> None:
        self._reach()
        found = self._found(container)
        holder = self.machine.listening(found.port) if found.port else None
        if holder is not None and holder is not found:
            raise EngineError(Stage.CONTAINER, f"Docker said: port {found.port} is already allocated")
        if found.state == "paused":
            raise EngineError(Stage.CONTAINER, "Docker said: cannot start a paused container")
        # A gateway listens beside its predecessor, but not beside others.
        taken = any(self.machine.listening(port) for port in found.gates)
        found.state = "running" if self.machine.bears(found) and not taken else "restarting"

    def stop(self, container: str, *, grace: int) -> None:
        self._reach()
        found = self._found(container)
        if found.state in {"running", "paused", "restarting"}:
            found.state = "exited"
            self.machine.stopped.append((found.name, grace))

    def kill_unless(self, container: str, busy: Callable[[int], bool]) -> bool:
        self._reach()
        found = self._found(container)
        if found.state in {"running", "paused", "restarting"}:
            found.state = "running"
            if not self.machine.freezes:
                raise EngineError(Stage.CONTAINER, "Docker said: unable to freeze")
            if busy(1):
                return False
            found.state = "exited"
            self.machine.stopped.append((found.name, 0))
        return True

    def rename(self, container: str, name: str) -> None:
        self._reach()
        found = self._found(container)
        if self.machine.container(name) not in (None, found):
            raise EngineError(Stage.CONTAINER, f"Docker said: the name {name} is in use")
        found.name = name

    def remove(self, container: str, *, grace: int) -> None:
        self._reach()
        if found := self.machine.container(container):
            self.machine.containers.remove(found)
            self.machine.removed.append((found.name, grace))

    def remove_volume(self, name: str) -> None:
        self._reach()
        if any(container.volume == name for container in self.machine.containers):
            raise EngineError(Stage.CONTAINER, f"Docker said: volume {name} is in use")
        self.machine.volumes.pop(name, None)
        self.machine.notes.pop(name, None)
        self.machine.cache.pop(name, None)

    def remove_image(self, reference: str, mark: str) -> None:
        self._reach()
        bore = self.machine.marks.pop(mark, None) == reference
        used = reference in {*self.machine.marks.values(), *(c.image for c in self.machine.containers)}
        if bore and not used:
            self.machine.images.discard(reference)

    def run(self, image: str, arguments: Sequence[str], *, timeout: int) -> str:
        """As the image tonistiigi/binfmt does it, whatever the image."""
        self._reach()
        if image not in self.machine.images or timeout <= 0:
            raise EngineError(Stage.CONTAINER, f"Docker said: No such image: {image}")
        if image in self.machine.refuses:
            raise EngineError(Stage.CONTAINER, f"Docker said: {image} ended with 1: cannot mount binfmt_misc")
        handlers = set(self.machine.emulated)
        match tuple(arguments):
            case ("--install", "all"):
                handlers |= BINFMT_MAGICS.keys() - {machine_arch(self.machine.machine)}
            case ("--install", listed):
                handlers |= set(listed.split(",")) & BINFMT_MAGICS.keys()
            case ("--uninstall", listed):
                handlers -= set(listed.split(","))
            case ("--version",):
                return "v1"
            case _:
                raise EngineError(Stage.CONTAINER, f"Docker said: {image} ended with 1: no such option")
        self.machine.emulated = tuple(sorted(handlers))
        return "installing: done"

    def logs(self, container: str, *, tail: int) -> str:
        self._reach()
        self._found(container)
        return "\n".join(self.machine.log.splitlines()[-tail:])

    def log_stream(
        self, container: str, *, since: datetime | None = None, tail: int | None = None, follow: bool = False
    ) -> Iterator[Line]:
        self._reach()
        self._found(container)
        wanted = [line for line in self.machine.log_lines() if since is None or line.at >= since]
        return self._sent(wanted if tail is None else wanted[len(wanted) - tail :], follow=follow)

    def _sent(self, wanted: Sequence[Line], *, follow: bool) -> Iterator[Line]:
        yield from wanted
        if self.machine.breaks_off:
            raise EngineError(Stage.DOCKER, "the Docker Engine does not answer", "is it running on the host?")
        while follow and self.machine.writes:
            yield self.machine.writes.pop(0)

    def _found(self, key: str) -> Container:
        found = self.machine.container(key)
        if found is None:
            raise EngineError(Stage.CONTAINER, f"Docker said: No such container: {key}")
        return found

    def _reach(self) -> None:
        if not self.machine.docker:
            raise EngineError(Stage.DOCKER, "the Docker Engine does not answer", "is it running on the host?")


def _loaded(archive: bytes) -> tuple[str, list[str]]:
    """The id and the tags of an image whose layers are what its configuration says."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        files = {entry.name: file.read() for entry in tar if (file := tar.extractfile(entry))}
    [image] = json.loads(files["manifest.json"])
    config = files[image["Config"]]
    for layer, expected in zip(image["Layers"], json.loads(config)["rootfs"]["diff_ids"], strict=True):
        try:
            found = _digest(gzip.decompress(files[layer]))
        except (OSError, EOFError, zlib.error) as error:
            raise EngineError(Stage.IMAGE, f"Docker said: {error}") from error
        if found != expected:
            raise EngineError(Stage.IMAGE, "Docker said: invalid diffID for layer", "make room")
    return _digest(config), image["RepoTags"]


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _is_toml(files: Files) -> bool:
    content, _ = files.get(buildkitd.CONFIG_PATH, (b"", 0))
    try:
        tomllib.loads(content.decode())
    except ValueError:
        return False
    return True


@cache
def _max_builds(config: bytes) -> int | None:
    """What the worker's label says, as far as its configuration can be read."""
    labels = tomllib.loads(config.decode()).get("worker", {}).get("oci", {}).get("labels", {})
    most = labels.get(buildkitd.LABEL_MAX_BUILDS)
    return int(most) if most else None


class FakeHost:
    """A machine with an open connection; of all commands it knows `sh` with the question of observe, and a few more."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.open = True

    def run(self, argv: Sequence[str], *, timeout: float = 30.0) -> Completed:
        if not self.open:
            raise HostError(Stage.SSH, "the connection was lost", "run the command again")
        match tuple(argv):
            case ("sh", "-c", script, "sh", fleet) if "binfmt_misc" in script:
                return Completed(0, self._report(fleet), "")
            case ("sh", "-c", script, *_) if "resolv.conf" in script:
                return Completed(0, self.machine.ground, "")
            case ("printf", r"%s\n", *words):
                return Completed(0, "".join(f"{word}\n" for word in words), "")
            case ("sh", "-c", "echo out; echo err >&2; exit 7"):
                return Completed(7, "out\n", "err\n")
            case ("cat", "/proc/1/net/tcp", "/proc/1/net/tcp6"):
                return Completed(
                    0, "0: 0B001EAC:04D2 01001EAC:CF08 01 0:0 00:0 0 0 0 7956\n" * self.machine.connected, ""
                )
            case ("cat",):
                return Completed(0, "", "")
            case ("sh", "-c", _, "sh", _, *_) if said := self._history(tuple(argv)):
                return said
            case ("sleep", seconds) if float(seconds) > timeout:
                raise HostError(Stage.SSH, f"sleep did not end within {timeout:.0f} s")
            case other:
                raise AssertionError(f"the fake host does not know {other}")

    def hold(self, name: str, holder: str) -> str | None:
        if not self.open:
            raise HostError(Stage.SSH, "the connection was lost", "run the command again")
        owner, who = self.machine.locks.setdefault(name, (self, holder))
        return None if owner is self else who

    def engine(self) -> FakeEngine:
        return FakeEngine(self.machine)

    def close(self) -> None:
        self.open = False
        self.machine.locks = {name: held for name, held in self.machine.locks.items() if held[0] is not self}

    def _history(self, argv: tuple[str, ...]) -> Completed | None:
        """What a shell does with the questions of `fleet.applying.history`; None: it is none of them."""
        fleet, *given = argv[4:]
        kept = self.machine.histories.get(fleet, "")
        if argv == history.read(fleet):
            return Completed(0, kept, "")
        if argv == history.forget(fleet):
            self.machine.histories.pop(fleet, None)
            return Completed(0, "", "")
        if argv[2] == history.APPEND:
            if not self.machine.home:
                return Completed(1, "", "sh: 1: cannot create acme.jsonl: Read-only file system\n")
            kept += "" if kept.endswith("\n") or not kept else "\n"
            lines = f"{kept}{given[0]}\n".splitlines(keepends=True)
            self.machine.histories[fleet] = "".join(lines[-int(given[1]) :])
            return Completed(0, "", "")
        return None

    def _report(self, fleet: str) -> str:
        free = 0 if self.machine.full else 50_000_000
        lines = [
            f"machine {self.machine.machine}",
            f"clock {time.time() + self.machine.ahead:.0f}",
            f"df Filesystem 1024-blocks Used Available Capacity Mounted on /dev/sda1 100000000 5 {free} 50% /",
            f"docker {self.machine.docker_words}",
            *(f"binfmt {BINFMT_MAGICS[arch]}" for arch in self.machine.emulated),
            *(["history"] if fleet in self.machine.histories else ()),
        ]
        return "\n".join(lines) + "\n"


# -------------------------------------------------------------------------------------------------- daemons


class FakeProber:
    """Finds the daemon that listens on a machine, and whether the certificates of both ends fit together."""

    def __init__(self, machines: Mapping[str, Machine], keys: FakeVault, now: Callable[[], datetime]) -> None:
        self.machines = machines
        self._keys = keys
        self._now = now

    def prepare(self) -> None:
        pass

    def close(self) -> None:
        pass

    def probe(self, host: HostSpec, *, timeout: float) -> ApiFacts | Down:
        machine = self.machines.get(host.address)
        if machine is None or not machine.network:
            return Down(
                Stage.TCP, f"no answer from {host.endpoint} within {timeout:g} s", "is the host up?", silent=True
            )
        if proxy := machine.gateway(host.port):
            return self._behind(proxy, host, timeout)
        container = machine.listening(host.port)
        if container is None:
            return Down(Stage.TCP, f"{host.endpoint} refused the connection", f"fleet up --host {host.name}")
        if container.state == "paused":
            reason = f"{host.endpoint} did not shake hands within {timeout:g} s"
            return Down(Stage.TLS, reason, "is it frozen?", late=True, silent=True)
        keys = self._keys.read()
        served, client, settings = container.certificate, keys.client, container.settings
        trusted = {keys.authority_fingerprint, keys.coming_fingerprint, keys.leaving_fingerprint} - {None}
        if served is None or settings.get("authority") not in {str(fingerprint)[:16] for fingerprint in trusted}:
            return Down(Stage.TLS, f"the certificate of {host.endpoint} is not accepted: unknown CA", "fleet up")
        if (host.servername or host.address) not in served.names or served.expires <= self._now():
            return Down(Stage.TLS, f"the certificate of {host.endpoint} is not accepted", "fleet up")
        let_in = (keys.client_authority or "")[:16] in settings.get("trust", "").split()
        if client is None or client.expires <= self._now() or not let_in:
            return Down(Stage.TLS, f"{host.endpoint} refused this client's certificate", "fleet up")
        return ApiFacts(
            version=container.image.rpartition(":")[2],
            worker=f"worker of {container.volume}",
            platforms=platforms(*(machine.reported or WORKER_PLATFORMS[machine.machine])),
            latency_ms=1.0,
            max_builds=_max_builds(container.files.get(buildkitd.CONFIG_PATH, (b"", 0))[0]),
            active_builds=machine.builds,
            cache_bytes=sum(record.size for record in machine.cache.get(container.volume, ())),
            certificate=served,
            notes=dict(machine.notes.get(container.volume, {})),
        )

    def _behind(self, proxy: Container, host: HostSpec, timeout: float) -> ApiFacts | Down:
        """What the first node behind a gateway says that has the name which is asked for."""
        nodes = (replace(host, address=address, port=port) for address, port in proxy.gates[host.port])
        said = [self.probe(node, timeout=timeout) for node in nodes]
        ended = Down(Stage.TLS, f"{host.endpoint}: connection reset", "is it BuildKit?")
        return next((one for one in said if isinstance(one, ApiFacts)), ended)

    def reach(self, host: HostSpec, *, timeout: float) -> Reach:  # noqa: ARG002 - the port's signature
        machine = self.machines.get(host.address)
        if machine is None or not machine.network:
            return Reach.SILENT
        return Reach.OPEN if machine.listening(host.port) or machine.gateway(host.port) else Reach.REFUSED

    def cache(self, host: HostSpec) -> tuple[CacheRecord, ...]:
        return tuple(self._reach(host)[0].cache.get(self._reach(host)[1], ()))

    def prune(self, host: HostSpec, wanted: Pruning, freed: Callable[[int], None]) -> None:
        machine, volume = self._reach(host)
        kept = machine.cache.get(volume, [])
        for record in sorted(kept, key=lambda record: record.last_used or self._now() - timedelta(days=9999)):
            spared = record.shared or record.kind in {"internal", "frontend"}
            young = record.last_used and record.last_used > self._now() - wanted.older
            if record.in_use or (spared and not wanted.everything) or (wanted.older and young):
                continue
            if wanted.keep and sum(left.size for left in kept) < wanted.keep:
                break
            if machine.breaks_off:
                raise HostError(Stage.TCP, f"{host.endpoint} refused the connection", "docker ps")
            kept.remove(record)
            freed(record.size)

    def builds(self, host: HostSpec, *, refs: Sequence[str] | None = None) -> Iterator[BuildRecord]:
        machine, volume = self._reach(host)
        known = {record.ref: record for record in machine.built.get(volume, ())}
        yield from known.values() if refs is None else (known[ref] for ref in refs if ref in known)

    def feed(self, host: HostSpec, stop: Stop) -> Iterator[BuildRecord | None]:
        machine, volume = self._reach(host)
        yield None
        told = 0
        while not stop.is_set() and self._reach(host):
            history = machine.built.get(volume, [])
            if told < len(history):
                yield history[told]
                told += 1
            elif DRAIN in machine.notes.get(volume, {}):
                return
            else:
                time.sleep(0.001)

    def build(self, host: HostSpec, ref: str, stop: Stop) -> Iterator[BuildRecord | Step | Written]:
        machine = self._reach(host)[0]
        known = list(self.builds(host, refs=[ref]))
        if not known:
            raise HostError(Stage.API, f"{host.name} does not remember a build {ref}", "fleet builds")
        yield from known
        told = 0
        while not stop.is_set() and self._reach(host):
            steps = machine.steps.get(ref, [])
            if told < len(steps):
                yield steps[told]
                told += 1
            elif (ended := next(self.builds(host, refs=[ref]))).completed:
                yield from () if known[0].completed else (ended,)
                return
            else:
                time.sleep(0.001)

    def note(self, host: HostSpec, key: str, text: str | None) -> None:
        machine, volume = self._reach(host)
        kept = machine.notes.setdefault(volume, {})
        kept.pop(key, None)
        if text is not None:
            kept[key] = text

    def _reach(self, host: HostSpec) -> tuple[Machine, str]:
        """The machine and the state volume of a daemon that answers."""
        answer = self.probe(host, timeout=1)
        if isinstance(answer, Down):
            raise HostError(answer.stage, answer.reason, answer.remedy)
        machine = self.machines[host.address]
        container = machine.listening(host.port)
        assert container
        return machine, container.volume


# -------------------------------------------------------------------------------------------------- builder


@dataclass(slots=True)
class FakeRun:
    """A buildx that ends with this code, or never does by itself."""

    code: int = 0
    hangs: bool = False
    asked: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Node -> refs of its builds."""
    begins: Callable[[], object] = lambda: None
    """What happens to the world when it begins."""
    waits: Callable[[], object] = lambda: None
    """What it waits for before it ends."""
    interrupted: bool = False
    ended: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> int:
        self.waits()
        assert not self.hangs or self.ended.wait(30)
        return 1 if self.hangs else self.code

    def end(self) -> None:
        self.ended.set()

    def interrupt(self) -> None:
        self.interrupted = True
        self.end()

    def refs(self) -> Mapping[str, tuple[str, ...]]:
        return self.asked


@dataclass(slots=True)
class FakeBuilder:
    """buildx with its store, which `buildx.after` describes; the arguments are parsed as buildx would."""

    builders: dict[str, BuilderFacts] = field(default_factory=dict)
    ran: list[tuple[str, ...]] = field(default_factory=list)
    broken: str | None = None
    """What buildx says instead of doing anything."""
    unfit: str | None = None
    """Why this buildx is of no use."""
    forgets_pins: bool = False
    """Whether `create` reports success and stores nodes without their platforms."""
    exit_code: int = 0
    runs: list[FakeRun] = field(default_factory=list)
    """How the next `docker buildx` go, in turn; those after them end with `exit_code`."""
    under_way: list[FakeRun] = field(default_factory=list)

    def read(self, name: str) -> BuilderFacts:
        return self.builders.get(name, BuilderFacts())

    def check(self) -> None:
        if self.unfit:
            raise BuilderError(self.unfit, "upgrade it")

    def run(self, arguments: Sequence[str]) -> str:
        self.ran.append(tuple(arguments))
        if self.broken:
            raise BuilderError(f"docker buildx {arguments[0]} failed: {self.broken}", "docker buildx ls")
        name, step = _read_step(arguments)
        current = self.read(name)
        try:
            if isinstance(step, buildx.RemoveBuilder) and not current.registered:
                raise ValueError(f'no builder "{name}" found')
            nodes = buildx.after(current.nodes, [step])
        except ValueError as error:
            raise BuilderError(f"docker buildx {arguments[0]} failed: {error}", "docker buildx ls") from error
        if self.forgets_pins:
            nodes = tuple(replace(node, platforms=()) for node in nodes)
        if nodes:
            self.builders[name] = BuilderFacts(nodes, "remote")
        else:
            del self.builders[name]
        return ""

    @contextmanager
    def start(self, arguments: Sequence[str], *, label: str = "") -> Iterator[FakeRun]:  # noqa: ARG002 - the port's
        self.ran.append(tuple(arguments))
        run = self.runs.pop(0) if self.runs else FakeRun(self.exit_code)
        run.begins()
        self.under_way.append(run)
        yield run
        self.under_way.remove(run)

    def interrupt(self) -> None:
        for run in self.under_way:
            run.interrupt()


def _read_step(arguments: Sequence[str]) -> tuple[str, buildx.Step]:
    match tuple(arguments):
        case ("rm", name):
            return name, buildx.RemoveBuilder()
        case ("create", "--name", name, "--leave", "--node", node):
            return name, buildx.LeaveNode(node)
        case ("create", *words, endpoint):
            append = "--append" in words
            given = [word for word in words if word != "--append"]
            options = dict(zip(given[::2], given[1::2], strict=True))
            driver_options = next(csv.reader(io.StringIO(options["--driver-opt"])))
            appended = BuilderNode(
                options["--node"],
                endpoint,
                platforms(*filter(None, options.get("--platform", "").split(","))),
                dict(entry.split("=", 1) for entry in driver_options),
            )
            return options["--name"], buildx.AppendNode(appended) if append else buildx.CreateBuilder(appended)
        case other:
            raise AssertionError(f"the fake buildx does not know {other}")


# ---------------------------------------------------------------------------------------------------- vault


def connector(machines: Mapping[str, Machine]) -> Callable[[HostSpec], FakeHost]:
    """What opens a connection to one of these machines."""

    def connect(host: HostSpec) -> FakeHost:
        machine = machines.get(host.address)
        if machine is None or not machine.login:
            raise Unreachable(Stage.SSH, f"no answer from {host.address}:22 within 10 s", "is the host up?")
        return FakeHost(machine)

    return connect
