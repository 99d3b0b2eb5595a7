"""What the core needs of the world: a few Protocols, each with a real adapter and, for tests, a fake."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime, timedelta

    from certs.certificate import Certificate, Credential
    from certs.keys import Passphrase
    from fleet.builds import BuildRecord, Step, Written
    from fleet.cache import CacheRecord, Pruning
    from fleet.check.ground import EngineInfo, Reach
    from fleet.containers.daemon import DaemonSpec, Files
    from fleet.containers.images import Archive
    from fleet.containers.proxy import ProxySpec
    from fleet.logs import Line
    from fleet.model.facts import ApiFacts, BuilderFacts, DaemonFacts, Down, Image, Offer
    from fleet.model.platforms import Platform
    from fleet.model.spec import HostSpec
    from fleet.model.vault import ClientFacts, VaultFacts
    from fleet.parallel import Stop


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
    proxies: tuple[DaemonFacts, ...] = ()
    """This fleet's containers that are its gateway's."""
    root: str | None = None
    """Where Docker keeps everything on the host, as far as a volume shows it."""


class Host(Protocol):
    """A machine with one open connection. Every method raises HostError when the connection is lost."""

    def run(self, argv: Sequence[str], *, timeout: float = 30.0) -> Completed:
        """Run a command to its end, quoting done here; `timeout` in seconds."""
        ...

    def hold(self, name: str, holder: str) -> str | None:
        """Take the host's lock of that name until the connection ends; None: it is ours, else who has it."""
        ...

    def engine(self) -> Engine:
        """Docker on this host, over the same connection."""
        ...

    def close(self) -> None:
        """End the connection and all that rides on it."""
        ...


class Engine(Protocol):
    """The Docker Engine of one host, in fleet's words.

    Every method raises EngineError, and HostError when the connection to the host is lost.
    """

    def version(self) -> str:
        """The Engine's own version, such as 26.1.5."""
        ...

    def survey(self, fleet: str, closely: Mapping[str, str] = MappingProxyType({})) -> Survey:
        """The containers and volumes there are: this fleet's, and the names of all others.

        `closely`: containers to be looked into, and the directory of each that has its files.
        """
        ...

    def image(self, reference: str, mark: str) -> Image:
        """Whether the image is there without pulling, and whether it bears the mark."""
        ...

    def info(self) -> EngineInfo:
        """What it says of itself and its host, and who has which port there."""
        ...

    def distribution(self, reference: str) -> frozenset[Platform]:
        """Without pulling, for which platforms the image's registry has it; empty: the registry does not say."""
        ...

    def pull(self, reference: str, mark: str, progress: Callable[[str], None]) -> None:
        """Pull the image and give it the mark, a tag; `progress` gets short texts for a person."""
        ...

    def load(self, archive: Archive, offer: Offer, mark: str, progress: Callable[[int], None]) -> None:
        """Take in an archive that bears the mark alone, refuse it unless it is what was offered, and name it so.

        `progress` gets the number of bytes sent so far.
        """
        ...

    def create(self, wanted: DaemonSpec, certificate: Certificate, files: Files) -> str:
        """Make the state volume and the container (not started) and put the files (content, mode) in; its id."""
        ...

    def create_proxy(self, wanted: ProxySpec, files: Files) -> str:
        """Make the gateway's container (not started) and put the files (content, mode) in; its id.

        It has the host's network, so that one may listen beside its successor.
        """
        ...

    def start(self, container: str) -> None:
        """Start a container."""
        ...

    def stop(self, container: str, *, grace: int) -> None:
        """Stop a container, which has `grace` seconds for it before it is killed."""
        ...

    def kill_unless(self, container: str, busy: Callable[[int], bool]) -> bool:
        """Freeze a container and kill it, unless it is `busy`: then it goes on. Whether it has ended.

        `busy` gets the number that its first process has on the host.
        """
        ...

    def rename(self, container: str, name: str) -> None:
        """Give a container another name; it may have it already."""
        ...

    def remove(self, container: str, *, grace: int) -> None:
        """Stop it, waiting `grace` seconds before it is killed, and remove it; absent is fine."""
        ...

    def remove_volume(self, name: str) -> None:
        """Remove a volume; absent is fine."""
        ...

    def remove_image(self, reference: str, mark: str) -> None:
        """Remove the mark, and the image if it bore it; absent, found, still in use or tagged by others is fine."""
        ...

    def run(self, image: str, arguments: Sequence[str], *, timeout: int) -> str:
        """Run an image that is there to its end, privileged and without a network, and leave nothing; what it said."""
        ...

    def logs(self, container: str, *, tail: int) -> str:
        """The last lines that the container wrote."""
        ...

    def log_stream(
        self, container: str, *, since: datetime | None = None, tail: int | None = None, follow: bool = False
    ) -> Iterator[Line]:
        """The container's log from `since` on, of that the last `tail` lines; `follow`: until it stops or is removed.

        Asks before it returns; what is lost later raises while it is read.
        """
        ...


