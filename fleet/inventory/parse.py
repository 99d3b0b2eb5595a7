"""The inventory: YAML text in, a FleetSpec out, or every problem at once with its path and line."""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationError

from fleet.errors import InventoryError, Problem, UsageError
from fleet.inventory import gateway_keys, strict, tls_keys, yamltree
from fleet.inventory.buildkitd_keys import DEFAULT_IMAGE, REFUSED, DaemonConfig, checked_image
from fleet.inventory.strict import File, Files, Strict, Text, shown
from fleet.inventory.tls_keys import Credential, Tls, key_pair
from fleet.model.platforms import Platform
from fleet.model.spec import (
    DEFAULT_PORT,
    NAME,
    BuildkitSpec,
    Connection,
    Delivery,
    FleetSpec,
    HostSpec,
    Limits,
    SshSpec,
)
from fleet.quantities import parse_size, size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydantic import ValidationInfo

    from fleet.inventory.yamltree import Tree

LOCAL_ADDRESS = "127.0.0.1"
"""Where a local host's daemon listens unless the inventory says otherwise."""

LEAST_MEMORY = 64_000_000
"""Bytes: with less Linux would end the daemon before its first build."""


def load(path: Path) -> FleetSpec:
    """Read and parse the inventory at `path`; raises UsageError for the file, InventoryError for its text."""
    remedy = "copy inventory.example.yaml and edit it, or name another file with -i or FLEET_INVENTORY"
    try:
        with path.open("rb") as file:
            content = file.read(yamltree.MAX_BYTES + 1)
    except FileNotFoundError:
        raise UsageError(f"there is no inventory {path}", remedy) from None
    except IsADirectoryError:
        raise UsageError(f"the inventory {path} is a directory", remedy) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot read the inventory {path}: {reason}", remedy) from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(content) <= yamltree.MAX_BYTES:
            line = content.count(b"\n", 0, error.start) + 1
            raise InventoryError(str(path), [Problem(line, "", "the file is not UTF-8 text")]) from error
        text = content.decode(errors="replace")
    return parse(text, str(path))


