"""What the core needs of the world: four Protocols, each with a real adapter and, for tests, a fake."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime

    from certs.authority import Certificate, Credential
    from fleet.daemon import DaemonSpec, Files
    from fleet.model import (
        ApiFacts,
        BuilderFacts,
        DaemonFacts,
        Down,
        HostSpec,
        VaultFacts,
    )


@dataclass(frozen=True, slots=True)
class Completed:
    """A finished command: exit status and what it printed."""

    status: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class Survey:
    """What stands on a Docker Engine, told apart by this fleet's label."""

    daemons: tuple[DaemonFacts, ...]
    volumes: tuple[str, ...]
    foreign: frozenset[str]
    """Names of containers and volumes without the label."""
    root: str | None = None
    """Where Docker keeps everything on the host, as far as a volume shows it."""


class Host(Protocol):
    """A machine with one open connection. Every method raises HostError when the connection is lost."""

    def run(self, argv: Sequence[str], *, timeout: float = 30.0) -> Completed:
        """Run a command to its end, quoting done here; `timeout` in seconds."""
        ...

    def engine(self) -> Engine:
        """Docker on this host, over the same connection."""
        ...

    def close(self) -> None:
        """End the connection and all that rides on it."""
        ...


class Engine(Protocol):
    """The Docker Engine of one host, in fleet's words. Every method raises EngineError."""

    def version(self) -> str:
        """The Engine's own version, such as 26.1.5."""
        ...

    def survey(self, fleet: str) -> Survey:
        """The containers and volumes there are: this fleet's, and the names of all others."""
        ...

    def has_image(self, reference: str) -> bool:
        """Whether the image is there without pulling."""
        ...

    def pull(self, reference: str, progress: Callable[[str], None]) -> None:
        """Pull the image; `progress` gets short texts for a person."""
        ...

    def create(self, wanted: DaemonSpec, certificate: Certificate, files: Files, *, pulled: str | None) -> str:
        """Make the state volume and the container (not started) and put the files (content, mode) in; its id."""
        ...

    def start(self, container: str) -> None:
        """Start a container."""
        ...

    def remove(self, container: str, *, grace: int) -> None:
        """Stop it, waiting `grace` seconds before it is killed, and remove it; absent is fine."""
        ...

    def remove_volume(self, name: str) -> None:
        """Remove a volume; absent is fine."""
        ...

    def remove_image(self, reference: str) -> None:
        """Remove an image; absent or still in use is fine."""
        ...

    def logs(self, container: str, *, tail: int) -> str:
        """The last lines that the container wrote."""
        ...


class Prober(Protocol):
    """Asks a daemon over mutual TLS, from this machine."""

    def prepare(self) -> None:
        """Load what probing needs, so that the first probe's clock measures the daemon."""
        ...

    def probe(self, host: HostSpec, *, timeout: float) -> ApiFacts | Down:
        """What the daemon answers within `timeout` seconds, or the stage at which it does not."""
        ...


class Builder(Protocol):
    """docker buildx on this machine. Every method raises BuilderError."""

    def read(self, name: str) -> BuilderFacts:
        """The builder as buildx has stored it."""
        ...

    def check(self) -> None:
        """Refuse a missing or unfit buildx."""
        ...

    def run(self, arguments: Sequence[str]) -> None:
        """Run `docker buildx …` quietly to its end."""
        ...

    def call(self, arguments: Sequence[str]) -> int:
        """Run `docker buildx …` on the user's terminal; its exit code."""
        ...


class Vault(Protocol):
    """The operator's keys and certificates. Every method raises VaultError."""

    @property
    def client_files(self) -> Mapping[str, str]:
        """`cacert`, `cert` and `key` as absolute paths: buildx's driver options."""
        ...

    def has_client(self) -> bool:
        """Whether there is something to speak mutual TLS with."""
        ...

    def read(self) -> VaultFacts:
        """What there is; torn, mismatched or exposed files are an error, an absent vault is not."""
        ...

    def create_authority(self, name: str, now: datetime) -> None:
        """Make the fleet's CA; refuses to replace one."""
        ...

    def issue_client(self, name: str, now: datetime) -> None:
        """Make or renew the operator's client certificate."""
        ...

    def issue_node(self, name: str, names: Sequence[str], now: datetime) -> tuple[Credential, bytes]:
        """A node's certificate and key, not kept, and the CA certificate that it is to trust."""
        ...

    def locked(self) -> AbstractContextManager[None]:
        """Hold the vault against a second fleet on this machine."""
        ...


@dataclass(frozen=True, slots=True)
class World:
    """Everything outside, as the composition root hands it to the core."""

    connect: Callable[[HostSpec], Host]
    """Opens a connection to a host; raises Unreachable."""
    prober: Prober
    builder: Builder
    vault: Vault
    now: Callable[[], datetime]