class Prober(Protocol):
    """Speaks with a daemon over mutual TLS, from this machine."""

    def prepare(self) -> None:
        """Load what probing needs, so that the first probe's clock measures the daemon."""
        ...

    def close(self) -> None:
        """End what is kept between probes; it may be used again."""
        ...

    def probe(self, host: HostSpec, *, timeout: float) -> ApiFacts | Down:
        """What the daemon answers within `timeout` seconds, or the stage at which it does not."""
        ...

    def reach(self, host: HostSpec, *, timeout: float) -> Reach:
        """How a bare TCP connection to the daemon's port ends, within `timeout` seconds; no certificate is needed."""
        ...

    def note(self, host: HostSpec, key: str, text: str | None) -> None:
        """Leave a note for all who ask this daemon, in place of that key's; None: take it away. Raises HostError."""
        ...

    def cache(self, host: HostSpec) -> tuple[CacheRecord, ...]:
        """What the daemon has cached. Raises HostError."""
        ...

    def builds(self, host: HostSpec, *, refs: Sequence[str] | None = None) -> Iterator[BuildRecord]:
        """What runs there now and what ran, of all clients, as far back as the daemon remembers; in no order.

        `refs`: of these alone. Raises HostError while it is read.
        """
        ...

    def feed(self, host: HostSpec, stop: Stop) -> Iterator[BuildRecord | None]:
        """The same, and then each build as it begins and as it ends, until `stop`, a drain, or the daemon's end.

        None: it has answered, and tells all from the beginning. Steps of what runs are not told. A drained node has no
        feed: whoever replaces its daemon waits until nobody is connected. Raises HostError while it is read.
        """
        ...

    def build(self, host: HostSpec, ref: str, stop: Stop) -> Iterator[BuildRecord | Step | Written]:
        """One build: its record, its steps as they change, lines that they write; to its end or until `stop`.

        The record of one that ran comes once more when it has ended. Raises HostError while it is read, also when the
        daemon does not remember the build.
        """
        ...

    def prune(self, host: HostSpec, wanted: Pruning, freed: Callable[[int], None]) -> None:
        """Remove cache that no build uses; `freed` gets the bytes of each record that is gone. Raises HostError."""
        ...


class Registry(Protocol):
    """Image registries, as this machine reaches them. Every method raises HostError."""

    def offer(self, reference: str, arch: str) -> Offer:
        """What there is of that image for linux on an architecture."""
        ...

    def archive(self, offer: Offer, tag: str) -> Archive:
        """Fetch what was offered, unless it has been before, as an archive for Docker, under one tag."""
        ...

    def name(self, names: Sequence[str], sources: Sequence[str]) -> str:
        """Let these names mean an image of all platforms that the sources have, each in one step; its digest."""
        ...


class Run(Protocol):
    """One `docker buildx …` under way."""

    @property
    def interrupted(self) -> bool:
        """Whether the user wanted it to end."""
        ...

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        ...

    def end(self) -> None:
        """Have it end soon, as an interrupt would; from any thread, and more than once."""
        ...

    def interrupt(self) -> None:
        """The same, because the user wants it."""
        ...

    def refs(self) -> Mapping[str, tuple[str, ...]]:
        """Node -> what BuildKit's history knows the builds by that were asked of it."""
        ...


