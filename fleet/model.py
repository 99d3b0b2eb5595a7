"""The nouns: what is wanted (spec), what is found (facts), how it is (snapshot)."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from certs.lifetimes import CLOCK_TOLERANCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime, timedelta

    from certs.certificate import Certificate

NAME = re.compile(r"[a-z][a-z0-9-]{0,38}[a-z0-9]|[a-z]")
"""Names of fleets and hosts: safe at once as a buildx node (stored lowercased, looked up case-sensitively),
a container, a DNS label and a file name."""

DEFAULT_PORT = 1234
"""The port that BuildKit's own documentation uses for a TCP daemon."""


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


# ---------------------------------------------------------------------------------------------- platforms

_MACHINES: Mapping[str, str] = MappingProxyType(
    {
        "x86_64": "amd64",
        "amd64": "amd64",
        "aarch64": "arm64",
        "arm64": "arm64",
        "armv7l": "arm",
        "armv6l": "arm",
        "i686": "386",
        "i386": "386",
        "riscv64": "riscv64",
        "ppc64le": "ppc64le",
        "s390x": "s390x",
        "loongarch64": "loong64",
    }
)

_NATIVE_FAMILIES: Mapping[str, frozenset[str]] = MappingProxyType(
    {"amd64": frozenset({"amd64", "386"}), "arm64": frozenset({"arm64", "arm"})}
)

_DEFAULT_VARIANTS: Mapping[str, str] = MappingProxyType({"amd64": "v1", "arm64": "v8", "arm": "v7"})

_VARIANTS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "amd64": frozenset({"v1", "v2", "v3", "v4"}),
        "arm64": frozenset({"v8", "v9"}),
        "arm": frozenset({"v5", "v6", "v7", "v8"}),
    }
)

ARCHITECTURES = frozenset(_MACHINES.values())


@dataclass(frozen=True, slots=True, order=True)
class Platform:
    """A build platform in the form buildx compares by: arm64 is arm64/v8, amd64 is amd64/v1, arm is arm/v7.

    The default variant is kept as the empty string for amd64 and arm64 and spelled out for arm, as
    containerd's platforms package normalises it.
    """

    os: str
    arch: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Parse `linux/arm64`, `linux/arm/v7`, `arm64` …; raises ValueError for what no daemon can build."""
        parts = text.strip().lower().split("/")
        if len(parts) == 1:
            parts = ["linux", *parts]
        if len(parts) > 3 or not all(parts):
            raise ValueError(f"{text!r} is not a platform such as linux/amd64 or linux/arm/v7")
        os, arch, variant = (*parts, "")[:3]
        arch = _MACHINES.get(arch, arch)
        if os != "linux":
            raise ValueError(f"{text!r}: buildkitd nodes build for linux only")
        if arch not in ARCHITECTURES:
            raise ValueError(f"{text!r}: unknown architecture {arch!r}")
        if variant and variant not in _VARIANTS.get(arch, frozenset()):
            raise ValueError(f"{text!r}: {arch} has no variant {variant!r}")
        return cls(os, arch, variant).normalised()

    def normalised(self) -> Platform:
        """The same platform in the one spelling that compares equal."""
        if self.arch == "arm":
            return Platform(self.os, self.arch, self.variant or "v7")
        if self.variant == _DEFAULT_VARIANTS.get(self.arch):
            return Platform(self.os, self.arch)
        return self

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.arch, self.variant) if part)


def machine_arch(machine: str) -> str:
    """The platform architecture of what `uname -m` printed; unknown machines are returned as they are."""
    return _MACHINES.get(machine, machine)


def runs_natively(arch: str, platform: Platform) -> bool:
    """Whether a CPU of `arch` may run `platform` itself: same family (386 on amd64, arm on arm64)."""
    return platform.arch in _NATIVE_FAMILIES.get(arch, frozenset({arch}))


# --------------------------------------------------------------------------------------------------- spec


class Connection(StrEnum):
    """How this machine reaches a host's Docker Engine."""

    SSH = "ssh"
    LOCAL = "local"
    NONE = "none"
    """Not at all: on a machine that has joined, a node is known over mutual TLS alone."""


class Delivery(StrEnum):
    """How a host gets BuildKit's image."""

    REGISTRY = "registry"
    """Its own Docker pulls it."""
    STREAM = "stream"
    """This machine fetches it, and sends it over the connection to the host."""


@dataclass(frozen=True, slots=True)
class SshSpec:
    """How to log in; what is None is left to ~/.ssh/config and then to OpenSSH's defaults."""

    user: str | None = None
    port: int | None = None
    identity_file: str | None = None
    known_hosts_file: str | None = None
    sudo: bool = False


