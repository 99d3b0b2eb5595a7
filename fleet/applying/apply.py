"""Carry out a plan: the vault, then the hosts' lanes, then the builder; tell it as events."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from fleet import buildx
from fleet.applying import act
from fleet.applying.act import Stop, Worker
from fleet.applying.record import Recorder
from fleet.applying.report import Event, Outcome, Report, Result
from fleet.containers.proxy import gates
from fleet.errors import BuilderError, Busy, HostError
from fleet.model.facts import Down, Stage
from fleet.observing.observe import PROBE_TIMEOUT
from fleet.parallel import Gathering, gather
from fleet.planning import gateway
from fleet.planning.actions import GRACE, CreateAuthority, IssueClient
from fleet.planning.plan import able_platforms, builder_steps, plan

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from fleet.model.facts import ApiFacts, BuilderNode, Facts
    from fleet.model.platforms import Platform
    from fleet.model.spec import FleetSpec, HostSpec
    from fleet.observing.observe import Connections
    from fleet.planning.lane import Lane
    from fleet.planning.plan import Plan
    from fleet.ports import World


LET_GO = 3.0
"""Seconds within which somebody who began at the same moment, and was later at the first host, has let go of others."""

FRESH = 2.0
"""Seconds for which what a daemon has said is taken for what it would say."""

GATEWAY_TIMEOUT = 5.0
"""Seconds after which a gateway that leads nowhere is done without."""


@dataclass(frozen=True, slots=True)
class Applier:
    """What applying needs beside the plan."""

    spec: FleetSpec
    world: World
    connections: Connections
    emit: Callable[[Event], None]
    command: str = "up"
    """What is at work, as it is typed after `fleet`: others are told, and the hosts note it."""
    stop: Stop = field(default_factory=Stop)
    parallel: int = 1
    """How many daemons of an architecture may be replaced at a time, as long as another one of it stays at work."""
    patience: int = GRACE
    """For how many seconds builds are waited for at most before their daemon is replaced."""
    deadline: float | None = None
    """The moment of time.monotonic() from which no action is begun."""
    _answers: dict[str, tuple[float, ApiFacts]] = field(default_factory=dict)
    _out: set[str] = field(default_factory=set)
    """Nodes whose builds have been given to others in this run."""
    _registering: threading.Lock = field(default_factory=threading.Lock)

    def hold(self, *, only: Collection[str] = ()) -> None:
        """Keep other operators away until the connections end; raises Busy when one is at work.

        What was found before may have changed until then. Of several who begin at the same moment the one with the
        first host gets the others, too. A host that cannot be locked is left alone.
        """
        holder = f"{self.world.operator}, fleet {self.command}, since {self.world.now():%Y-%m-%d %H:%M} UTC"
        wanted = {
            host.name: partial(self._hold, host, holder) for host in self.spec.hosts if not only or host.name in only
        }
        held: dict[str, str | Down | None] = gather(wanted)
        deadline = time.monotonic() + LET_GO
        while taken := [name for name, other in held.items() if isinstance(other, str)]:
            first = next(name for name, other in held.items() if not isinstance(other, Down))
            if first in taken or time.monotonic() > deadline:
                raise Busy(f"{taken[0]} is being changed: {held[taken[0]]}", "wait for it to end, then run it again")
            time.sleep(act.LOOK_EVERY)
            held |= gather({name: wanted[name] for name in taken})

    def _hold(self, host: HostSpec, holder: str) -> str | Down | None:
        """None: it is ours; who has it; or why nobody can."""
        try:
            return self.connections.get(host).hold(self.spec.name, holder)
        except HostError as error:
            self.connections.give_up(host, error)
            return Down(error.stage, error.message, error.remedy)

    def up(self, facts: Facts, decided: Plan, *, only: Collection[str] = (), restart: Collection[str] = ()) -> Report:
        """Carry out a plan of `plan`; raises VaultError and BuilderError before any host is touched."""
        self._heed_deadline()
        if decided.vault and not self.stop.is_set():
            for action in decided.vault:
                self._vault(action)
            # The new CA is part of what every container is to be.
            facts = replace(facts, vault=self.world.vault.read())
            decided = plan(self.spec, facts, self.world.now(), only=only, restart=restart, patience=self.patience)
        ready: dict[str, tuple[Platform, ...]] = {}
        recorder = self._recorder()
        outcomes = self._lanes(decided, facts, ready, recorder)
        new = gateway.made_new(decided.lanes) & {one.subject for one in outcomes if one.ok}
        builder = self._register(facts, decided, ready, new)
        return Report(_warned(outcomes, recorder.missing()), builder, late=self.stop.late)

    def down(self, decided: Plan) -> Report:
        """Carry out a plan of `plan_down`."""
        builder = self.register(decided.builder, decided.builder_blocked)
        recorder = self._recorder()
        outcomes = self._lanes(decided, None, {}, recorder)
        return Report(_warned(outcomes, recorder.missing()), builder)

    def fresh_answers(self) -> dict[str, ApiFacts]:
        """What daemons have said a moment ago that were begun in this run: nobody need ask them again."""
        since = time.monotonic() - FRESH
        return {name: api for name, (at, api) in self._answers.items() if at >= since}

    def _recorder(self) -> Recorder:
        return Recorder(self.spec.name, self.command, self.world, self.connections)

    def _vault(self, action: CreateAuthority | IssueClient) -> None:
        self.emit(Event("vault", str(action)))
        match action:
            case CreateAuthority(name):
                self.world.vault.create_authority(name, self.world.now())
            case IssueClient(name):
                self.world.vault.issue_client(name, self.world.now())
        self.emit(Event("vault", str(action), "done"))

    # ------------------------------------------------------------------------------------------------- hosts

    def _lanes(
        self, decided: Plan, facts: Facts | None, ready: dict[str, tuple[Platform, ...]], recorder: Recorder
    ) -> tuple[Outcome, ...]:
        """All lanes side by side, but those that disturb builds by turns.

        An interrupt lets every host come to a state in which it can be left alone, and so does the deadline; a second
        interrupt does not wait.
        """
        worker = Worker(
            self.spec,
            self.world,
            self.connections,
            self.emit,
            facts,
            ready,
            self._answers,
            partial(self._take_over, decided, facts, ready),
            self.stop,
            recorder,
        )
        hosts = {host.name: host for host in self.spec.hosts}
        run = {name: partial(worker.run, hosts[name], lane) for name, lane in decided.lanes.items()}
        self._heed_deadline()
        left = None if self.deadline is None else max(self.deadline - time.monotonic(), 0.0)
        under_way = Gathering({"hosts": partial(_in_turn, run, decided.lanes, self.parallel, self.stop)})
        try:
            ended = bool(under_way.results(timeout=left))
            why = "the time is over: "
        except KeyboardInterrupt:
            ended, why = False, ""
        if not ended:
            self.stop.late = bool(why)
            self.stop.set()
            self.emit(Event("fleet", f"{why}stopping once every host can be left alone; again to stop at once", "note"))
        [done] = under_way.results().values()
        return tuple(done[name] for name in decided.lanes)

    def _heed_deadline(self) -> None:
        if self.deadline is not None and time.monotonic() >= self.deadline:
            self.stop.late = True
            self.stop.set()

    # ----------------------------------------------------------------------------------------------- builder

    def _take_over(
        self, decided: Plan, facts: Facts | None, ready: Mapping[str, tuple[Platform, ...]], name: str
    ) -> None:
        """Give what this node owns to others, as far as they run it; plain buildx sends nothing more there then."""
        if facts is None or not facts.builder.registered or decided.builder_blocked:
            return
        # Whoever stands by in the builder helps out, also where the run has nothing to do.
        counted = {*decided.lanes, *(node.name for node in facts.builder.nodes)}
        with self._registering:
            self._out.add(name)
            able = able_platforms(self.spec, facts, counted, ready)
            for other in self._out:
                if other not in ready:
                    able.pop(other, None)
            # A gateway would go on sending builds there.
            ways = replace(gateway.ways(self.spec, facts), waiting=True)
            steps, _ = builder_steps(self.spec, able, self.world.builder.read(self.spec.name), facts.vault, ways)
            for step in steps:
                self.world.builder.run(buildx.arguments(self.spec.name, step))

    def _register(
        self, facts: Facts, decided: Plan, ready: dict[str, tuple[Platform, ...]], new: Collection[str]
    ) -> Outcome:
        """The builder takes the nodes that are ready now, not those that the plan expected.

        `new`: the hosts with a gateway that was made what it is wanted to be.
        """
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
        # Nodes may have been drained in between.
        builder = self.world.builder.read(self.spec.name) if facts.builder.registered else facts.builder
        seen = replace(seen, gates=self._through_gateways(able, facts))
        ways = gateway.ways(self.spec, seen, new=new)
        done = self.register(*builder_steps(self.spec, able, builder, facts.vault, ways))
        return replace(done, warning=gateway.closed(self.spec, able, ways, seen))

    def _through_gateways(
        self, able: Mapping[str, tuple[Platform, ...]], facts: Facts
    ) -> dict[tuple[str, str], ApiFacts | Down]:
        """What answers behind the gateways: they find out for themselves that a node is there, or is not any more."""
        needed = gateway.needed(self.spec, able)
        ways = {key: gate for key, gate in gates(self.spec).items() if key[1] in needed}
        deadline = time.monotonic() + GATEWAY_TIMEOUT
        while True:
            asked = {key: partial(self.world.prober.probe, gate, timeout=PROBE_TIMEOUT) for key, gate in ways.items()}
            answers = gather(asked)
            known = gateway.ways(self.spec, replace(facts, gates=answers))
            if needed <= known.open.keys() or time.monotonic() > deadline:
                return answers
            time.sleep(act.LOOK_EVERY)

    def register(self, steps: tuple[buildx.Step, ...], blocked: Down | None) -> Outcome:
        """Carry out the steps of `plan.builder_steps`, and see that buildx has stored what they say."""
        if blocked:
            self.emit(Event("builder", f"{blocked.reason}", "failed"))
            return Outcome("builder", Result.BLOCKED, failure=blocked)
        if not steps:
            return Outcome("builder", Result.UNCHANGED)
        started = time.monotonic()
        try:
            before = self.world.builder.read(self.spec.name).nodes
            for step in steps:
                self.emit(Event("builder", str(step)))
                self.world.builder.run(buildx.arguments(self.spec.name, step))
            self._verify(before, steps)
        except BuilderError as error:
            failure = Down(Stage.BUILDER, error.message, error.remedy)
            self.emit(Event("builder", error.message, "failed"))
            return Outcome("builder", Result.FAILED, time.monotonic() - started, failure)
        self.emit(Event("builder", "done", "done"))
        return Outcome("builder", Result.DONE, time.monotonic() - started)

    def _verify(self, before: Sequence[BuilderNode], steps: tuple[buildx.Step, ...]) -> None:
        """A failed `create` of buildx may rewrite other nodes: trust only what it has stored."""
        stored = {node.name: node for node in self.world.builder.read(self.spec.name).nodes}
        try:
            wanted = buildx.after(before, steps)
        except ValueError as error:
            raise BuilderError(f"the builder was changed meanwhile: {error}", "run fleet up again") from error
        for node in wanted:
            if not buildx.same(stored.get(node.name), node):
                raise BuilderError(f"buildx did not store node {node.name} as it was asked to", "run fleet up again")


def _warned(outcomes: Iterable[Outcome], missing: Mapping[str, Down]) -> tuple[Outcome, ...]:
    """The outcomes, with what could not be noted on the hosts."""
    return tuple(replace(one, warning=one.warning or missing.get(one.subject)) for one in outcomes)


def _in_turn(
    run: Mapping[str, Callable[[], Outcome]], lanes: Mapping[str, Lane], parallel: int, stop: threading.Event
) -> dict[str, Outcome]:
    """What disturbs no builds first, side by side, as it may bring those that take over; then the others by turns.

    At most `parallel` nodes of an architecture at a time, never all of them, and the very first alone; no turn is begun
    once a successor has failed.
    """
    done = gather({name: run[name] for name, lane in lanes.items() if not lane.turn})
    turns: dict[str, list[str]] = {}
    for name, lane in lanes.items():
        if lane.turn:
            turns.setdefault(lane.turn, []).append(name)
    failed = [name for name, outcome in done.items() if outcome.result is Result.FAILED and lanes[name].undo]

    def one(name: str) -> Outcome:
        if failed and not stop.is_set():
            why = Down(Stage.CONTAINER, f"not begun, as {failed[0]} failed", f"mend {failed[0]}, then fleet up")
            return Outcome(name, Result.BLOCKED, failure=why)
        outcome = run[name]()
        if not outcome.ok:
            failed.append(name)
        return outcome

    def in_order(names: Sequence[str]) -> dict[str, Outcome]:
        return {name: one(name) for name in names}

    if turns:
        canary = next(iter(turns.values()))[0]
        done[canary] = one(canary)
        queues: list[list[str]] = []
        for names in turns.values():
            width = max(min(parallel, len(names) - 1), 1)
            left = [name for name in names if name != canary]
            queues += (left[start::width] for start in range(width))
        rest = gather({names[0]: partial(in_order, names) for names in queues if names})
        for outcomes in rest.values():
            done |= outcomes
    return done
