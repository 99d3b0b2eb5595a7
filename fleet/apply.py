"""Carry out a plan: the vault, then every host's lane side by side, then the builder; tell it as events."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING

from certs.authority import describe
from fleet import buildx
from fleet.actions import (
    AwaitReady,
    CreateAuthority,
    CreateDaemon,
    IssueClient,
    PullImage,
    RemoveDaemon,
    RemoveImage,
    RemoveVolume,
    StartDaemon,
)
from fleet.daemon import last_words
from fleet.errors import BuilderError, FleetError, HostError
from fleet.health import not_native
from fleet.model import ApiFacts, Down, HostFacts, Platform, Stage
from fleet.observe import PROBE_TIMEOUT
from fleet.parallel import gather
from fleet.plan import able_platforms, builder_steps, plan
from fleet.route import native_platforms

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from fleet.actions import LaneAction
    from fleet.model import Facts, FleetSpec, HostSpec
    from fleet.observe import Connections
    from fleet.plan import Lane, Plan
    from fleet.ports import Engine, World

READY_TIMEOUT = 90.0
"""Seconds from start to the first answer: an emulated or loaded host takes tens of seconds."""


REFUSAL_TIMEOUT = 10.0
"""Seconds after which a certificate that is refused all the time will not be accepted any more."""


class Result(StrEnum):
    """How a lane or the builder's steps ended."""

    DONE = "done"
    UNCHANGED = "unchanged"
    FAILED = "failed"
    BLOCKED = "blocked"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that began, ended or failed, on a node, in the vault or at the builder."""

    subject: str
    text: str
    state: str = "begun"
    """begun, note, done or failed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one subject ended, after how many seconds, and why it failed."""

    subject: str
    result: Result
    seconds: float = 0.0
    failure: Down | None = None
    warning: Down | None = None

    @property
    def ok(self) -> bool:
        """Whether the subject is as it is wanted."""
        return self.result in {Result.DONE, Result.UNCHANGED}


@dataclass(frozen=True, slots=True)
class Report:
    """How a run ended: one outcome a host, and the builder's."""

    nodes: tuple[Outcome, ...]
    builder: Outcome

    @property
    def exit_code(self) -> int:
        """0 done, 1 failed, 3 partly done."""
        outcomes = (*self.nodes, self.builder)
        if all(outcome.ok for outcome in outcomes):
            return 0
        return 3 if any(outcome.ok for outcome in self.nodes) else 1


