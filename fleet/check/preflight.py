"""Ask everything that `fleet check` judges: all hosts at once, each over one connection; nothing is changed."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from fleet.check.ground import EngineInfo, answer, question, registries
from fleet.check.judgement import Answers
from fleet.check.verdict import Asked
from fleet.containers.proxy import gates
from fleet.errors import BuilderError, FleetError, HostError
from fleet.model.facts import BuilderFacts, Down, HostFacts, Image, Stage
from fleet.model.spec import Delivery
from fleet.observing.observe import DOCKER_ROOT, observe_host
from fleet.parallel import Gathering

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from fleet.check.ground import Ground
    from fleet.model.facts import Offer
    from fleet.model.platforms import Platform
    from fleet.model.spec import FleetSpec, HostSpec
    from fleet.model.vault import VaultFacts
    from fleet.observing.observe import Connections
    from fleet.ports import Engine, Host, World

T = TypeVar("T")

REACH_TIMEOUT = 3.0
"""Seconds for a port to answer a connection from here."""

SCRIPT_TIMEOUT = 30.0

COLLECTING = 0.5
"""Seconds from a host's deadline until its answers, such as they are, have been collected."""


def ask(
    spec: FleetSpec, world: World, connections: Connections, *, deadline: float, only: Collection[str] = ()
) -> Asked:
    """Ask the hosts of `only`, all when empty, and this machine.

    What has not answered at `deadline`, a moment of time.monotonic(), is left unanswered: None.
    """
    hosts = [host for host in spec.hosts if not only or host.name in only]
    answers = Gathering({host.name: partial(_ask_host, spec, world, host, connections, deadline) for host in hosts})
    here = Gathering({host.name: partial(world.prober.reach, host, timeout=REACH_TIMEOUT) for host in hosts})
    ways = {key: gate for key, gate in gates(spec).items() if not only or key[0] in only}
    through = Gathering({key: partial(world.prober.reach, gate, timeout=REACH_TIMEOUT) for key, gate in ways.items()})
    builder, vault = _builder(spec, world), _vault(world)
    reached = here.results(timeout=_left(deadline))
    passed = {
        (name, ways[name, arch].port): how for (name, arch), how in through.results(timeout=_left(deadline)).items()
    }
    said = answers.results(timeout=_left(deadline) + COLLECTING)
    return Asked(
        nodes={
            host.name: replace(
                said.get(host.name) or Answers(None),
                here=reached.get(host.name),
                gates={port: how for (name, port), how in passed.items() if name == host.name},
            )
            for host in hosts
        },
        builder=builder,
        vault=vault,
    )


def _ask_host(spec: FleetSpec, world: World, host: HostSpec, connections: Connections, deadline: float) -> Answers:
    """What there is, all at once; then what is asked in view of that."""
    try:
        connection = connections.get(host)
        engine = connection.engine()
    except HostError as error:
        return Answers(_down(error))
    question = _Question(deadline)
    observing = question.begin(partial(observe_host, spec, host, connections))
    informing = question.begin(engine.info)
    surveying = question.begin(partial(_ground, spec, host, connection, DOCKER_ROOT))
    info = question.end(informing)
    if isinstance(info, EngineInfo) and info.root != DOCKER_ROOT:
        surveying = question.begin(partial(_ground, spec, host, connection, info.root))
    found = question.end(observing)
    lacking = _lacking(spec, host, found) if isinstance(found, HostFacts) else {}
    asking = {
        image: question.begin(partial(_offered, world, host, engine, image, arch)) for image, arch in lacking.items()
    }
    offered = {image: question.end(asked) for image, asked in asking.items()}
    proxy = offered.get(spec.gateway.image) if spec.gateway else None
    return Answers(found, info, question.end(surveying), offered.get(spec.buildkit.image), gateway_image=proxy)


def _offered(world: World, host: HostSpec, engine: Engine, image: str, arch: str) -> frozenset[Platform] | Offer:
    if host.delivery is Delivery.STREAM:
        return world.registry.offer(image, arch)
    return engine.distribution(image)


def _lacking(spec: FleetSpec, host: HostSpec, found: HostFacts) -> dict[str, str]:
    """The images that are wanted and not there, and for which architecture."""
    wanted = {spec.buildkit.image: found.image}
    if spec.gateway and host.name in spec.gateway.hosts:
        wanted[spec.gateway.image] = found.proxy.image
    return {image: found.arch for image, there in wanted.items() if there is Image.ABSENT}


@dataclass(frozen=True, slots=True)
class _Question:
    """Asks one host several things side by side, until a moment of time.monotonic()."""

    deadline: float

    def begin(self, ask: Callable[[], T]) -> Gathering[None, T | Down]:
        """Ask it now; the answer is for `end`."""
        return Gathering({None: partial(_or_down, ask)})

    def end(self, asked: Gathering[None, T | Down]) -> T | Down | None:
        """The answer, or why there is none; None: not in time."""
        return asked.results(timeout=_left(self.deadline)).get(None)


def _ground(spec: FleetSpec, host: HostSpec, connection: Host, root: str) -> Ground:
    ports = (host.port, *(gate.port for (name, _), gate in gates(spec).items() if name == host.name))
    return answer(connection.run(question(root, ports, registries(spec, host)), timeout=SCRIPT_TIMEOUT).stdout)


def _builder(spec: FleetSpec, world: World) -> BuilderFacts | Down:
    try:
        facts = world.builder.read(spec.name)
    except BuilderError as error:
        return Down(Stage.BUILDER, error.message, error.remedy)
    try:
        world.builder.check()
    except BuilderError as error:
        return replace(facts, unusable=Down(Stage.BUILDER, error.message, error.remedy))
    return facts


def _vault(world: World) -> VaultFacts | Down:
    try:
        return world.vault.read()
    except FleetError as error:
        return Down(Stage.TLS, error.message, error.remedy)


def _or_down(question: Callable[[], T]) -> T | Down:
    try:
        return question()
    except HostError as error:
        return _down(error)


def _down(error: HostError) -> Down:
    return Down(error.stage, error.message, error.remedy)


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.0)
