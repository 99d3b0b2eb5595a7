"""The words of a check: topics, how each is, and the case of one host that they are judged in."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Never

from fleet.check.ground import EngineInfo, Ground
from fleet.model.facts import Down, HostFacts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fleet.check.ground import Reach
    from fleet.model.facts import Offer
    from fleet.model.platforms import Platform
    from fleet.model.spec import FleetSpec, HostSpec
    from fleet.model.vault import VaultFacts


class State(StrEnum):
    """How a topic is."""

    OK = "ok"
    WARNING = "warning"
    """`fleet up` succeeds; builds may be slow or fail."""
    PROBLEM = "problem"
    """`fleet up` fails, or its node cannot be used."""
    UNKNOWN = "unknown"


class Topic(StrEnum):
    """What is looked at, in the order in which it is told."""

    LOGIN = "login"
    DOCKER = "Docker"
    ARCHITECTURE = "architecture"
    EMULATION = "emulation"
    CGROUPS = "cgroups"
    STORAGE = "storage"
    DISK = "disk"
    INODES = "inodes"
    MEMORY = "memory"
    CLOCK = "clock"
    MACHINE = "machine"
    CONTAINER = "container"
    PORT = "port"
    REACHABLE = "reachable"
    MTU = "MTU"
    DNS = "DNS"
    REGISTRY = "registry"
    IMAGE = "image"
    GATEWAY = "gateway"
    BUILDX = "buildx"
    BUILDER = "builder"
    CERTIFICATES = "certificates"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A topic's state, why, and the next thing to try."""

    state: State
    text: str
    remedy: str | None = None


def ok(text: str) -> Judgement:
    """Nothing to be said against it."""
    return Judgement(State.OK, text)


def warning(text: str, remedy: str | None) -> Judgement:
    """See State.WARNING."""
    return Judgement(State.WARNING, text, remedy)


def problem(text: str, remedy: str | None) -> Judgement:
    """See State.PROBLEM."""
    return Judgement(State.PROBLEM, text, remedy)


def unknown(text: str, remedy: str | None = None) -> Judgement:
    """It cannot be known, for this reason."""
    return Judgement(State.UNKNOWN, text, remedy)


@dataclass(frozen=True, slots=True)
class Answers:
    """What one host answered to each question; Down: why it could not be answered; None: not in time, or not asked."""

    host: HostFacts | Down | None
    info: EngineInfo | Down | None = None
    ground: Ground | Down | None = None
    image: frozenset[Platform] | Offer | Down | None = None
    """For which platforms the registry has the image, or what could be sent of it; asked only where it is absent."""
    here: Reach | None = None
    """How a connection from this machine to the node's port ended."""
    gateway_image: frozenset[Platform] | Offer | Down | None = None
    """As `image`, of the gateway's."""
    gates: Mapping[int, Reach] = field(default_factory=dict)
    """As `here`, of the gateway's ports."""


class NotKnownError(Exception):
    """The answer that a topic is judged by is missing; why."""


@dataclass(frozen=True, slots=True)
class Case:
    """One host and all that it is judged by."""

    spec: FleetSpec
    host: HostSpec
    answers: Answers
    vault: VaultFacts | None
    common_skew: float | None

    @property
    def found(self) -> HostFacts:
        """What `observe` found; raises NotKnownError, as the next two."""
        found = self.answers.host
        return found if isinstance(found, HostFacts) else _not_known(found)

    @property
    def info(self) -> EngineInfo:
        """What its Docker says of itself."""
        info, found = self.answers.info, self.answers.host
        # Why Docker cannot be used, which only `observe` asks of the host itself, comes before how that showed.
        return info if isinstance(info, EngineInfo) else _not_known(found if isinstance(found, Down) else info)

    @property
    def ground(self) -> Ground:
        """What its shell says."""
        ground = self.answers.ground
        return ground if isinstance(ground, Ground) else _not_known(ground)


def _not_known(answer: object) -> Never:
    raise NotKnownError(f"{answer.stage}: {answer.reason}" if isinstance(answer, Down) else NO_ANSWER)


NO_ANSWER = "no answer in time"


def listed(platforms: Iterable[Platform]) -> str:
    """Platforms for a sentence."""
    return ", ".join(map(str, platforms))