KeyType = Literal["p256", "p384", "rsa3072"]
"""The kinds of keys that fleet makes."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """The absolute paths of a certificate and its key (PEM), which may be one file; no key: nothing can be signed."""

    cert: str
    key: str | None


@dataclass(frozen=True, slots=True)
class TlsSpec:
    """Where certificates come from, and how the ones are that fleet issues."""

    ca: KeyPair | None = None
    """An existing CA; None: fleet makes its own."""
    ca_passphrase_command: tuple[str, ...] = ()
    """argv of a program that prints the passphrase of the CA's key; empty: there is none."""
    client: KeyPair | None = None
    """The operator's, issued by somebody else; None: fleet issues one."""
    key_type: KeyType = "p256"
    node_days: int = 365
    client_days: int = 365
    renew_days: int = 30
    """What has this many days left, or fewer, is warned of and renewed; fewer than any certificate lasts."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a daemon and its builds may use of their host together; None: all of it."""

    cpus: int | None = None
    memory: int | None = None
    """Bytes."""


@dataclass(frozen=True, slots=True)
class HostSpec:
    """One machine as the inventory wants it."""

    name: str
    address: str
    port: int = DEFAULT_PORT
    connection: Connection = Connection.SSH
    ssh: SshSpec = SshSpec()
    platforms: tuple[Platform, ...] = ()
    """What the node may build; empty: everything that it runs natively."""
    tls: KeyPair | None = None
    """The node's, issued by somebody else; None: fleet issues one."""
    limits: Limits = Limits()
    max_builds: int | None = None
    """How many builds it is to have at a time; None: any number."""
    emulation: bool = False
    """Whether it may emulate a platform that no node runs natively."""
    config: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Its own buildkitd.toml as a tree, to be laid over the fleet's."""
    delivery: Delivery = Delivery.REGISTRY
    servername: str | None = None
    """What its certificate is to be good for; None: its address."""

    @property
    def endpoint(self) -> str:
        """`HOST:PORT` of the daemon, an IPv6 address in brackets."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class BuildkitSpec:
    """The daemon that every node runs: image reference and buildkitd.toml as a tree."""

    image: str
    config: Mapping[str, Any] = field(default_factory=dict)


class Balance(StrEnum):
    """How a gateway chooses a node for a build; the values are HAProxy's."""

    LEASTCONN = "leastconn"
    """The one with the fewest builds."""
    SOURCE = "source"
    """By the address of the client: its builds find the cache of those before them."""


@dataclass(frozen=True, slots=True)
class GatewaySpec:
    """A TCP proxy before all nodes of an architecture, for those who type `docker buildx build`."""

    hosts: tuple[str, ...]
    """Where it runs; builds go through the first that leads to a node."""
    image: str
    ports: Mapping[str, int]
    """Architecture -> its port on each of these hosts."""
    balance: Balance = Balance.LEASTCONN


@dataclass(frozen=True, slots=True)
class Joined:
    """In whose name a machine has joined a fleet, and when the certificate of that bundle ends (UTC)."""

    client: str
    expires: datetime


@dataclass(frozen=True, slots=True)
class FleetSpec:
    """A whole inventory, defaults resolved, hosts in the order of the file; or what a bundle says of a fleet."""

    name: str
    buildkit: BuildkitSpec
    hosts: tuple[HostSpec, ...]
    tls: TlsSpec = TlsSpec()
    joined: Joined | None = None
    """None: this machine is the operator's."""
    gateway: GatewaySpec | None = None

    def host(self, name: str) -> HostSpec:
        """The host of that name; raises KeyError."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise KeyError(name)


GATEWAY = "gateway"
"""In place of a node in the name of the gateway's container; no host of a fleet that has one is called so."""


def object_name(fleet: str, node: str) -> str:
    """The name of what fleet makes on a host; names have no dots, so no two fleets can collide."""
    return f"fleet.{fleet}.{node}"


def node_names(fleet: str, host: HostSpec, arch: str | None) -> tuple[str, ...]:
    """What the certificate is good for that fleet issues to a node of `arch`; None: that is not known.

    Its address, its name, and the one name that all nodes of its architecture share, so that a TCP proxy can stand
    before them.
    """
    return (host.address, host.name, *((shared_name(fleet, arch),) if arch else ()))


def shared_name(fleet: str, arch: str) -> str:
    """The name by which any node of that architecture is known, whichever it is."""
    return f"{arch}.{fleet}.fleet.internal"


def pull_mark(fleet: str, reference: str) -> str:
    """The tag by which a host's Docker knows that this fleet pulled the image of that reference.

    One for each reference: while a node goes from one image to another, the host has both.
    """
    return f"fleet.{fleet}:pulled-{hashlib.sha256(reference.encode()).hexdigest()[:12]}"


# -------------------------------------------------------------------------------------------------- facts


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
class Asked:
    """How long access was to last when it was asked for; a certificate may end earlier, with its CA."""

    lifetime: timedelta
    until: datetime


@dataclass(frozen=True, slots=True)
class ClientFacts:
    """A certificate that was handed out to a person or a CI job, as the vault remembers it."""

    name: str
    certificate: CertificateFacts
    authority: str
    """Fingerprint of the CA that issued it."""
    asked: Asked
    revoked: bool = False


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


