"""The steps that a plan is made of: what each does, in words; `fleet.apply` does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fleet.daemon import DaemonSpec

GRACE = 600
"""Seconds that a stopping daemon has for its running builds: BuildKit ends on SIGTERM once they are done."""


@dataclass(frozen=True, slots=True)
class CreateAuthority:
    """Make the fleet's CA."""

    name: str

    def __str__(self) -> str:
        return f"make a certificate authority for {self.name}"


@dataclass(frozen=True, slots=True)
class IssueClient:
    """Make or renew this machine's client certificate."""

    name: str

    def __str__(self) -> str:
        return f"issue a client certificate for {self.name}"


@dataclass(frozen=True, slots=True)
class PullImage:
    """Bring BuildKit's image to the host."""

    reference: str

    def __str__(self) -> str:
        return f"pull {self.reference}"


@dataclass(frozen=True, slots=True)
class RemoveDaemon:
    """Stop, waiting for running builds, and remove a daemon's container; its cache volume stays."""

    container: str
    name: str
    grace: int = GRACE

    def __str__(self) -> str:
        return f"stop and remove {self.name} (running builds may end first; the cache stays)"


@dataclass(frozen=True, slots=True)
class CreateDaemon:
    """Issue a node certificate, make the container and put certificates and configuration in."""

    wanted: DaemonSpec
    pulled: bool

    def __str__(self) -> str:
        return f"create {self.wanted.name} with a new certificate"


@dataclass(frozen=True, slots=True)
class StartDaemon:
    """Start a daemon's container."""

    name: str

    def __str__(self) -> str:
        return f"start {self.name}"


@dataclass(frozen=True, slots=True)
class AwaitReady:
    """Wait until the daemon answers over mutual TLS and is native."""

    name: str

    def __str__(self) -> str:
        return "wait until it answers over mutual TLS"


@dataclass(frozen=True, slots=True)
class RemoveVolume:
    """Remove a daemon's state volume: the node's build cache."""

    name: str

    def __str__(self) -> str:
        return f"remove the volume {self.name}, the node's build cache"


@dataclass(frozen=True, slots=True)
class RemoveImage:
    """Remove the image that fleet pulled, unless something else uses it."""

    reference: str

    def __str__(self) -> str:
        return f"remove the image {self.reference}, unless something else uses it"


VaultAction = CreateAuthority | IssueClient
LaneAction = PullImage | RemoveDaemon | CreateDaemon | StartDaemon | AwaitReady | RemoveVolume | RemoveImage
