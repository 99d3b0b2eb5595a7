"""Platforms in one spelling, and which of them a machine runs natively."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


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
