"""What the lab consists of, and where it keeps things."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

Arch = Literal["amd64", "arm64"]

FILES = Path(__file__).parent / "files"
TOOLS = Path(__file__).parent / "tools"

BRIDGE = "fleet-lab0"
GATEWAY = "172.30.0.1"
REGISTRY = f"{GATEWAY}:5000"
TLS_REGISTRY = f"{GATEWAY}:5443"
BUILDKIT_VERSION = "v0.32.2"
BUILDX_VERSION = "v0.36.1"
DOCKER_VERSION = "29.6.2"
BUILDKIT_IMAGE = f"moby/buildkit:{BUILDKIT_VERSION}"
UPGRADE_IMAGE = f"moby/buildkit:{BUILDKIT_VERSION}-r1"
BASE_IMAGE = "lab/base:latest"
GATEWAY_IMAGE = "lab/haproxy:3.0"
BINFMT_IMAGE = "lab/binfmt:latest"


@dataclass(frozen=True, slots=True)
class Host:
    """One machine of the lab; amd64 ones are namespaces, arm64 ones virtual machines."""

    name: str
    address: str
    arch: Arch
    standard: bool = True  # started by a plain `up`; the others only when named

    @property
    def link(self) -> str:
        """The machine's end of the host's network cable."""
        return f"fl-{self.name}"

    @property
    def mac(self) -> str:
        """A fixed hardware address, so that nobody's neighbour table goes stale over a restart."""
        return "02:f1:ee:7a:00:{:02x}".format(int(self.address.rsplit(".", 1)[1]))


HOSTS = (
    Host("amd-1", "172.30.0.11", "amd64"),
    Host("amd-2", "172.30.0.12", "amd64"),
    Host("arm-1", "172.30.0.13", "arm64"),
    Host("amd-3", "172.30.0.14", "amd64", standard=False),
    Host("amd-4", "172.30.0.15", "amd64", standard=False),
    Host("amd-5", "172.30.0.16", "amd64", standard=False),
    Host("amd-6", "172.30.0.17", "amd64", standard=False),
    Host("amd-7", "172.30.0.18", "amd64", standard=False),
    Host("amd-8", "172.30.0.19", "amd64", standard=False),
)

LANES = (("amd-1", "amd-2"), ("amd-3", "amd-4"), ("amd-5", "amd-6"), ("amd-7", "amd-8"))
"""The amd64 hosts that tests have which run side by side."""


@dataclass(frozen=True, slots=True)
class Home:
    """The lab's directory, one a machine, outside any checkout."""

    path: Path

    @classmethod
    def default(cls) -> Self:
        """`$FLEET_LAB_HOME`, else `~/.cache/fleet-lab`."""
        return cls(Path(os.environ.get("FLEET_LAB_HOME") or Path.home() / ".cache/fleet-lab").absolute())

    @property
    def cache(self) -> Path:
        """Artefacts that take long to make; they outlive `down --purge`."""
        return self.path / "cache"

    @property
    def keys(self) -> Path:
        """The SSH key, host keys, known_hosts and the registry's CA; made once."""
        return self.path / "keys"

    @property
    def hosts(self) -> Path:
        """One directory a host with its disks and its seed; removed by `down`."""
        return self.path / "hosts"

    @property
    def run(self) -> Path:
        """Records of running processes and of faults in force; removed by `down`."""
        return self.path / "run"

    @property
    def logs(self) -> Path:
        """Output of every tool and daemon."""
        return self.path / "logs"

    @property
    def registry(self) -> Path:
        """What was pushed to the registries; removed by `down --purge`."""
        return self.path / "registry"

    @property
    def fleet(self) -> Path:
        """FLEET_HOME for whoever uses the lab."""
        return self.path / "fleet"

    @property
    def buildx(self) -> Path:
        """BUILDX_CONFIG for whoever uses the lab."""
        return self.path / "buildx"

    @property
    def docker(self) -> Path:
        """DOCKER_CONFIG for whoever uses the lab; holds the buildx plugin."""
        return self.path / "docker"

    @property
    def bin(self) -> Path:
        """First on the PATH of whoever uses the lab."""
        return self.path / "bin"

    @property
    def ssh_key(self) -> Path:
        """Opens every user of every host."""
        return self.keys / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """The keys of all hosts, those not started included."""
        return self.keys / "known_hosts"
