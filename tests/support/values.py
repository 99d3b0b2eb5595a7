"""Plain values to begin a test with: a time, hosts, facts; each takes what the test is about."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from fleet.check.ground import EngineInfo
from fleet.model.facts import (
    ApiFacts,
    BuilderFacts,
    BuilderNode,
    CertificateFacts,
    DaemonFacts,
    Facts,
    HostFacts,
    Image,
    NodeFacts,
)
from fleet.model.platforms import Platform
from fleet.model.spec import BuildkitSpec, Delivery, FleetSpec, HostSpec
from fleet.model.vault import VaultFacts
from fleet.planning.lane import daemon_spec

if TYPE_CHECKING:
    from collections.abc import Mapping

NOW = datetime(2030, 5, 1, 12, 0, tzinfo=UTC)
IMAGE = "moby/buildkit:v0.32.2"
CA = "aa" * 32
OTHER_CA = "bb" * 32
OPTIONS = {"cacert": "/vault/ca.pem", "cert": "/vault/client.pem", "key": "/vault/client.pem"}

WORKER_PLATFORMS = {
    "x86_64": ("linux/amd64", "linux/amd64/v2", "linux/amd64/v3", "linux/386"),
    "aarch64": ("linux/arm64", "linux/arm/v7", "linux/arm/v6"),
    "riscv64": ("linux/riscv64",),
}
"""What BuildKit's worker reports on a host of that `uname -m`, without any binfmt handler."""


INFO = EngineInfo(
    id="E:1",
    os="linux",
    root="/var/lib/docker",
    driver="overlay2",
    cgroups="2",
    unlimited=(),
    cpus=8,
    memory=16_000_000_000,
    security=frozenset({"seccomp", "cgroupns"}),
    mtu=1500,
    proxied=False,
    published={},
)
"""A Docker Engine with nothing to be said against it."""


@cache
def platforms(*texts: str) -> tuple[Platform, ...]:
    return tuple(map(Platform.parse, texts))


def certificate(days: int = 365, *names: str, serial: str = "c0ffee", subject: str = "") -> CertificateFacts:
    return CertificateFacts(serial, NOW + timedelta(days=days), names, subject=subject)


def host(
    name: str, *wanted: str, address: str = "", port: int = 1234, delivery: Delivery = Delivery.REGISTRY
) -> HostSpec:
    return HostSpec(name, address or f"{name}.example", port, platforms=platforms(*wanted), delivery=delivery)


def fleet(
    *hosts: HostSpec, name: str = "acme", image: str = IMAGE, config: Mapping[str, Any] | None = None
) -> FleetSpec:
    return FleetSpec(name, BuildkitSpec(image, config or {}), hosts or (host("amd-1"), host("arm-1")))


def vault(authority: str | None = CA, client: CertificateFacts | None = certificate()) -> VaultFacts:  # noqa: B008 - frozen
    known = certificate(3650) if authority else None
    return VaultFacts(
        known,
        authority,
        client if authority else None,
        OPTIONS,
        trust=(authority,) if authority else (),
        client_authority=authority if client else None,
    )


def daemon(spec: FleetSpec, node: str, machine: str = "x86_64", **changed: Any) -> DaemonFacts:
    """The container that the spec wants of the node, running; `changed` replaces single facts of it."""
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
    wanted = daemon_spec(spec, spec.host(node), arch, vault())
    facts = DaemonFacts(
        id=f"id-{node}",
        name=wanted.name,
        node=node,
        state="running",
        settings=wanted.settings,
        certificate=certificate(),
        detail="Up 2 hours",
    )
    return replace(facts, **changed)


def found(machine: str = "x86_64", *daemons: DaemonFacts, **changed: Any) -> HostFacts:
    """A host with Docker and BuildKit's image."""
    facts = HostFacts(
        machine=machine,
        engine="26.1.5",
        clock_skew=0.0,
        free_bytes=50_000_000_000,
        disk_bytes=100_000_000_000,
        emulated=(),
        daemons=daemons,
        image=Image.FOUND,
    )
    return replace(facts, **changed)


def api(machine: str = "x86_64", *reported: str, **changed: Any) -> ApiFacts:
    """A daemon that answers; `reported` replaces the platforms of such a machine."""
    facts = ApiFacts(
        version="v0.32.2",
        worker="worker-1",
        platforms=platforms(*(reported or WORKER_PLATFORMS[machine])),
        latency_ms=4.2,
        active_builds=0,
        cache_bytes=1000,
        certificate=certificate(),
    )
    return replace(facts, **changed)


def node(name: str, *pinned: str, endpoint: str = "", options: Mapping[str, str] | None = None) -> BuilderNode:
    return BuilderNode(
        name, endpoint or f"tcp://{name}.example:1234", platforms(*pinned), OPTIONS if options is None else options
    )


def builder(*nodes: BuilderNode, driver: str = "remote") -> BuilderFacts:
    return BuilderFacts(nodes, driver)


def running(spec: FleetSpec, name: str, machine: str = "x86_64") -> NodeFacts:
    """A node as it is wanted."""
    return NodeFacts(found(machine, daemon(spec, name, machine)), api(machine))


def facts(
    nodes: Mapping[str, NodeFacts], *, registered: BuilderFacts | None = None, keys: VaultFacts | None = None
) -> Facts:
    return Facts(nodes, registered or BuilderFacts(), keys or vault())
