"""The ports in memory: machines, Engines, daemons, buildx and a vault that a test can set up, break and read.

They keep the same contracts as the real adapters (tests/contract), as far as fleet relies on them.
"""

from __future__ import annotations

import csv
import io
import itertools
import time
import tomllib
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from certs import authority
from certs.authority import Role, describe
from fleet import buildkitd, buildx
from fleet.errors import BuilderError, EngineError, HostError, Unreachable, VaultError
from fleet.model import (
    ApiFacts,
    BuilderFacts,
    BuilderNode,
    CertificateFacts,
    DaemonFacts,
    Down,
    Stage,
    VaultFacts,
)
from fleet.ports import Completed, Survey
from tests.support.values import WORKER_PLATFORMS, platforms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

    from certs.authority import Certificate, Credential
    from fleet.daemon import DaemonSpec, Files
    from fleet.model import HostSpec

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
    pulled: str | None = None
    image: str = ""
    port: int | None = None
    files: Files = field(default_factory=dict)


@dataclass(slots=True)
class Machine:
    """A computer with Docker, and all that can be wrong with it."""

    address: str
    machine: str = "x86_64"
    containers: list[Container] = field(default_factory=list)
    volumes: dict[str, str | None] = field(default_factory=dict)
    """Name -> fleet label, None for somebody else's."""
    images: set[str] = field(default_factory=set)
    emulated: tuple[str, ...] = ()
    reported: tuple[str, ...] = ()
    """What a daemon here reports instead of what such a machine runs."""
    login: bool = True
    """Whether sshd lets us in."""
    network: bool = True
    """Whether packets to its daemons arrive."""
    docker: bool = True
    docker_words: str = "ok"
    """What the host says of its Docker socket: ok, absent or denied."""
    pulls: bool = True
    """Whether its registry answers."""
    crashes: bool = False
    """Whether daemons end as soon as they start."""
    log: str = "toml: incomplete number\nfailed to parse config\nmain.main\n\tmain.go:137"
    ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    removed: list[tuple[str, int]] = field(default_factory=list)
    """Names of removed containers and the grace that they had."""

    def container(self, key: str) -> Container | None:
        """The container of that name or id."""
        return next((c for c in self.containers if key in {c.id, c.name}), None)

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

    def survey(self, fleet: str) -> Survey:
        self._reach()
        ours = [c for c in self.machine.containers if c.fleet == fleet]
        others = {c.name for c in self.machine.containers if c.fleet != fleet}
        volumes = self.machine.volumes
        return Survey(
            daemons=tuple(
                DaemonFacts(c.id, c.name, c.node, c.state, c.settings, c.certificate, f"is {c.state}", c.pulled)
                for c in ours
            ),
            volumes=tuple(sorted(name for name, label in volumes.items() if label == fleet)),
            foreign=frozenset(others | {name for name, label in volumes.items() if label != fleet}),
        )

    def has_image(self, reference: str) -> bool:
        self._reach()
        return reference in self.machine.images

    def pull(self, reference: str, progress: Callable[[str], None]) -> None:
        self._reach()
        if not self.machine.pulls or "nowhere" in reference:
            raise EngineError(Stage.IMAGE, f"Docker said: no {reference} here", "is the reference right?")
        progress("downloading layer")
        self.machine.images.add(reference)

    def create(self, wanted: DaemonSpec, certificate: Certificate, files: Files, *, pulled: str | None) -> str:
        self._reach()
        if wanted.image not in self.machine.images:
            raise EngineError(Stage.CONTAINER, f"Docker said: No such image: {wanted.image}")
        if self.machine.container(wanted.name):
            raise EngineError(Stage.CONTAINER, f"Docker said: the name {wanted.name} is in use")
        self.machine.volumes.setdefault(wanted.name, wanted.fleet)
        container = Container(
            id=f"{self.machine.address}-{next(self.machine.ids)}",
            name=wanted.name,
            fleet=wanted.fleet,
            node=wanted.node,
            settings=wanted.settings,
            certificate=CertificateFacts(certificate.serial, certificate.not_after, certificate.names),
            pulled=pulled,
            image=wanted.image,
            port=wanted.port,
            files=dict(files),
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
        found.state = "restarting" if self.machine.crashes or not _is_toml(found.files) else "running"

    def remove(self, container: str, *, grace: int) -> None:
        self._reach()
        if found := self.machine.container(container):
            self.machine.containers.remove(found)
            self.machine.removed.append((found.name, grace))

    def remove_volume(self, name: str) -> None:
        self._reach()
        if self.machine.container(name):
            raise EngineError(Stage.CONTAINER, f"Docker said: volume {name} is in use")
        self.machine.volumes.pop(name, None)

    def remove_image(self, reference: str) -> None:
        self._reach()
        if all(c.image != reference for c in self.machine.containers):
            self.machine.images.discard(reference)

    def logs(self, container: str, *, tail: int) -> str:
        self._reach()
        self._found(container)
        return "\n".join(self.machine.log.splitlines()[-tail:])

    def _found(self, key: str) -> Container:
        found = self.machine.container(key)
        if found is None:
            raise EngineError(Stage.CONTAINER, f"Docker said: No such container: {key}")
        return found

    def _reach(self) -> None:
        if not self.machine.docker:
            raise EngineError(Stage.DOCKER, "the Docker Engine does not answer", "is it running on the host?")


def _is_toml(files: Files) -> bool:
    content, _ = files.get(buildkitd.CONFIG_PATH, (b"", 0))
    try:
        tomllib.loads(content.decode())
    except ValueError:
        return False
    return True


class FakeHost:
    """A machine with an open connection; of all commands it knows `sh` with the question of observe, and a few more."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.open = True

    def run(self, argv: Sequence[str], *, timeout: float = 30.0) -> Completed:
        if not self.open:
            raise HostError(Stage.SSH, "the connection was lost", "run the command again")
        match tuple(argv):
            case ("sh", "-c", script) if "binfmt_misc" in script:
                return Completed(0, self._report(), "")
            case ("printf", r"%s\n", *words):
                return Completed(0, "".join(f"{word}\n" for word in words), "")
            case ("sh", "-c", "echo out; echo err >&2; exit 7"):
                return Completed(7, "out\n", "err\n")
            case ("cat",):
                return Completed(0, "", "")
            case ("sleep", seconds) if float(seconds) > timeout:
                raise HostError(Stage.SSH, f"sleep did not end within {timeout:.0f} s")
            case other:
                raise AssertionError(f"the fake host does not know {other}")

    def engine(self) -> FakeEngine:
        return FakeEngine(self.machine)

    def close(self) -> None:
        self.open = False

    def _report(self) -> str:
        lines = [
            f"machine {self.machine.machine}",
            f"clock {time.time():.0f}",
            "free 50000000",
            f"docker {self.machine.docker_words}",
            *(f"binfmt {BINFMT_MAGICS[arch]}" for arch in self.machine.emulated),
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

    def probe(self, host: HostSpec, *, timeout: float) -> ApiFacts | Down:
        machine = self.machines.get(host.address)
        if machine is None or not machine.network:
            return Down(Stage.TCP, f"no answer from {host.endpoint} within {timeout:g} s", "is the host up?")
        container = machine.listening(host.port)
        if container is None:
            return Down(Stage.TCP, f"{host.endpoint} refused the connection", f"fleet up --host {host.name}")
        if container.state == "paused":
            return Down(Stage.TLS, f"{host.endpoint} did not shake hands within {timeout:g} s", "is it frozen?")
        keys = self._keys.read()
        served, client = container.certificate, keys.client
        if served is None or container.settings.get("authority") != (keys.authority_fingerprint or "")[:16]:
            return Down(Stage.TLS, f"the certificate of {host.endpoint} is not accepted: unknown CA", "fleet up")
        if host.address not in served.names or served.expires <= self._now():
            return Down(Stage.TLS, f"the certificate of {host.endpoint} is not accepted", "fleet up")
        if client is None or client.expires <= self._now():
            return Down(Stage.TLS, f"{host.endpoint} refused this client's certificate", "fleet up")
        return ApiFacts(
            version=container.image.rpartition(":")[2],
            worker=f"worker of {container.name}",
            platforms=platforms(*(machine.reported or WORKER_PLATFORMS[machine.machine])),
            latency_ms=1.0,
            active_builds=0,
            cache_bytes=0,
            certificate=served,
        )


# -------------------------------------------------------------------------------------------------- builder


@dataclass(slots=True)
class FakeBuilder:
    """buildx with its store, which `buildx.after` describes; the arguments are parsed as buildx would."""

    builders: dict[str, BuilderFacts] = field(default_factory=dict)
    ran: list[tuple[str, ...]] = field(default_factory=list)
    broken: str | None = None
    """What buildx says instead of doing anything."""
    forgets_pins: bool = False
    """Whether `create` reports success and stores nodes without their platforms."""
    exit_code: int = 0

    def read(self, name: str) -> BuilderFacts:
        return self.builders.get(name, BuilderFacts())

    def check(self) -> None:
        pass

    def run(self, arguments: Sequence[str]) -> None:
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

    def call(self, arguments: Sequence[str]) -> int:
        self.ran.append(tuple(arguments))
        return self.exit_code


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


class FakeVault:
    """Real certificates, kept in memory."""

    def __init__(self) -> None:
        self.authority: Credential | None = None
        self.client: Credential | None = None
        self.held = False

    @property
    def client_files(self) -> Mapping[str, str]:
        return {"cacert": "/vault/ca.pem", "cert": "/vault/client.pem", "key": "/vault/client.pem"}

    def has_client(self) -> bool:
        return self.client is not None

    def read(self) -> VaultFacts:
        if self.authority is None:
            if self.client is not None:
                raise VaultError("there is a client certificate, but no CA", "restore it from a backup")
            return VaultFacts(None, None, None, self.client_files)
        ca = describe(self.authority.certificate)
        return VaultFacts(
            authority=CertificateFacts(ca.serial, ca.not_after),
            authority_fingerprint=ca.fingerprint,
            client=None if self.client is None else _certificate_facts(self.client),
            driver_options=self.client_files,
        )

    def create_authority(self, name: str, now: datetime) -> None:
        if self.authority is not None:
            raise VaultError("there is a CA already", "run fleet plan again")
        self.authority = authority.create_authority(f"{name} CA", now=now)

    def issue_client(self, name: str, now: datetime) -> None:
        self.client = authority.issue_client(self._signer(), name, now=now)

    def issue_node(self, name: str, names: Sequence[str], now: datetime) -> tuple[Credential, bytes]:
        signer = self._signer()
        return authority.issue_node(signer, name, names=names, now=now), signer.certificate

    @contextmanager
    def locked(self) -> Iterator[None]:
        if self.held:
            raise VaultError("another fleet is changing this fleet", "wait for it to end")
        self.held = True
        try:
            yield
        finally:
            self.held = False

    def _signer(self) -> Credential:
        if self.authority is None:
            raise VaultError("the CA is missing", "only the operator who has it can issue certificates")
        return self.authority


def _certificate_facts(credential: Credential) -> CertificateFacts:
    described = describe(credential.certificate)
    assert described.role is not Role.AUTHORITY
    return CertificateFacts(described.serial, described.not_after, described.names)


def connector(machines: Mapping[str, Machine]) -> Callable[[HostSpec], FakeHost]:
    """What opens a connection to one of these machines."""

    def connect(host: HostSpec) -> FakeHost:
        machine = machines.get(host.address)
        if machine is None or not machine.login:
            raise Unreachable(Stage.SSH, f"no answer from {host.address}:22 within 10 s", "is the host up?")
        return FakeHost(machine)

    return connect
