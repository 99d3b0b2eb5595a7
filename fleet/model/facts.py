"""What is found: on hosts, at daemons, at this machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from certs.lifetimes import CLOCK_TOLERANCE
from fleet.model.platforms import Platform, machine_arch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from certs.certificate import Certificate
    from fleet.model.vault import VaultFacts


class Stage(StrEnum):
    """Where on the way from the operator to a native build a node fails, in the order of the way."""

    SSH = "SSH"
    DOCKER = "Docker"
    IMAGE = "image"
    CONTAINER = "container"
    TCP = "TCP"
    TLS = "TLS"
    API = "API"
    NATIVE = "not native"
    DRAIN = "drained"
    GATEWAY = "gateway"
    BUILDER = "builder"


@dataclass(frozen=True, slots=True)
class Down:
    """Why nothing more can be said beyond `stage`, and what to try next."""

    stage: Stage
    reason: str
    remedy: str | None = None
    late: bool = False
    """It is alive and only did not answer in the time given: not a verdict."""
    silent: bool = False
    """It did not even refuse: who has a connection to it would wait without end."""


class Image(StrEnum):
    """Whether a host has an image, and where it has it from."""

    ABSENT = "absent"
    FOUND = "found"
    """It is somebody else's, and stays."""
    PULLED = "pulled"
    """It bears the mark of this fleet."""


@dataclass(frozen=True, slots=True)
class Offer:
    """An image for one architecture, as its registry has it; digests as `sha256:HEX`."""

    reference: str
    digest: str
    """Of its manifest: Docker's id of the image where containerd keeps images."""
    config: str
    """Of its configuration: Docker's id of the image elsewhere."""
    size: int
    """Bytes to be sent, layers being compressed."""


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """A certificate in use: serial (hex), the names it is good for, and when it expires (UTC)."""

    serial: str
    expires: datetime
    names: tuple[str, ...] = ()
    issued: datetime | None = None
    """The moment it was made, in whole seconds (UTC): its not-before lies CLOCK_TOLERANCE before that."""
    subject: str = ""
    """Its common name."""

    @classmethod
    def of(cls, certificate: Certificate) -> CertificateFacts:
        """The same of a certificate that was read; of one that fleet did not issue, `issued` is 5 minutes late."""
        issued = certificate.not_before + CLOCK_TOLERANCE
        return cls(certificate.serial, certificate.not_after, certificate.names, issued, certificate.subject)


@dataclass(frozen=True, slots=True)
class DaemonFacts:
    """A container on a host that carries this fleet's label, whatever its state."""

    id: str
    name: str
    node: str
    state: str
    """Docker's word: created, running, paused, restarting, removing, exited or dead."""
    settings: Mapping[str, str]
    """The settings it was made with, as its label remembers them."""
    certificate: CertificateFacts | None
    detail: str = ""
    """Docker's own line about its state, for a person."""
    enforced: Mapping[str, str] | None = None
    """What Docker does for it, in the words of `DaemonSpec.enforced`; None: it was not looked into."""
    changed: tuple[str, ...] = ()
    """Files that are not any more what fleet put there, as far as it was looked into."""


@dataclass(frozen=True, slots=True)
class ProxyFacts:
    """What a host has of the gateway."""

    containers: tuple[DaemonFacts, ...] = ()
    image: Image = Image.ABSENT
    """The one that the inventory wants for it."""
    foreign: tuple[str, ...] = ()
    """Containers that bear its name without our label: never touched."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What the host and its Docker Engine said; sizes in bytes, skew in seconds (positive: the host is ahead)."""

    machine: str
    engine: str
    clock_skew: float
    free_bytes: int | None
    emulated: tuple[str, ...]
    """Architectures for which the host's kernel has a foreign binfmt handler."""
    daemons: tuple[DaemonFacts, ...]
    image: Image
    """The image that the inventory wants."""
    disk_bytes: int | None = None
    """How large the disk is of which `free_bytes` are free: the one where Docker keeps its files."""
    volumes: tuple[str, ...] = ()
    """Volumes that carry this fleet's label."""
    foreign: tuple[str, ...] = ()
    """Containers and volumes that bear the node's names without our label: never touched."""
    history: bool = False
    """Whether it keeps notes of who changed what."""
    proxy: ProxyFacts = ProxyFacts()
    took: Mapping[Stage, float] = field(default_factory=dict, compare=False)
    """Milliseconds until the stage had answered: a command over SSH, Docker with what stands there; the first time also
    what it takes to open the way there."""

    @property
    def arch(self) -> str:
        """The platform architecture of the host's own `uname -m`."""
        return machine_arch(self.machine)


@dataclass(frozen=True, slots=True)
class ApiFacts:
    """What the daemon said over mTLS; latency in milliseconds from connecting to the first answer."""

    version: str
    worker: str
    platforms: tuple[Platform, ...]
    """As the worker reports them: the first is native, foreign ones come from binfmt handlers."""
    latency_ms: float
    arch: str | None = None
    """The architecture that `fleet up` found on the host and wrote into the daemon's labels."""
    emulated: tuple[str, ...] = ()
    """Of the same family, what the host's binfmt handlers caught then."""
    max_builds: int | None = None
    """How many builds it is to have at a time, by the inventory of then; None: any number."""
    active_builds: int | None = None
    cache_bytes: int | None = None
    certificate: CertificateFacts | None = None
    notes: Mapping[str, str] | None = None
    """What operators and clients have left there for each other: see `fleet.notes`; None: unknown."""
    took: Mapping[Stage, float] = field(default_factory=dict, compare=False)
    """Milliseconds for the stages before the API, when the connection was made; see `latency_ms`."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """Both ways to a node: over SSH and over mTLS. None: not asked, or no answer yet."""

    host: HostFacts | Down | None = None
    api: ApiFacts | Down | None = None


@dataclass(frozen=True, slots=True)
class BuilderNode:
    """One node as the buildx builder has it or is to have it."""

    name: str
    endpoint: str
    platforms: tuple[Platform, ...]
    options: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class BuilderFacts:
    """The builder of the fleet's name on the operator's machine; no nodes: there is none."""

    nodes: tuple[BuilderNode, ...] = ()
    driver: str = ""
    default: bool = False
    unusable: Down | None = None
    """Why this machine's buildx cannot be used."""

    @property
    def registered(self) -> bool:
        """Whether buildx knows a builder of that name."""
        return bool(self.driver)


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything observed in one go."""

    nodes: Mapping[str, NodeFacts]
    builder: BuilderFacts
    vault: VaultFacts
    offers: Mapping[tuple[str, str], Offer | Down] = field(default_factory=dict)
    """Image and architecture -> what this machine could send, or why it cannot; of hosts that lack it alone."""
    gates: Mapping[tuple[str, str], ApiFacts | Down] = field(default_factory=dict)
    """A gateway's host and architecture -> what answers behind it, some node, or why none does."""
    files: Mapping[str, str | Down] = field(default_factory=dict)
    """File of this machine that daemons are to have -> SHA-256 of its content in hex, or why it cannot be used."""
    common_skew: float | None = field(init=False)
    """See `common_skew`: once for all nodes, of which there may be a thousand."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "common_skew", common_skew(node.host for node in self.nodes.values()))


def common_skew(hosts: Iterable[HostFacts | Down | None]) -> float | None:
    """The median of the hosts' clock skews, in seconds; None: there are not three to tell who is wrong."""
    skews = sorted(host.clock_skew for host in hosts if isinstance(host, HostFacts))
    return skews[len(skews) // 2] if len(skews) >= 3 else None
