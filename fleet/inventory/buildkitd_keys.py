"""What may be set in the daemon's configuration, buildkitd.toml of BuildKit v0.32.

buildkitd ignores unknown keys silently, so every key is checked here. Key names, types and accepted spellings
are those of moby/buildkit v0.32.2, cmd/buildkitd/config and util/resolver/config.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping  # noqa: TC003 - pydantic reads the annotations
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema

from fleet.inventory.strict import File, Strict, Text, shown

DEFAULT_IMAGE = "moby/buildkit:v0.32.2"
_FLEETS_OWN = "is set by fleet"
_OTHER_FILES = "needs programs or sockets that a node's container does not have"

REFUSED: Mapping[tuple[str, ...], str] = MappingProxyType(
    {
        ("root",): f"{_FLEETS_OWN}: the state is the node's volume",
        ("grpc",): f"{_FLEETS_OWN}: hosts.NAME.port is the port, certificates come from the vault",
        ("otel",): "is a socket inside the container that nothing outside can reach",
        ("cache",): f"{_OTHER_FILES}: the GitHub Actions cache signs with an external command",
        ("worker", "containerd"): "is switched off: nodes run the OCI worker, under worker.oci",
        ("worker", "oci", "enabled"): f"{_FLEETS_OWN}: the OCI worker is always on",
        ("worker", "oci", "platforms"): "would only change what the daemon claims: use hosts.NAME.platforms",
        ("worker", "oci", "rootless"): "is not supported: nodes run as root in a privileged container",
        ("worker", "oci", "noProcessSandbox"): "works in rootless mode only, which is not supported",
        ("worker", "oci", "userRemapUnsupported"): "is unfinished in BuildKit and not supported",
        ("worker", "oci", "proxySnapshotterPath"): _OTHER_FILES,
        ("worker", "oci", "stargzSnapshotter"): _OTHER_FILES,
        ("worker", "oci", "gckeepstorage"): "is the old name: use reservedSpace",
        ("worker", "oci", "gcpolicy", "keepBytes"): "is the old name: use reservedSpace",
    }
)
"""Keys that buildkitd has and an inventory must not set, without list positions, and why."""


# --------------------------------------------------------------------------------------------- image

_DOMAIN = r"[A-Za-z0-9]+([.-]+[A-Za-z0-9]+)*(:[0-9]+)?"
_REPOSITORY = r"[a-z0-9]+((\.|__?|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"({_DOMAIN}/)?{_REPOSITORY}(/{_REPOSITORY})*"
    r"(?P<tag>:\w[\w.-]{0,127})?(?P<digest>@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
"""Image references as github.com/distribution/reference reads them, without IPv6 registries."""


def checked_image(value: str) -> str:
    """The reference of an image that a node can run; raises ValueError with what is wrong."""
    match = _IMAGE.fullmatch(value)
    if not match:
        raise ValueError(f"{shown(value)} is not an image reference such as {DEFAULT_IMAGE}")
    if not match["tag"] and not match["digest"]:
        raise ValueError(f"{shown(value)} needs a tag or a digest, as in {DEFAULT_IMAGE}")
    if (match["tag"] or "").endswith("rootless"):
        raise ValueError("rootless images are not supported: they read their configuration elsewhere")
    return value


# ------------------------------------------------------------------------------------------- scalars

_INT64 = (1 << 63) - 1
_SIZE = r"[0-9]{1,15}(\.[0-9]{1,9})? ?([kKmMgGtTpP]([iI]?[bB])?|[bB])?"
_PERCENTAGE = "(100|[1-9]?[0-9])%"
_SECONDS = MappingProxyType({"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600})
_DURATION_PART = r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(ns|us|µs|ms|s|m|h)"
_LONGEST = _INT64 // 10**9
"""Seconds in Go's time.Duration, about 292 years."""


def _size(value: Any) -> Any:
    whole = type(value) is int and 0 <= value <= _INT64
    if whole or (isinstance(value, str) and re.fullmatch(f"{_SIZE}|{_PERCENTAGE}", value)):
        return value
    raise ValueError('must be bytes such as 512000000, a size such as "10GB" or a share such as "20%"')


def _duration(value: Any) -> Any:
    whole = type(value) is int and 0 <= value <= _LONGEST
    if whole or (isinstance(value, str) and _length(value) <= _LONGEST):
        return value
    raise ValueError('must be seconds such as 3600, or a duration such as "48h" (units h, m, s, ms; no days)')


