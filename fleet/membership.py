"""What a machine that has joined knows of a fleet: a bundle becomes a spec like the operator's, kept as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from fleet import notes
from fleet.errors import UsageError
from fleet.model.facts import ApiFacts
from fleet.model.platforms import ARCHITECTURES, Platform
from fleet.model.spec import NAME, BuildkitSpec, Connection, FleetSpec, GatewaySpec, HostSpec, Joined, node_names
from fleet.route import native_platforms

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from certs.bundle import Bundle, BundleNode
    from fleet.model.facts import BuilderFacts, Down


@dataclass(frozen=True, slots=True)
class Membership:
    """Access to a fleet, without the key: what a bundle said."""

    fleet: str
    joined: Joined
    hosts: tuple[HostSpec, ...]
    serial: str
    """Of the client's certificate, in hex."""
    issued: datetime
    """When the bundle was."""
    gateway: GatewaySpec | None = None

    @property
    def spec(self) -> FleetSpec:
        """The fleet in the operator's terms; no host of it can be logged in to."""
        return FleetSpec(self.fleet, BuildkitSpec(""), self.hosts, joined=self.joined, gateway=self.gateway)


def handed_out(
    spec: FleetSpec, answers: Mapping[str, ApiFacts | Down | None], builder: BuilderFacts
) -> tuple[BundleNode, ...]:
    """The nodes as a bundle tells of them; of a silent one, what the inventory or the builder knows."""
    from certs.bundle import BundleNode

    pinned = {node.name: node.platforms for node in builder.nodes}
    nodes = []
    for host in spec.hosts:
        api = answers.get(host.name)
        if isinstance(api, ApiFacts):
            platforms = native_platforms(host, api, None)
        else:
            platforms = host.platforms or pinned.get(host.name, ())
        arch = platforms[0].arch if platforms else None
        names = (host.address,) if host.tls else node_names(spec.name, host, arch)
        nodes.append(BundleNode(host.name, host.address, host.port, names, tuple(map(str, platforms))))
    return tuple(nodes)


def membership(bundle: Bundle) -> Membership:
    """What a bundle gives; raises UsageError for one that this fleet cannot use."""
    from certs.certificate import describe

    certificate = describe(bundle.credential.certificate)
    try:
        hosts = tuple(_host(node.name, node.address, node.port, node.platforms) for node in bundle.nodes)
    except ValueError as error:
        raise UsageError(f"the bundle has a node that this fleet does not know how to use: {error}") from error
    if not hosts:
        raise UsageError("the bundle names no nodes", "ask the fleet's operator for another one")
    joined = Joined(bundle.client, certificate.not_after)
    gateway = GatewaySpec(bundle.gateway.hosts, "", dict(bundle.gateway.ports)) if bundle.gateway else None
    return Membership(bundle.fleet, joined, hosts, certificate.serial, bundle.issued, gateway)


def refuse_bundle(
    new: Membership, trust: Collection[str], stored: Membership | None, trusted: Collection[str], *, force: bool
) -> None:
    """Raise UsageError for a bundle that must not take the place of what is stored here.

    `trust` and `trusted`: fingerprints of the CAs of the new one and of the stored one, empty: nothing is stored.
    `force`: an older one may.
    """
    if trusted and not set(trust) & set(trusted):
        raise UsageError(
            f"the bundle's CA is none of those of the {new.fleet} that this machine has joined: "
            "it is another fleet, or its CA was exchanged meanwhile",
            f"if you trust where the bundle is from: fleet leave {new.fleet}, and join again",
        )
    if stored and new.issued < stored.issued and not force:
        raise UsageError(
            f"the bundle is of {new.issued:%Y-%m-%d %H:%M}, and this machine has joined {new.fleet} with one of "
            f"{stored.issued:%Y-%m-%d %H:%M}",
            "if the older one is meant: fleet join --force",
        )


def able(spec: FleetSpec, answers: Mapping[str, ApiFacts | Down]) -> dict[str, tuple[Platform, ...]]:
    """What each node can build, as it says itself, the drained ones left out.

    A silent one is counted on for what nobody else can do: it may answer in a minute, and plain buildx will not ask.
    """
    native = {
        host.name: native_platforms(host, api, None)
        for host in spec.hosts
        if isinstance(api := answers.get(host.name), ApiFacts) and not notes.drain(api)
    }
    taken = {platform for platforms in native.values() for platform in platforms}
    for host in spec.hosts:
        left = tuple(platform for platform in host.platforms if platform not in taken)
        if left and not isinstance(answers.get(host.name), ApiFacts):
            native[host.name] = left
    return native


# ------------------------------------------------------------------------------------------------ as JSON


def dump(kept: Membership) -> str:
    """The text that `parse` reads; there is no secret in it."""
    content = {
        "fleet": kept.fleet,
        "client": kept.joined.client,
        "serial": kept.serial,
        "issued": kept.issued.isoformat(),
        "expires": kept.joined.expires.isoformat(),
        "nodes": [
            {
                "name": host.name,
                "address": host.address,
                "port": host.port,
                "platforms": [str(platform) for platform in host.platforms],
            }
            for host in kept.hosts
        ],
        "gateway": kept.gateway and {"hosts": kept.gateway.hosts, "ports": dict(kept.gateway.ports)},
    }
    return json.dumps(content, indent=1) + "\n"


def parse(text: str) -> Membership:
    """The membership that `dump` wrote; raises ValueError for anything else.

    By hand, because every build reads it, and pydantic's import takes longer than the nodes' answers.
    """
    try:
        tree = json.loads(text)
        return Membership(
            fleet=_name(tree["fleet"]),
            joined=Joined(_name(tree["client"]), _moment(tree["expires"])),
            hosts=tuple(
                _host(node["name"], node["address"], node["port"], node["platforms"]) for node in tree["nodes"]
            ),
            serial=_text(tree["serial"]),
            issued=_moment(tree["issued"]),
            # What was kept by an older fleet knows of none.
            gateway=_gateway(tree["gateway"], tree["nodes"]) if tree.get("gateway") else None,
        )
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("it is not a membership") from error


def _gateway(tree: Any, nodes: Sequence[Any]) -> GatewaySpec:
    names, ports = {node["name"] for node in nodes}, tree["ports"]
    if not ports or not set(ports) <= ARCHITECTURES or not all(map(_is_port, ports.values())):
        _refuse()
    if not tree["hosts"] or not set(tree["hosts"]) <= names:
        _refuse()
    return GatewaySpec(tuple(tree["hosts"]), "", ports)


def _is_port(value: Any) -> bool:
    return type(value) is int and 0 < value < 65536


def _host(name: str, address: str, port: int, platforms: Sequence[str]) -> HostSpec:
    if not _is_port(port):
        _refuse()
    return HostSpec(
        _name(name),
        _text(address),
        port,
        Connection.NONE,
        platforms=tuple(Platform.parse(platform) for platform in platforms),
    )


def _name(value: Any) -> str:
    return value if isinstance(value, str) and NAME.fullmatch(value) else _refuse()


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value else _refuse()


def _moment(value: Any) -> datetime:
    moment = datetime.fromisoformat(_text(value))
    return moment if moment.tzinfo else _refuse()


def _refuse() -> NoReturn:
    raise ValueError("it is not a membership")