class Builder(Protocol):
    """docker buildx on this machine. Every method raises BuilderError."""

    def read(self, name: str) -> BuilderFacts:
        """The builder as buildx has stored it."""
        ...

    def check(self) -> None:
        """Refuse a missing or unfit buildx."""
        ...

    def run(self, arguments: Sequence[str]) -> str:
        """Run `docker buildx …` quietly to its end; what it printed."""
        ...

    def start(self, arguments: Sequence[str], *, label: str = "") -> AbstractContextManager[Run]:
        """Begin `docker buildx …` on the user's terminal; at the end of the context nothing of it is left.

        `label`: what stands before each line that it writes to standard error.
        """
        ...

    def interrupt(self) -> None:
        """End all runs, as the user would, and those that begin later; waits until they have ended."""
        ...


class Vault(Protocol):
    """The operator's keys and certificates. Every method raises VaultError.

    The CA is exchanged by overlap: `begin_rotation`, then `switch_authority`, then `end_rotation`. Each may be
    repeated, and carries on where it was interrupted.
    """

    @property
    def client_files(self) -> Mapping[str, str]:
        """`cacert`, `cert` and `key` as absolute paths: buildx's driver options."""
        ...

    def has_client(self) -> bool:
        """Whether there is something to speak mutual TLS with."""
        ...

    def read(self) -> VaultFacts:
        """What there is, no passphrase needed; torn, mismatched or exposed files are an error, no vault is not."""
        ...

    def unlock(self) -> None:
        """Ask for the passphrase now if the CA's key is sealed, rather than at the first signature."""
        ...

    def create_authority(self, name: str, now: datetime) -> None:
        """Make the fleet's CA, or take up the one that the inventory names; refuses to replace one."""
        ...

    def issue_client(self, name: str, now: datetime, *, coming: bool = False) -> None:
        """Make or renew the operator's client certificate; `coming`: by the CA that is to take over."""
        ...

    def issue_node(self, host: HostSpec, names: Sequence[str], now: datetime) -> tuple[Credential, bytes]:
        """A node's certificate and key, not kept, and the CA certificates that it is to trust (PEM).

        A host that brings its own certificate gets that one, if it is good for the host's address.
        """
        ...

    def issue_bundle_credential(
        self,
        name: str,
        now: datetime,
        *,
        lifetime: timedelta,
        until: datetime | None = None,
        coming: bool = False,
    ) -> tuple[Credential, bytes]:
        """Another client's certificate and key, not kept, and the CA certificates that it is to trust (PEM).

        It ends at `until`, if that is given; `lifetime` is remembered for when it is prolonged.
        The certificate is remembered before it is handed out. `name` is one of those that hosts may have.
        """
        ...

    def clients(self) -> tuple[ClientFacts, ...]:
        """What `issue_bundle_credential` made and has not been forgotten, by name, the oldest first."""
        ...

    def revoke(self, name: str, now: datetime) -> None:
        """Remember that what is still valid of NAME's is not to be used; exchanging the CA is what enforces it."""
        ...

    def renew_nodes(self, since: datetime) -> None:
        """Remember that every node is to have a certificate that was issued at `since` or later."""
        ...

    def begin_rotation(self, name: str, now: datetime) -> None:
        """Make the CA that is to take over; from then on both are to be trusted."""
        ...

    def switch_authority(self) -> None:
        """Let the coming CA issue from now on; the key of the other is gone with that."""
        ...

    def end_rotation(self) -> None:
        """Trust the CA that was taken over from no more, and forget the clients that it issued."""
        ...

    def seal(self, passphrase: Passphrase | None) -> bool:
        """Seal the CA's key with another passphrase, or store it in the clear; whether that was to be done at all."""
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
    registry: Registry
    vault: Vault
    now: Callable[[], datetime]
    read_file: Callable[[str], bytes]
    """The content of a file of this machine; raises OSError."""
    operator: str = "somebody"
    """Who is at work, for others to read: USER@MACHINE."""
    version: Callable[[], str] = str
    """Of fleet; asking takes a moment."""