@dataclass(frozen=True, slots=True)
class Applier:
    """What applying needs beside the plan."""

    spec: FleetSpec
    world: World
    connections: Connections
    emit: Callable[[Event], None]

    def up(self, facts: Facts, decided: Plan, *, only: Collection[str] = ()) -> Report:
        """Carry out a plan of `plan`; raises VaultError and BuilderError before any host is touched."""
        if decided.vault:
            for action in decided.vault:
                self._vault(action)
            # The new CA is part of what every container is to be.
            facts = replace(facts, vault=self.world.vault.read())
            decided = plan(self.spec, facts, self.world.now(), only=only)
        ready: dict[str, tuple[Platform, ...]] = {}
        outcomes = self._lanes(decided, facts, ready)
        return Report(outcomes, self._register(facts, decided, ready))

    def down(self, decided: Plan) -> Report:
        """Carry out a plan of `plan_down`."""
        builder = self._steps(decided.builder, decided.builder_blocked)
        return Report(self._lanes(decided, None, {}), builder)

    def _vault(self, action: CreateAuthority | IssueClient) -> None:
        self.emit(Event("vault", str(action)))
        match action:
            case CreateAuthority(name):
                self.world.vault.create_authority(name, self.world.now())
            case IssueClient(name):
                self.world.vault.issue_client(name, self.world.now())
        self.emit(Event("vault", str(action), "done"))

    def _lanes(self, decided: Plan, facts: Facts | None, ready: dict[str, tuple[Platform, ...]]) -> tuple[Outcome, ...]:
        hosts = {host.name: host for host in self.spec.hosts}
        tasks = {name: partial(self._lane, hosts[name], lane, facts, ready) for name, lane in decided.lanes.items()}
        return tuple(gather(tasks).values())

    def _lane(self, host: HostSpec, lane: Lane, facts: Facts | None, ready: dict[str, tuple[Platform, ...]]) -> Outcome:
        if lane.blocked:
            self.emit(Event(host.name, f"{lane.blocked.stage}: {lane.blocked.reason}", "failed"))
            return Outcome(host.name, Result.BLOCKED, failure=lane.blocked)
        started = time.monotonic()
        try:
            for action in lane.actions:
                self.emit(Event(host.name, str(action)))
                self._act(host, action, facts, ready)
        except Exception as error:  # a lane ends alone, whatever it was
            failure = _failure(error)
            self.emit(Event(host.name, f"{failure.stage}: {failure.reason}", "failed"))
            return Outcome(host.name, Result.FAILED, time.monotonic() - started, failure)
        result = Result.DONE if lane.actions else Result.UNCHANGED
        self.emit(Event(host.name, "done" if lane.actions else "nothing to do", "done"))
        return Outcome(host.name, result, time.monotonic() - started, warning=lane.warning)

    def _act(
        self,
        host: HostSpec,
        action: LaneAction,
        facts: Facts | None,
        ready: dict[str, tuple[Platform, ...]],
    ) -> None:
        engine = self.connections.get(host).engine()
        match action:
            case PullImage(reference):
                engine.pull(reference, lambda text: self.emit(Event(host.name, text, "note")))
            case RemoveDaemon(container, _, grace):
                engine.remove(container, grace=grace)
            case CreateDaemon(wanted, pulled):
                credential, trust = self.world.vault.issue_node(host.name, wanted.names, self.world.now())
                engine.create(
                    wanted,
                    describe(credential.certificate),
                    wanted.files(credential, trust),
                    pulled=wanted.image if pulled else None,
                )
            case StartDaemon(name):
                engine.start(name)
            case AwaitReady():
                found = facts.nodes[host.name].host if facts else None
                ready[host.name] = self._await_ready(host, found if isinstance(found, HostFacts) else None, engine)
            case RemoveVolume(name):
                engine.remove_volume(name)
            case RemoveImage(reference):
                engine.remove_image(reference)

    def _await_ready(self, host: HostSpec, found: HostFacts | None, engine: Engine) -> tuple[Platform, ...]:
        """The platforms that the daemon proves to run natively; raises HostError when it does not get there."""
        since = time.monotonic()
        deadline = since + READY_TIMEOUT
        same: tuple[Stage, str] | None = None
        while True:
            api = self.world.prober.probe(host, timeout=5.0)
            if isinstance(api, ApiFacts):
                if platforms := native_platforms(host, api, found):
                    return platforms
                problem = not_native(host, api, found, platforms) or Down(Stage.NATIVE, "nothing is native")
                raise HostError(problem.stage, problem.reason, problem.remedy)
            self._refuse_crashed(host, engine)
            since = since if (why := (api.stage, api.reason)) == same else time.monotonic()
            same = why
            settled = api.stage is Stage.TLS and not api.late and time.monotonic() - since > REFUSAL_TIMEOUT
            if settled or time.monotonic() > deadline:
                raise HostError(api.stage, api.reason, api.remedy)
            time.sleep(0.2)

    def _refuse_crashed(self, host: HostSpec, engine: Engine) -> None:
        for daemon in engine.survey(self.spec.name).daemons:
            if daemon.node == host.name and daemon.state in {"restarting", "exited", "dead"}:
                last = last_words(engine.logs(daemon.id, tail=60))
                raise HostError(
                    Stage.CONTAINER,
                    f"{daemon.name} does not stay up ({daemon.detail}); its last lines:\n{last}",
                    f"correct buildkit.config or the image; see docker logs {daemon.name} on the host",
                )

    def _register(self, facts: Facts, decided: Plan, ready: dict[str, tuple[Platform, ...]]) -> Outcome:
        """The builder takes the nodes that are ready now, not those that the plan expected."""
        late = [
            host
            for host in self.spec.hosts
            if (lane := decided.lanes.get(host.name))
            and host.name not in ready
            and (lane.actions or facts.nodes[host.name].api is None)
            and self.world.vault.has_client()
        ]
        # Before there was a client certificate nobody could be asked.
        # A lane that failed early has left its old daemon at work.
        answers = gather({host.name: partial(self.world.prober.probe, host, timeout=PROBE_TIMEOUT) for host in late})
        now = {host.name: replace(facts.nodes[host.name], api=answers[host.name]) for host in late}
        seen = replace(facts, nodes={**facts.nodes, **now})
        able = able_platforms(self.spec, seen, decided.lanes, ready)
        return self._steps(*builder_steps(self.spec, able, facts.builder, facts.vault))

    def _steps(self, steps: tuple[buildx.Step, ...], blocked: Down | None) -> Outcome:
        if blocked:
            self.emit(Event("builder", f"{blocked.reason}", "failed"))
            return Outcome("builder", Result.BLOCKED, failure=blocked)
        if not steps:
            return Outcome("builder", Result.UNCHANGED)
        started = time.monotonic()
        try:
            for step in steps:
                self.emit(Event("builder", str(step)))
                self.world.builder.run(buildx.arguments(self.spec.name, step))
            self._verify(steps)
        except BuilderError as error:
            failure = Down(Stage.BUILDER, error.message, error.remedy)
            self.emit(Event("builder", error.message, "failed"))
            return Outcome("builder", Result.FAILED, time.monotonic() - started, failure)
        self.emit(Event("builder", "done", "done"))
        return Outcome("builder", Result.DONE, time.monotonic() - started)

    def _verify(self, steps: tuple[buildx.Step, ...]) -> None:
        """A failed `create` of buildx may rewrite other nodes: trust only what it has stored."""
        stored = {node.name: node for node in self.world.builder.read(self.spec.name).nodes}
        appended = {s.node.name: s.node for s in steps if isinstance(s, (buildx.CreateBuilder, buildx.AppendNode))}
        for name, node in appended.items():
            if not buildx.same(stored.get(name), node):
                raise BuilderError(f"buildx did not store node {name} as it was asked to", "run fleet up again")


def _failure(error: Exception) -> Down:
    match error:
        case HostError():
            return Down(error.stage, error.message, error.remedy)
        case FleetError():
            return Down(Stage.CONTAINER, error.message, error.remedy)
        case _:
            return Down(
                Stage.CONTAINER, f"a bug of fleet: {type(error).__name__}: {error}", "report it, with this line"
            )