def _length(text: str) -> float:
    """Seconds of a Go duration, infinite for what is none."""
    if not re.fullmatch(f"({_DURATION_PART})+", text):
        return float("inf")
    return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(_DURATION_PART, text))


def _container_path(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError(f"{shown(value)} must be an absolute path, inside the daemon's container")
    return value


def _ip_address(value: str) -> str:
    return str(ipaddress.ip_address(value))


def _subnet(value: str) -> str:
    if "/" not in value:
        raise ValueError(f"{shown(value)} is not a subnet such as 10.10.0.0/16")
    return str(ipaddress.ip_network(value))


def _registry_name(value: str) -> str:
    if "://" in value or "/" in value:
        raise ValueError("must be HOST or HOST:PORT of a registry, without https:// and without a path")
    return value


def _mirror(value: str) -> str:
    if "://" in value:
        raise ValueError("takes no https:// or http://: for plain HTTP set http in the mirror's own entry")
    return value


def _number_or(pattern: str) -> WithJsonSchema:
    whole = {"type": "integer", "minimum": 0}
    return WithJsonSchema({"anyOf": [whole, {"type": "string", "pattern": f"^({pattern})$"}]})


_Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
_Size = Annotated[int | str, PlainValidator(_size), _number_or(f"{_SIZE}|{_PERCENTAGE}")]
_Duration = Annotated[int | str, PlainValidator(_duration), _number_or(f"({_DURATION_PART})+")]
_ContainerPath = Annotated[Text, AfterValidator(_container_path)]
_IpAddress = Annotated[Text, AfterValidator(_ip_address)]
_Subnet = Annotated[Text, AfterValidator(_subnet)]
_RegistryName = Annotated[str, AfterValidator(_registry_name)]
_Mirror = Annotated[Text, AfterValidator(_mirror)]


def _setting(description: str, key: str | None = None) -> Any:
    """An optional key; what is not set is left to buildkitd."""
    return Field(default=None, description=description, alias=key)


# -------------------------------------------------------------------------------------------- tables


class _Log(Strict):
    format: Literal["text", "json"] | None = _setting("Form of the daemon's log (text).")
    level: Literal["error", "warn", "info", "debug", "trace"] | None = _setting("Lowest level logged (info).")


class _Dns(Strict):
    nameservers: tuple[_IpAddress, ...] | None = _setting("Name servers of build steps.")
    options: tuple[Text, ...] | None = _setting("Options of resolv.conf, such as edns0.")
    search_domains: tuple[Text, ...] | None = _setting("Search domains of build steps.", "searchDomains")


class _History(Strict):
    max_age: _Duration | None = _setting("Records younger than this are kept (48h).", "maxAge")
    max_entries: _Count | None = _setting("Build records kept whatever their age (50).", "maxEntries")


class _Cdi(Strict):
    disabled: bool | None = _setting("Switch device injection off (false).")
    spec_dirs: tuple[_ContainerPath, ...] | None = _setting("Directories of CDI files.", "specDirs")
    auto_allowed: tuple[Text, ...] | None = _setting("Devices builds get without asking.", "autoAllowed")


class _GcSpace(Strict):
    reserved_space: _Size | None = _setting("Cache never collected (10%, at most 10GB).", "reservedSpace")
    max_used_space: _Size | None = _setting("Most that cache may use (80%, at most 100GB).", "maxUsedSpace")
    min_free_space: _Size | None = _setting("Free disk that is aimed for (20%).", "minFreeSpace")


class _GcPolicy(_GcSpace):
    all: bool | None = _setting("Also collect internal and frontend records (false).")
    filters: tuple[Text, ...] | None = _setting("Which records: any filter that matches (all).")
    keep_duration: _Duration | None = _setting("Records used this recently are kept (0).", "keepDuration")


class _Oci(_GcSpace):
    labels: dict[Text, str] | None = _setting("Labels of the worker.")
    snapshotter: Literal["auto", "overlayfs", "fuse-overlayfs", "native", "stargz"] | None = _setting(
        "How layers are stored (auto)."
    )
    gc: bool | None = _setting("Collect garbage after builds and at start (true).")
    gcpolicy: tuple[_GcPolicy, ...] | None = _setting("Rules in order, instead of the four built-in ones.")
    max_parallelism: _Count | None = _setting("Build steps at a time (0: no limit).", "max-parallelism")
    network_mode: Literal["auto", "host", "bridge", "cni"] | None = _setting("Network (auto).", "networkMode")
    cni_config_path: _ContainerPath | None = _setting("CNI file (/etc/buildkit/cni.json).", "cniConfigPath")
    cni_binary_path: _ContainerPath | None = _setting("CNI programs (/opt/cni/bin).", "cniBinaryPath")
    cni_pool_size: _Count | None = _setting("CNI namespaces kept ready (0).", "cniPoolSize")
    bridge_name: Text | None = _setting("Bridge of network mode bridge (buildkit0).", "bridgeName")
    bridge_subnet: _Subnet | None = _setting("Its subnet (10.10.0.0/16).", "bridgeSubnet")
    binary: Text | None = _setting("OCI runtime in the container (buildkit-runc).")
    default_cgroup_parent: Text | None = _setting("Parent cgroup of build steps.", "defaultCgroupParent")
    apparmor_profile: Text | None = _setting("AppArmor profile, loaded on the host.", "apparmor-profile")
    selinux: bool | None = _setting("Put SELinux labels on build steps (false).")


class _Worker(Strict):
    oci: _Oci | None = _setting("The worker that runs build steps.")


class _KeyPair(Strict):
    key: File = Field(description="Client key, a file of this machine.")
    cert: File = Field(description="Client certificate, likewise.")


class _Registry(Strict):
    mirrors: tuple[_Mirror, ...] | None = _setting("Tried first, in order: HOST[:PORT][/PATH].")
    http: bool | None = _setting("Speak plain HTTP (false; localhost: true).")
    insecure: bool | None = _setting("Do not verify the certificate (false).")
    ca: tuple[File, ...] | None = _setting("CA files of this machine, trusted besides the system's.")
    keypair: tuple[_KeyPair, ...] | None = _setting("Client certificates for the registry.")
    tlsconfigdir: tuple[_ContainerPath, ...] | None = _setting("Directories of .crt, .cert, .key in the container.")


class _Dockerfile(Strict):
    enabled: bool | None = _setting("Allow the built-in Dockerfile frontend (true).")


class _GatewayFrontend(Strict):
    enabled: bool | None = _setting("Allow frontends from images, `# syntax=` (true).")
    allowed_repositories: tuple[Text, ...] | None = _setting(
        "Repositories such frontends may come from (any).", "allowedRepositories"
    )


class _Frontend(Strict):
    dockerfile: _Dockerfile | None = _setting("The built-in Dockerfile frontend.", "dockerfile.v0")
    gateway: _GatewayFrontend | None = _setting("Frontends from images.", "gateway.v0")


class _System(Strict):
    platforms_cache_max_age: _Duration | None = _setting("Platform scans last (24h).", "platformsCacheMaxAge")
    max_registry_concurrency: Annotated[_Count, Field(ge=1)] | None = _setting(
        "Connections to one registry (4).", "maxRegistryConcurrency"
    )


class DaemonConfig(Strict):
    """What an inventory may say under `buildkit.config`."""

    debug: bool | None = _setting("Old spelling of log.level debug.")
    trace: bool | None = _setting("Old spelling of log.level trace.")
    entitlements: tuple[Literal["network.host", "security.insecure", "device"], ...] | None = _setting(
        "What builds may ask for with --allow (device, unless cdi.disabled).", "insecure-entitlements"
    )
    proxy_network: bool | None = _setting("Force steps through BuildKit's proxy (false).", "proxyNetwork")
    provenance_env_dir: _ContainerPath | None = _setting(
        "Extra provenance fields, in the container (/etc/buildkit/provenance.d).", "provenanceEnvDir"
    )
    log: _Log | None = _setting("The daemon's own log.")
    dns: _Dns | None = _setting("Name resolution of build steps.")
    history: _History | None = _setting("Records of past builds. Setting one key sets the other to 0.")
    cdi: _Cdi | None = _setting("Container Device Interface: GPUs and other devices.")
    worker: _Worker | None = _setting("Workers.")
    registry: dict[_RegistryName, _Registry] | None = _setting("By HOST[:PORT]; Docker Hub is docker.io.")
    frontend: _Frontend | None = _setting("What may turn a build into steps.")
    system: _System | None = _setting("Limits of the daemon.")