def parse(
    text: str, source: str = "inventory.yaml", *, check_files: Callable[[Path], bool] = Path.is_file
) -> FleetSpec:
    """Parse an inventory; relative files are taken from the folder of `source`; raises InventoryError."""
    tree = yamltree.read(text, source)
    problems = [*tree.problems, *_repeated(tree), *tls_keys.problems(tree), *gateway_keys.problems(tree)]
    try:
        inventory = _Inventory.model_validate(tree.value, context=Files(Path(source).parent, check_files))
    except ValidationError as error:
        problems += strict.problems(error, tree, json_schema(), _refused(tree))
    if problems:
        raise InventoryError(source, yamltree.in_order(problems))
    return _spec(inventory)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the inventory, for editors; `parse` checks more than it can say."""
    from fleet.inventory.schema import StrictJsonSchema

    schema = _Inventory.model_json_schema(schema_generator=StrictJsonSchema)
    return {"$schema": StrictJsonSchema.schema_dialect, **schema}


# -------------------------------------------------------------------------------------- single values


_NAME_PATTERN = f"^({NAME.pattern})$"
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}$)({_LABEL}\.)*(?![0-9]+$){_LABEL}")


def _name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError(
            f"{shown(value)} is not a name: a lower-case letter, then lower-case letters, digits and -, "
            "not ending in -, at most 40 characters"
        )
    return value


def _address(value: str | None, given: ValidationInfo) -> str | None:
    if value is None:
        if given.data.get("connection", "local") == "local":
            return LOCAL_ADDRESS
        raise ValueError("required, but missing (only `connection: local` needs none)")
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        if _HOST_NAME.fullmatch(value):
            return value
        raise ValueError(f"{shown(value)} is no IP address or host name{_address_hint(value)}") from None
    if address.is_unspecified or address.is_multicast or "%" in value:
        raise ValueError(f"{value} is not the address of one machine that others can reach")
    return str(address)


def _address_hint(value: str) -> str:
    if "://" in value or "@" in value:
        return ": give the bare name; the user goes to ssh.user"
    if value.startswith("["):
        return ": write IPv6 without brackets"
    return ": ports go to `port` (BuildKit) and `ssh.port`" if value.count(":") == 1 else ""


def _user(value: str) -> str:
    if value.startswith("-") or " " in value:
        raise ValueError(f"{shown(value)} is not a user name")
    return value


def _platform(value: str) -> str:
    Platform.parse(value)
    return value


def _memory(value: str) -> str:
    if parse_size(value) < LEAST_MEMORY:
        raise ValueError(f"{value} is less than BuildKit itself needs: give it {size(LEAST_MEMORY)} or more")
    return value


# -------------------------------------------------------------------------------------------- the file


_Port = Annotated[int, Field(ge=1, le=65535)]
_Name = Annotated[str, AfterValidator(_name)]
_PlatformName = Annotated[str, AfterValidator(_platform)]
_Platforms = Annotated[tuple[_PlatformName, ...], Field(min_length=1)]
_Count = Annotated[int, Field(ge=1, le=10_000)]
_Memory = Annotated[str, AfterValidator(_memory)]


class _Ssh(Strict):
    user: Annotated[Text, AfterValidator(_user)] | None = Field(default=None, description="Login name.")
    port: _Port | None = Field(default=None, description="TCP port of the SSH server.")
    identity_file: File | None = Field(default=None, description="Private key; relative to the inventory's folder.")
    known_hosts_file: File | None = Field(default=None, description="Trusted host keys; relative likewise.")
    sudo: bool | None = Field(default=None, description="Reach Docker through sudo, without a password (false).")


class _HostBuildkit(Strict):
    delivery: Literal["registry", "stream"] | None = Field(
        default=None, description="How a host gets the image: pulled there, or sent from here over SSH (registry)."
    )
    config: DaemonConfig | None = Field(default=None, description="buildkitd.toml as YAML, its own key names.")

    @property
    def tree(self) -> dict[str, Any]:
        """What is set of it."""
        return self.config.model_dump(by_alias=True, exclude_unset=True) if self.config else {}


class _Buildkit(_HostBuildkit):
    image: Annotated[str, AfterValidator(checked_image)] = Field(
        default=DEFAULT_IMAGE, description="Image of the daemon, with a tag or a digest."
    )


class _Limits(Strict):
    cpus: _Count | None = Field(default=None, description="How many of the host's CPUs (all).")
    memory: _Memory | None = Field(default=None, description="How much of its memory, such as 8GB or 8GiB (all).")


def _by_ssh_only(value: _Ssh, given: ValidationInfo) -> _Ssh:
    if given.data.get("connection") == "local":
        raise ValueError("a local host is not reached by SSH: remove this key or `connection: local`")
    return value


_Emulation = Literal["refuse", "allow"]


class _Host(Strict):
    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"connection": {"const": "local"}}, "required": ["connection"]},
            "then": {"not": {"required": ["ssh"]}},
            "else": {"required": ["address"]},
        }
    )

    connection: Literal["ssh", "local"] = Field(
        default="ssh", description="How its Docker Engine is reached; local: the Engine of this machine."
    )
    address: Annotated[Text | None, AfterValidator(_address)] = Field(
        default=None,
        validate_default=True,
        description="IP address or name; a local host's default is 127.0.0.1.",
    )
    port: _Port = Field(default=DEFAULT_PORT, description="TCP port of BuildKit on the host.")
    ssh: Annotated[_Ssh, AfterValidator(_by_ssh_only)] | None = Field(
        default=None, description="Overrides single keys of the fleet's ssh."
    )
    platforms: _Platforms | None = Field(
        default=None,
        description="What it may build, such as linux/arm64; all that it runs natively if left out.",
    )
    tls: Credential | None = Field(
        default=None, description="The node's certificate, issued by somebody else; needs tls.ca of the fleet."
    )
    limits: _Limits | None = Field(default=None, description="Overrides single keys of the fleet's limits.")
    max_builds: _Count | None = Field(default=None, description="Overrides the fleet's.")
    emulation: _Emulation | None = Field(default=None, description="Overrides the fleet's.")
    buildkit: _HostBuildkit | None = Field(default=None, description="Laid over the fleet's, key by key.")


class _Inventory(Strict):
    """The machines of a fleet of container builders, and what runs on them."""

    fleet: _Name = Field(
        description="Names the builder and everything made on the hosts.",
        json_schema_extra={"pattern": _NAME_PATTERN},
    )
    buildkit: _Buildkit = Field(default_factory=_Buildkit, description="The daemon that every host runs.")
    ssh: _Ssh = Field(
        default_factory=_Ssh, description="How to log in, for all hosts; the rest is left to ~/.ssh/config."
    )
    tls: Tls = Field(default_factory=Tls, description="Where certificates come from, and how long they last.")
    limits: _Limits = Field(default_factory=_Limits, description="What a daemon and its builds may use, for all hosts.")
    max_builds: _Count | None = Field(default=None, description="How many builds a node has at a time (no limit).")
    emulation: _Emulation = Field(
        default="refuse",
        description="Whether a host's binfmt handlers may emulate a platform that no node runs natively.",
    )
    gateway: gateway_keys.Gateway | None = Field(
        default=None, description="A proxy that spreads what plain docker buildx builds; none if left out."
    )
    hosts: dict[_Name, _Host] = Field(
        min_length=1,
        description="The machines by name.",
        json_schema_extra={"propertyNames": {"pattern": _NAME_PATTERN}},
    )


def _refused(tree: Tree) -> dict[yamltree.Path, str]:
    """Keys that could stand there and must not, and why."""
    hosts = tree.value.get("hosts")
    places = [(), *(("hosts", name) for name in hosts)] if isinstance(hosts, dict) else [()]
    configured = {(*at, "buildkit", "config", *key): why for at in places for key, why in REFUSED.items()}
    return configured | {("tls", *key): why for key, why in tls_keys.REFUSED.items()}


def _repeated(tree: Tree) -> Iterator[Problem]:
    """Endpoints and platforms that are there twice; skips what is malformed in other ways."""
    hosts = tree.value.get("hosts")
    named = hosts.items() if isinstance(hosts, dict) else ()
    first: dict[tuple[str, object], str] = {}
    for name, host in ((name, host) for name, host in named if isinstance(host, dict)):
        address = host.get("address", LOCAL_ADDRESS if host.get("connection") == "local" else None)
        port = host.get("port", DEFAULT_PORT)
        if isinstance(address, str) and isinstance(port, int):
            other = first.setdefault((_canonical(address), port), name)
            if other != name:
                yield tree.problem(("hosts", name), f"has the same address and port as {other}")
        platforms = host.get("platforms")
        yield from _repeated_platforms(tree, name, platforms if isinstance(platforms, tuple) else ())


def _repeated_platforms(tree: Tree, host: str, values: tuple[object, ...]) -> Iterator[Problem]:
    first: dict[Platform, int] = {}
    for index, value in enumerate(values):
        with suppress(ValueError):
            other = first.setdefault(Platform.parse(str(value)), index)
            if other != index:
                message = f"{value} is the same platform as {values[other]} before it"
                yield tree.problem(("hosts", host, "platforms", index), message)


def _canonical(address: str) -> str:
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address.lower()


def _spec(inventory: _Inventory) -> FleetSpec:
    return FleetSpec(
        name=inventory.fleet,
        buildkit=BuildkitSpec(inventory.buildkit.image, inventory.buildkit.tree),
        hosts=tuple(_host_spec(name, host, inventory) for name, host in inventory.hosts.items()),
        tls=inventory.tls.spec(),
        gateway=inventory.gateway.spec() if inventory.gateway else None,
    )


def _host_spec(name: str, host: _Host, fleet: _Inventory) -> HostSpec:
    login, limits = _resolved(fleet.ssh, host.ssh), _resolved(fleet.limits, host.limits)
    return HostSpec(
        name=name,
        address=host.address or LOCAL_ADDRESS,
        port=host.port,
        connection=Connection(host.connection),
        ssh=SshSpec() if host.connection == "local" else SshSpec(**login),
        platforms=tuple(Platform.parse(platform) for platform in host.platforms or ()),
        tls=key_pair(host.tls),
        limits=Limits(limits.get("cpus"), parse_size(limits["memory"]) if "memory" in limits else None),
        max_builds=host.max_builds or fleet.max_builds,
        emulation=(host.emulation or fleet.emulation) == "allow",
        config=host.buildkit.tree if host.buildkit else {},
        delivery=Delivery((host.buildkit and host.buildkit.delivery) or fleet.buildkit.delivery or "registry"),
    )


def _resolved(fleet: Strict, host: Strict | None) -> dict[str, Any]:
    """What is set for a host, its own keys before the fleet's."""
    return {key: value for part in (fleet, host) if part for key, value in part.model_dump(exclude_unset=True).items()}
