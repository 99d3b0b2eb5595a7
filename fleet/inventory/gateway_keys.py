"""What an inventory may say about the gateway, and what does not go together."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from fleet.inventory.buildkitd_keys import checked_image
from fleet.inventory.strict import Strict, Text, shown
from fleet.model.platforms import ARCHITECTURES
from fleet.model.spec import DEFAULT_PORT, GATEWAY, Balance, GatewaySpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fleet.errors import Problem
    from fleet.inventory.yamltree import Tree

DEFAULT_IMAGE = "haproxy:3.2-alpine"
"""Of the line that gets corrections until 2030; HAProxy 3.0 and newer know all that is asked of them."""

DEFAULT_PORTS: Mapping[str, int] = MappingProxyType({"amd64": 1250, "arm64": 1251})

UNPRIVILEGED = 1024
"""The first port that a container without capabilities may have."""


def _architecture(value: str) -> str:
    if value not in ARCHITECTURES:
        raise ValueError(f"{shown(value)} is no architecture; one of: {', '.join(sorted(ARCHITECTURES))}")
    return value


_Port = Annotated[int, Field(ge=UNPRIVILEGED, le=65535)]
_Architecture = Annotated[str, AfterValidator(_architecture)]


class Gateway(Strict):
    """A TCP proxy before the nodes of each architecture, for `docker buildx build`."""

    hosts: Annotated[tuple[Text, ...], Field(min_length=1)] = Field(
        description="On which hosts it runs; the builder goes through the first that works."
    )
    image: Annotated[str, AfterValidator(checked_image)] = Field(
        default=DEFAULT_IMAGE, description="Image with HAProxy 3.0 or newer, with a tag or a digest."
    )
    ports: Annotated[dict[_Architecture, _Port], Field(min_length=1)] = Field(
        default=dict(DEFAULT_PORTS), description="Its TCP port for each architecture."
    )
    balance: Literal["leastconn", "source"] = Field(
        default="leastconn",
        description="The node with the fewest builds, or always the same one for the address of a client.",
    )

    def spec(self) -> GatewaySpec:
        """The same, as the rest of fleet knows it."""
        return GatewaySpec(self.hosts, self.image, self.ports, Balance(self.balance))


def problems(tree: Tree) -> Iterator[Problem]:
    """Hosts that there are not, and ports that are taken; skips what is malformed in other ways."""
    gateway, hosts = tree.value.get("gateway"), tree.value.get("hosts")
    if not (isinstance(gateway, dict) and isinstance(hosts, dict)):
        return
    if GATEWAY in hosts:
        yield tree.problem(("hosts", GATEWAY), "is the name of the gateway's own container: call the host otherwise")
    first: dict[str, int] = {}
    for index, name in enumerate(_of(gateway, "hosts", tuple)):
        here = ("gateway", "hosts", index)
        if isinstance(name, str) and name not in hosts:
            yield tree.problem(here, f"there is no host {shown(name)}; one of: {', '.join(map(str, hosts))}")
        elif first.setdefault(name, index) != index:
            yield tree.problem(here, f"{name} is named before it")
    ports = _of(gateway, "ports", dict) or DEFAULT_PORTS
    taken: dict[Any, str] = {
        host.get("port", DEFAULT_PORT): f"BuildKit has on {name}"
        for name in first
        if isinstance(host := hosts.get(name), dict)
    }
    for arch, port in ports.items():
        place = ("gateway", "ports", arch) if "ports" in gateway else ("gateway",)
        if port in taken:
            yield tree.problem(place, f"{port} is the port that {taken[port]}")
        taken.setdefault(port, f"{arch} has")


def _of(tree: Mapping[str, Any], key: str, kind: type) -> Any:
    found = tree.get(key)
    return found if isinstance(found, kind) else kind()
