"""The steps that a plan is made of: what each does, in words; `fleet.applying.apply` does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fleet.quantities import size

if TYPE_CHECKING:
    from fleet.containers.daemon import DaemonSpec
    from fleet.containers.proxy import ProxySpec
    from fleet.model.facts import Offer
    from fleet.model.spec import HostSpec

GRACE = 600
"""Seconds that a stopping daemon has for its running builds: BuildKit ends on SIGTERM once they are done."""

LEAST_GRACE = 10
"""The same for those that are not waited for: Docker's own default."""


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
    """Bring BuildKit's image to the host, and mark it as pulled."""

    reference: str
    mark: str

    def __str__(self) -> str:
        return f"pull {self.reference}"


@dataclass(frozen=True, slots=True)
class SendImage:
    """Send BuildKit's image from this machine to the host, and mark it as if it had been pulled."""

    offer: Offer
    mark: str

    @property
    def reference(self) -> str:
        """What the inventory calls it."""
        return self.offer.reference

    def __str__(self) -> str:
        return f"send {self.reference} ({size(self.offer.size)})"


@dataclass(frozen=True, slots=True)
class RemoveDaemon:
    """Stop, waiting for running builds, and remove a daemon's container; its cache volume stays."""

    container: str
    name: str
    grace: int = GRACE

    def __str__(self) -> str:
        return f"stop and remove {self.name} (running builds may end first; the cache stays)"


@dataclass(frozen=True, slots=True)
class Drain:
    """Keep new builds away: noted at the daemon, for every client to heed."""

    name: str

    def __str__(self) -> str:
        return "keep new builds away"


@dataclass(frozen=True, slots=True)
class AwaitIdle:
    """Let another node take over in this machine's builder, and wait until the daemon's builds have ended.

    `alone`: no other node runs what it runs; `patience`: seconds to wait at most.
    """

    name: str
    alone: bool
    patience: int = GRACE

    def __str__(self) -> str:
        waits = "wait until its builds have ended" if self.patience else "do not wait until its builds have ended"
        return waits + (", it is the only one of its architecture" if self.alone else "")


@dataclass(frozen=True, slots=True)
class SetAside:
    """Stop a daemon, and keep its container under another name until its successor has proved itself.

    `patience`: seconds to wait at most for a moment when no client is connected to it.
    """

    container: str
    name: str
    patience: int = GRACE

    @property
    def grace(self) -> int:
        """Seconds that builds have which run when it is told to stop."""
        return max(self.patience, LEAST_GRACE)

    def __str__(self) -> str:
        builds = "" if self.patience else f"running builds have {self.grace} s, "
        return f"stop {self.name} and set it aside ({builds}the cache stays)"


@dataclass(frozen=True, slots=True)
class PutBack:
    """Give a container that was set aside its name again, in place of its successor, and start it."""

    container: str
    name: str

    def __str__(self) -> str:
        return f"put the former {self.name} back"


@dataclass(frozen=True, slots=True)
class Resume:
    """Let new builds come again."""

    name: str

    def __str__(self) -> str:
        return "let builds come again"


@dataclass(frozen=True, slots=True)
class CreateDaemon:
    """Issue a node certificate, make the container and put certificates and configuration in."""

    wanted: DaemonSpec

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
class StepAside:
    """Let a gateway go on under another name until its successor listens."""

    container: str
    name: str

    def __str__(self) -> str:
        return f"set {self.name} aside, still at work"


@dataclass(frozen=True, slots=True)
class CreateGateway:
    """Make the gateway's container and put configuration and CAs in."""

    wanted: ProxySpec

    def __str__(self) -> str:
        return f"create {self.wanted.name}"


@dataclass(frozen=True, slots=True)
class AwaitGateway:
    """Wait until the gateway stays up and its ports can be reached."""

    name: str
    gates: tuple[HostSpec, ...]

    def __str__(self) -> str:
        return f"wait until {self.name} listens"


@dataclass(frozen=True, slots=True)
class RemoveGateway:
    """Let a gateway take no more connections, and remove its container once those that it has have ended."""

    container: str
    name: str
    grace: int = GRACE

    def __str__(self) -> str:
        return f"stop and remove {self.name} (builds that go through it may end first)"


@dataclass(frozen=True, slots=True)
class RemoveVolume:
    """Remove a daemon's state volume: the node's build cache."""

    name: str

    def __str__(self) -> str:
        return f"remove the volume {self.name}, the node's build cache"


@dataclass(frozen=True, slots=True)
class RemoveImage:
    """Remove an image that bears the mark, unless something else uses it."""

    reference: str
    mark: str

    def __str__(self) -> str:
        return f"remove the image {self.reference}, if fleet pulled it and nothing else uses it"


@dataclass(frozen=True, slots=True)
class ForgetHistory:
    """Remove what the host keeps of who changed what."""

    fleet: str

    def __str__(self) -> str:
        return "forget who changed what there"


VaultAction = CreateAuthority | IssueClient
GatewayAction = StepAside | CreateGateway | AwaitGateway | RemoveGateway
LaneAction = (
    PullImage
    | SendImage
    | Drain
    | AwaitIdle
    | SetAside
    | PutBack
    | Resume
    | RemoveDaemon
    | CreateDaemon
    | StartDaemon
    | AwaitReady
    | GatewayAction
    | RemoveVolume
    | RemoveImage
    | ForgetHistory
)
