"""What is wanted: the fleet as the inventory describes it, and the names of what is made for it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from fleet.model.platforms import Platform


NAME = re.compile(r"[a-z][a-z0-9-]{0,38}[a-z0-9]|[a-z]")
"""Names of fleets and hosts: safe at once as a buildx node (stored lowercased, looked up case-sensitively),
a container, a DNS label and a file name."""

DEFAULT_PORT = 1234
"""The port that BuildKit's own documentation uses for a TCP daemon."""


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
