"""The gateway's container: HAProxy before the nodes of each architecture; what it is made of, and its files.

It passes bytes on: TLS goes from the client to the node, and no key that opens a node is here. Every node stands in the
list of every architecture, and the check sorts them: a node is up where its certificate bears the architecture's name.
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fleet.containers.daemon import RESTART, fingerprint, short, trust_setting
from fleet.model.platforms import runs_natively
from fleet.model.spec import GATEWAY, Connection, HostSpec, object_name, shared_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from fleet.containers.daemon import Files
    from fleet.model.facts import BuilderNode
    from fleet.model.spec import FleetSpec, GatewaySpec
    from fleet.model.vault import VaultFacts

RECIPE = "2"
"""Raised when fleet itself makes gateways differently, so that an upgrade of fleet replaces them."""

DIRECTORY = "/etc/fleet"
"""What is in it may be read back, to see whether it is still what fleet put there."""
CONFIG_PATH = f"{DIRECTORY}/haproxy.cfg"
CA_PATH = f"{DIRECTORY}/ca.pem"
COMMAND = ("haproxy", "-db", "-f", CONFIG_PATH)
STOP_SIGNAL = "SIGUSR1"
"""HAProxy listens no more, and ends when its last connection does."""


@dataclass(frozen=True, slots=True)
class ProxySpec:
    """The gateway's container on a host; all of it is in `settings`, so drift is one comparison."""

    fleet: str
    image: str
    config: str
    """The text of haproxy.cfg."""
    authority: str
    """Fingerprint of the CA that issues."""
    trust: tuple[str, ...]
    """Fingerprints of the CAs that a node's certificate may be of."""

    @property
    def name(self) -> str:
        """The container's name."""
        return object_name(self.fleet, GATEWAY)

    @property
    def settings(self) -> dict[str, str]:
        """The wanted settings as a label keeps them: long texts as their hash."""
        return {
            "recipe": RECIPE,
            "image": self.image,
            "config": hashlib.sha256(self.config.encode()).hexdigest()[:16],
            "authority": short(self.authority),
            "trust": trust_setting(self.trust),
        }

    @property
    def enforced(self) -> dict[str, str]:
        """What Docker is to do for it: see `DaemonSpec.enforced`."""
        return {"image": self.image, "limits": "", "restart": RESTART, "privileged": "no", "network": "host"}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the settings, in hex."""
        return fingerprint(self.settings)

    def files(self, trust: bytes) -> Files:
        """Configuration and CAs; HAProxy's images run as a user of their own, who has to read both."""
        return {CONFIG_PATH: (self.config.encode(), 0o644), CA_PATH: (trust, 0o644)}


def proxy_spec(
    spec: FleetSpec, gateway: GatewaySpec, host: HostSpec, vault: VaultFacts, drained: Collection[str] = ()
) -> ProxySpec:
    """The gateway that `host` is to have while these nodes are `drained`."""
    known = (vault.authority_fingerprint, vault.coming_fingerprint, vault.leaving_fingerprint)
    return ProxySpec(
        fleet=spec.name,
        image=gateway.image,
        config=render(spec, gateway, host, drained),
        authority=vault.authority_fingerprint or "",
        trust=tuple(sorted(fingerprint for fingerprint in known if fingerprint)),
    )


def gates(spec: FleetSpec) -> dict[tuple[str, str], HostSpec]:
    """A gateway's host and architecture -> the nodes behind it as one node, in the order in which they are tried."""
    if not spec.gateway:
        return {}
    return {
        (name, arch): HostSpec(
            f"{name}.{GATEWAY}.{arch}",
            spec.host(name).address,
            port,
            Connection.NONE,
            servername=shared_name(spec.name, arch),
        )
        for arch, port in spec.gateway.ports.items()
        for name in spec.gateway.hosts
    }


def builder_name(arch: str) -> str:
    """The name of its node in the builder; names of hosts have no dot."""
    return f"{GATEWAY}.{arch}"


def gateway_arch(node: BuilderNode) -> str | None:
    """The architecture of a node of the builder that is a gateway; None: it is none."""
    prefix = builder_name("")
    return node.name.removeprefix(prefix) if node.name.startswith(prefix) else None


def endpoint(gate: HostSpec) -> str:
    """Of its node in the builder."""
    return f"tcp://{gate.endpoint}"


# A RUN step may be silent for hours, and nothing is sent meanwhile: only the other end's death ends a connection.
# A node that is frozen does not shake hands, and buildx would wait for it without end: its connections are cut.
# One that builds on all its CPUs is slow at it: three times in a row, two seconds each.
_COMMON = """\
# Written by fleet from the inventory: edits are lost.
global
    maxconn 4096

defaults
    mode tcp
    balance {balance}
    option redispatch 1
    retries 3
    timeout connect 2s
    timeout check 2s
    timeout client 24h
    timeout server 24h
    option clitcpka
    clitcpka-idle 30s
    clitcpka-intvl 10s
    clitcpka-cnt 3
    option srvtcpka
    srvtcpka-idle 30s
    srvtcpka-intvl 10s
    srvtcpka-cnt 3
    default-server check inter 2s fastinter 1s downinter 1s fall 3 rise 1 on-marked-down shutdown-sessions
    default-server check-ssl ssl-min-ver TLSv1.3 verify required ca-file {ca}
    default-server init-addr libc,none
"""

_ARCHITECTURE = """
listen {arch}
    bind {bind}
    default-server check-sni {name} verifyhost {name}
"""


def render(spec: FleetSpec, gateway: GatewaySpec, host: HostSpec, drained: Collection[str] = ()) -> str:
    """The text of haproxy.cfg on `host`; it follows from the inventory and from who is drained, not from who is up."""
    text = _COMMON.format(balance=gateway.balance, ca=CA_PATH)
    bind = _bind(host)
    for arch, port in sorted(gateway.ports.items()):
        name = shared_name(spec.name, arch)
        text += _ARCHITECTURE.format(arch=arch, bind=bind.format(port), name=name)
        for node in _nodes(spec, host, arch):
            out = " disabled" if node.name in drained else ""
            text += f"    server {node.name} {_address(node)}:{node.port}{out}\n"
    return text


def _bind(host: HostSpec) -> str:
    """Where it listens, but for the port: a local host's is for this machine alone, as its daemon's is."""
    if host.connection is Connection.LOCAL:
        return f"{_address(host)}:{{}}"
    # A kernel without IPv6 would refuse both.
    ipv4 = host.address.replace(".", "").isdigit()
    return ":{}" if ipv4 else ":::{} v4v6"


def _nodes(spec: FleetSpec, host: HostSpec, arch: str) -> Iterator[HostSpec]:
    """Those that may be of `arch` and can be reached from `host`."""
    for node in spec.hosts:
        own = node.name == host.name or not _loopback(node.address)
        if own and (not node.platforms or any(runs_natively(arch, platform) for platform in node.platforms)):
            yield node


def _address(host: HostSpec) -> str:
    return f"[{host.address}]" if ":" in host.address else host.address


def _loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