class Rotation(StrEnum):
    """Where the exchange of the CA stands."""

    SETTLED = "settled"
    """There is one CA."""
    OVERLAP = "overlap"
    """Another is coming: nodes keep a certificate of the one, and learn to trust both."""
    SWITCHED = "switched"
    """The other has taken its place: nodes get a certificate of it, and trust it alone."""


@dataclass(frozen=True, slots=True)
class VaultFacts:
    """The operator's keys and certificates: what there is, and where the client's files are.

    Fingerprints are SHA-256 in hex, and name CAs.
    """

    authority: CertificateFacts | None
    """The CA that issues; None: none was made, or the inventory's was not yet taken up."""
    authority_fingerprint: str | None
    client: CertificateFacts | None
    driver_options: Mapping[str, str]
    """`cacert`, `cert` and `key` as absolute paths, for buildx."""
    trust: tuple[str, ...] = ()
    """Fingerprints of the CAs that nodes are to trust."""
    client_authority: str | None = None
    """Fingerprint of the CA that issued the client's certificate."""
    rotation: Rotation = Rotation.SETTLED
    coming: CertificateFacts | None = None
    """The CA that is to take over; there during the overlap."""
    coming_fingerprint: str | None = None
    leaving_fingerprint: str | None = None
    """Of the CA that was taken over from; there from the switch to the end."""
    nodes_since: datetime | None = None
    """Certificates of nodes that were issued before this are to be renewed; whole seconds, UTC."""
    can_sign: bool = True
    """Whether there is a key to issue with, or will be; not where tls.ca has none."""
    sealed: bool = False
    """Whether that key needs a passphrase."""
    external: bool = False
    """Whether the CA is somebody else's, which the inventory names (tls.ca)."""
    brought: Mapping[str, CertificateFacts | Down] = field(default_factory=dict)
    """Node -> the certificate that the inventory brings for it (hosts.NAME.tls), or why it cannot be used."""

    @property
    def taught(self) -> bool:
        """Whether every node lets in clients of the coming CA: then the operator's certificate is of it."""
        return self.coming_fingerprint is not None and self.client_authority == self.coming_fingerprint

    def at(self, now: datetime) -> VaultFacts:
        """The same without a `nodes_since` that is still to come: no certificate could be new enough for it."""
        return replace(self, nodes_since=None) if self.nodes_since and self.nodes_since > now else self


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


# ----------------------------------------------------------------------------------------------- snapshot


class Health(StrEnum):
    """How a node is, for routing and for people."""

    READY = "ready"
    DEGRADED = "degraded"
    DOWN = "down"
    DRAINED = "drained"
    UNKNOWN = "unknown"

    @property
    def usable(self) -> bool:
        """Whether it builds, or will when its operator lets it: nothing has to be mended first."""
        return self in {Health.READY, Health.DEGRADED, Health.DRAINED}


@dataclass(frozen=True, slots=True)
class NodeHealth:
    """One row of a status; None: unknown, never zero."""

    name: str
    address: str
    arch: str | None
    platforms: tuple[Platform, ...]
    owns: tuple[Platform, ...]
    health: Health
    reason: str | None
    remedy: str | None
    buildkit: str | None
    active_builds: int | None
    certificate: CertificateFacts | None
    cache_bytes: int | None
    free_bytes: int | None
    latency_ms: float | None
    max_builds: int | None = None
    """How many builds it is to have at a time; None: any number, or unknown."""
    disk_bytes: int | None = None
    emulated: tuple[Platform, ...] = ()
    """What its host's binfmt handlers run; it builds none of that unless emulation is allowed."""


@dataclass(frozen=True, slots=True)
class GateHealth:
    """A gateway's way to the nodes of an architecture, as a status shows it."""

    host: str
    arch: str
    endpoint: str
    owns: tuple[Platform, ...]
    """What this machine's builder sends through it."""
    health: Health
    reason: str | None = None
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Drift:
    """What `fleet up` would do on a host, and why; nothing at all: it is as it is wanted."""

    actions: tuple[str, ...] = ()
    why: tuple[str, ...] = ()
    blocked: Down | None = None
    """Why nothing can be done there."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What was last seen of a node that is watched, and when (UTC); None: never yet."""

    facts: NodeFacts
    heard: datetime | None = None
    """When its daemon last answered, or was last found not to."""
    looked: datetime | None = None
    """The same of its host."""
    drift: Drift | None = None
    """None: unknown."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The fleet's health at one moment."""

    fleet: str
    taken: datetime
    builder: BuilderFacts
    nodes: tuple[NodeHealth, ...]
    joined: Joined | None = None
    """None: it was taken on the operator's machine."""
    problems: tuple[Down, ...] = ()
    """What concerns no single node: this machine's certificate, the CA."""
    gates: tuple[GateHealth, ...] = ()
    sightings: Mapping[str, Sighting] = field(default_factory=dict)
    """By node; only of a fleet that is watched, as is what follows."""
    vault: VaultFacts | None = None
    clients: tuple[ClientFacts, ...] = ()
