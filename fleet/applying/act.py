"""Carry out one host's lane: its actions in order, and what brings the former daemon back when one fails."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from certs.certificate import describe, split_pem
from fleet import notes
from fleet.applying import history
from fleet.applying.report import Event, Outcome, Result
from fleet.check.ground import Reach
from fleet.containers.daemon import aside, in_use, last_words
from fleet.errors import BuilderError, EngineError, FleetError, HostError
from fleet.health import at_rest, not_native, short_of_space
from fleet.model.facts import ApiFacts, Down, HostFacts, Stage
from fleet.model.spec import object_name
from fleet.observing.observe import observe_host
from fleet.parallel import Gathering
from fleet.planning.actions import (
    AwaitGateway,
    AwaitIdle,
    AwaitReady,
    CreateDaemon,
    CreateGateway,
    Drain,
    ForgetHistory,
    PullImage,
    PutBack,
    RemoveDaemon,
    RemoveGateway,
    RemoveImage,
    RemoveVolume,
    Resume,
    SendImage,
    SetAside,
    StartDaemon,
    StepAside,
)
from fleet.quantities import size
from fleet.route import native_platforms

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fleet.applying.record import Recorder
    from fleet.containers.daemon import DaemonSpec
    from fleet.model.facts import Facts
    from fleet.model.platforms import Platform
    from fleet.model.spec import FleetSpec, HostSpec
    from fleet.observing.observe import Connections
    from fleet.planning.actions import GatewayAction, LaneAction
    from fleet.planning.lane import Lane
    from fleet.ports import Engine, World

READY_TIMEOUT = 90.0
"""Seconds from start to the first answer: an emulated or loaded host takes tens of seconds."""

REFUSAL_TIMEOUT = 10.0
"""Seconds after which a certificate that is refused all the time will not be accepted any more."""

CRASH_AFTER = 2.0
"""Seconds from start until Docker is asked whether it has crashed: answering slows down a daemon that is starting."""

LOOK_TIMEOUT = 5.0
"""Seconds that a daemon has to answer when it is asked again and again."""

ANSWER_TIMEOUT = 30.0
"""Seconds that it has when it is asked once: an emulated host that builds is slow to answer."""

SETTLING = 2.0
"""Seconds from draining to the first look: a build that was sent here just before has begun by then."""

STEADY = 1.0
"""Seconds that a gateway has to stay up: one that cannot have its ports, or read its configuration, ends at once."""

LOOK_EVERY = 0.2
"""Seconds between two looks at a daemon."""

LOOK_FIRST = 0.02
"""The same at first, where one that has just been started is waited for: most are there within half a second."""

ROOM_TIMEOUT = 5.0
"""Seconds to find out whether a failure was for want of room: until then the former daemon does not come back."""

FREEZES = 10
"""How often Docker may fail to freeze a daemon."""


class Stop(threading.Event):
    """Set when a run is to end as soon as every host is fit to be left alone."""

    late = False
    """Whether that is because its time is over, and not by an interrupt."""


class _StoppedError(Exception):
    """The run is to end, and this is a good moment."""


@dataclass(frozen=True, slots=True)
class Worker:
    """What the lanes of one run share."""

    spec: FleetSpec
    world: World
    connections: Connections
    emit: Callable[[Event], None]
    facts: Facts | None
    ready: dict[str, tuple[Platform, ...]]
    """What nodes have proved to run natively once their lanes were done; drained ones are left out."""
    answers: dict[str, tuple[float, ApiFacts]]
    """What daemons have said that were begun in this run, and when; of those that nobody has drained."""
    take_over: Callable[[str], None]
    """Gives what a node owns to the others, as far as they run it."""
    stop: Stop
    recorder: Recorder

    def run(self, host: HostSpec, lane: Lane) -> Outcome:
        """Carry out one lane; whatever happens, the outcome says it."""
        if lane.blocked:
            self.emit(Event(host.name, f"{lane.blocked.stage}: {lane.blocked.reason}", "failed"))
            return Outcome(host.name, Result.BLOCKED, failure=lane.blocked)
        began, started, taken = self.world.now(), time.monotonic(), list[str]()
        # With its daemon set aside, a host is not one to be left alone.
        begun = bool(lane.undo) and not any(isinstance(action, SetAside) for action in lane.actions)
        back = lane.undo if begun else ()
        try:
            for action in lane.actions:
                if self.stop.is_set() and not begun:
                    raise _StoppedError(str(action))
                match action:
                    case Drain(name):
                        back = (Resume(name),)
                    case SetAside():
                        back, begun = lane.undo, True
                    case StepAside(container, name):
                        back = (PutBack(container, name),)
                if not taken and not isinstance(action, ForgetHistory):
                    # Whoever is killed from here on has left word; the first action is not delayed by it.
                    self.recorder.begin(host, began, tuple(map(str, lane.actions)), Result.UNFINISHED)
                self._step(host, action, taken)
                self.recorder.settle(host)
                if isinstance(action, AwaitReady | AwaitGateway):
                    back = ()
        except Exception as error:  # a lane ends alone, whatever it was
            stopped = isinstance(error, _StoppedError)
            result, where = (Result.STOPPED, str(error)) if stopped else (Result.FAILED, str(action))
            failure = self._failure(error)
            if failure.stage in _NEEDS_ROOM and not stopped:
                failure = self._with_room(host, failure)
            failure = self._brought_back(host, back, failure, taken)
            if taken:
                self.recorder.begin(host, began, taken, result, where)
            self.emit(Event(host.name, f"{failure.stage}: {failure.reason}", "failed"))
            return Outcome(host.name, result, time.monotonic() - started, failure)
        if taken and not isinstance(action, ForgetHistory):
            self.recorder.begin(host, began, taken, Result.DONE)
        result = Result.DONE if taken else Result.UNCHANGED
        self.emit(Event(host.name, "done" if taken else "nothing to do", "done"))
        return Outcome(host.name, result, time.monotonic() - started, warning=lane.warning)

    def _with_room(self, host: HostSpec, failure: Down) -> Down:
        """The failure, with what to do about a disk that is short of space: Docker has many words for that."""
        looking = Gathering({host.name: partial(observe_host, self.spec, host, self.connections)})
        try:
            found = looking.results(timeout=ROOM_TIMEOUT).get(host.name)
        except Exception:
            return failure
        api = self.facts and self.facts.nodes[host.name].api
        cache = api.cache_bytes if isinstance(api, ApiFacts) else None
        short = short_of_space(host, found, cache) if isinstance(found, HostFacts) else None
        if short is None:
            return failure
        remedies = (failure.remedy, f"{short.reason}: {short.remedy}")
        return replace(failure, remedy="; ".join(filter(None, remedies)))

    def _step(self, host: HostSpec, action: LaneAction, taken: list[str]) -> None:
        self.emit(Event(host.name, str(action)))
        taken.append(str(action))
        self._act(host, action)

    def _brought_back(self, host: HostSpec, back: tuple[LaneAction, ...], failure: Down, taken: list[str]) -> Down:
        """The failure, and what became of the daemon that was there before."""
        replaced = any(isinstance(action, PutBack) for action in back)
        try:
            for action in back:
                self._step(host, action, taken)
        except Exception as error:  # told beside the failure that led here
            again = self._failure(error)
            stays = "the former daemon does not come back" if replaced else "builds are still kept away"
            ending = f"; and {stays} ({again.stage}: {again.reason})"
        else:
            ending = "; the former daemon is back" if replaced else ""
        return Down(failure.stage, failure.reason + ending, failure.remedy)

    def _act(self, host: HostSpec, action: LaneAction) -> None:
        engine = self.connections.get(host).engine()
        match action:
            case PullImage(reference, mark):
                engine.pull(reference, mark, lambda text: self.emit(Event(host.name, text, "note")))
            case SendImage(offer, mark):
                archive = self.world.registry.archive(offer, mark)
                engine.load(archive, offer, mark, self._telling(host, archive.size))
            case Drain():
                noted = notes.drain(self._answer(host))
                if noted is None or noted.passing:
                    drained = notes.Drain(self.world.operator, self.world.now(), passing=True)
                    self.world.prober.note(host, notes.DRAIN, drained.text())
            case AwaitIdle(_, _, patience):
                self.take_over(host.name)
                self._await_idle(host, patience, settling=SETTLING)
            case SetAside(container, name):
                self._stop_unused(host, engine, action)
                engine.rename(container, aside(name))
            case PutBack(container, name):
                self._make_way(engine, container, name)
                engine.rename(container, name)
                engine.start(container)
            case Resume():
                noted = notes.drain(self._answer(host))
                if noted and noted.passing:
                    self.world.prober.note(host, notes.DRAIN, None)
            case RemoveDaemon(container, _, grace):
                engine.remove(container, grace=grace)
            case CreateDaemon(wanted):
                credential, trust = self.world.vault.issue_node(host, wanted.names, self.world.now())
                files = wanted.files(credential, trust, self._contents(wanted))
                engine.create(wanted, describe(credential.certificate), files)
            case StartDaemon(name):
                engine.start(name)
            case AwaitReady():
                self._await_ready(host, engine)
            case StepAside() | CreateGateway() | AwaitGateway() | RemoveGateway():
                self._act_on_gateway(engine, action)
            case RemoveVolume(name):
                engine.remove_volume(name)
            case RemoveImage(reference, mark):
                engine.remove_image(reference, mark)
            case ForgetHistory(fleet):
                done = self.connections.get(host).run(history.forget(fleet))
                if done.status:
                    raise HostError(Stage.SSH, f"its history cannot be removed: {done.stderr.strip()}")

    def _telling(self, host: HostSpec, total: int) -> Callable[[int], None]:
        """Tells of every tenth of what is sent."""
        told = 0

        def progress(sent: int) -> None:
            nonlocal told
            if (tenths := sent * 10 // total) > told:
                told = tenths
                self.emit(Event(host.name, f"sent {size(sent)} of {size(total)}", "note"))

        return progress

    def _contents(self, wanted: DaemonSpec) -> dict[str, bytes]:
        try:
            return {file.source: self.world.read_file(file.source) for file in wanted.delivered}
        except OSError as error:
            remedy = "correct buildkit.config.registry"
            raise HostError(Stage.CONTAINER, f"{error.filename}: {error.strerror}", remedy) from error

    def _answer(self, host: HostSpec) -> ApiFacts:
        """What the daemon says, its notes included; raises HostError."""
        api = self.world.prober.probe(host, timeout=ANSWER_TIMEOUT)
        if isinstance(api, Down):
            raise HostError(api.stage, api.reason, api.remedy)
        if api.notes is None:
            raise HostError(Stage.API, f"{host.endpoint} does not say who has drained it", "fleet status")
        return api

    def _make_way(self, engine: Engine, container: str, name: str) -> None:
        """Remove what has taken the place of a daemon that is put back; it has not proved itself."""
        found = engine.survey(self.spec.name)
        for daemon in (*found.daemons, *found.proxies):
            if daemon.name == name and daemon.id != container:
                engine.remove(daemon.id, grace=0)

    def _stop_unused(self, host: HostSpec, engine: Engine, wanted: SetAside) -> None:
        """Stop a daemon at a moment when no client is connected, not even one whose build has not begun.

        Told to end, BuildKit finishes what it was asked, but a build that has just begun has more to ask. Frozen, it
        lets nobody in who would be turned away a moment later: buildx knocks again, and finds the successor.
        """

        def connected(process: int) -> bool:
            tables = (f"/proc/{process}/net/tcp", f"/proc/{process}/net/tcp6")
            return in_use(self.connections.get(host).run(("cat", *tables)).stdout)

        begun, tries = time.monotonic(), FREEZES
        while tries:
            try:
                if engine.kill_unless(wanted.container, connected):
                    return
            except EngineError:  # one that waits for its disk cannot be frozen, and some kernels freeze nobody
                tries -= 1
            if time.monotonic() - begun >= wanted.patience:
                break
            self._await_idle(host, wanted.patience, settling=0)
        engine.stop(wanted.container, grace=wanted.grace)

    def _await_idle(self, host: HostSpec, patience: float, *, settling: float) -> None:
        """Until no build runs there, or the patience is over: what still runs then has the same time once more."""
        begun, told = time.monotonic(), None
        while (waited := time.monotonic() - begun) < patience:
            if self.stop.wait(LOOK_EVERY):
                raise _StoppedError("its daemon is replaced")
            if waited < settling:
                continue
            api = self.world.prober.probe(host, timeout=LOOK_TIMEOUT)
            if at_rest(api):
                return
            running = api.active_builds if isinstance(api, ApiFacts) else None
            if running and running != told:
                told = running
                builds = "1 build" if running == 1 else f"{running} builds"
                self.emit(Event(host.name, f"waiting for {builds} to end", "note"))

    def _await_ready(self, host: HostSpec, engine: Engine) -> None:
        """Until the daemon proves to run something natively; raises HostError when it does not get there."""
        found = self.facts.nodes[host.name].host if self.facts else None
        found = found if isinstance(found, HostFacts) else None
        begun = since = time.monotonic()
        same: tuple[Stage, str] | None = None
        pause = LOOK_FIRST
        while True:
            api = self.world.prober.probe(host, timeout=LOOK_TIMEOUT)
            if isinstance(api, ApiFacts):
                if not (platforms := native_platforms(host, api, found)):
                    problem = not_native(host, api, found, platforms) or Down(Stage.NATIVE, "nothing is native")
                    raise HostError(problem.stage, problem.reason, problem.remedy)
                drain = notes.drain(api)
                if drain is None and api.notes is not None:
                    self.answers[host.name] = time.monotonic(), api
                if drain is None or drain.passing:
                    self.ready[host.name] = platforms
                return
            now = time.monotonic()
            over = now - begun > READY_TIMEOUT
            if over or now - begun > CRASH_AFTER:
                name = object_name(self.spec.name, host.name)
                anew = f"if its cache is damaged: fleet down --volumes --host {host.name}, fleet up"
                self._refuse_crashed(engine, name, f"correct buildkit.config or the image; {anew}")
            since = since if (why := (api.stage, api.reason)) == same else now
            same = why
            if over or (api.stage is Stage.TLS and not api.late and now - since > REFUSAL_TIMEOUT):
                raise HostError(api.stage, api.reason, api.remedy)
            time.sleep(pause)
            pause = min(1.5 * pause, LOOK_EVERY)

    def _act_on_gateway(self, engine: Engine, action: GatewayAction) -> None:
        match action:
            case StepAside(container, name):
                engine.rename(container, aside(name))
            case CreateGateway(wanted):
                engine.create_proxy(wanted, wanted.files(self._gateway_trust()))
            case AwaitGateway(name, gates):
                self._await_gateway(engine, name, gates)
            case RemoveGateway(container, _, grace):
                engine.remove(container, grace=grace)

    def _gateway_trust(self) -> bytes:
        """The CAs that this machine trusts, and the issuers of one that the inventory names: HAProxy wants a root."""
        given = (self.spec.tls.ca.cert,) if self.spec.tls.ca else ()
        files = (self.world.vault.client_files["cacert"], *given)
        return b"".join(dict.fromkeys(one for file in files for one in split_pem(self.world.read_file(file))))

    def _await_gateway(self, engine: Engine, name: str, gates: Sequence[HostSpec]) -> None:
        """Until it has stayed up for a while and its ports can be reached; raises HostError when it does not get there.

        Its predecessor may have the ports as well: that they answer says nothing of whether it has started.
        """
        since = time.monotonic()
        while True:
            self._refuse_crashed(engine, name, "is something else at its ports? else correct gateway.image")
            silent = [gate for gate in gates if self.world.prober.reach(gate, timeout=LOOK_TIMEOUT) is not Reach.OPEN]
            steady = time.monotonic() - since
            if not silent and steady > STEADY:
                return
            if steady > REFUSAL_TIMEOUT:
                where = ", ".join(gate.endpoint for gate in silent)
                why = f"{name} is up, but {where} cannot be reached from here"
                raise HostError(Stage.TCP, why, "open these ports in the firewalls before and on its host")
            time.sleep(LOOK_EVERY)

    def _refuse_crashed(self, engine: Engine, name: str, remedy: str) -> None:
        found = engine.survey(self.spec.name)
        for daemon in (*found.daemons, *found.proxies):
            if daemon.name == name and daemon.state in _CRASHED:
                # What it wrote reaches Docker's log a moment later than its end is known.
                time.sleep(LOOK_EVERY)
                last = last_words(engine.logs(daemon.id, tail=60))
                raise HostError(
                    Stage.CONTAINER,
                    f"{daemon.name} does not stay up ({daemon.detail}); its last lines:\n{last}",
                    f"{remedy}; see docker logs {daemon.name} on the host",
                )

    def _failure(self, error: Exception) -> Down:
        match error:
            case _StoppedError():
                why = "the time was over, " if self.stop.late else ""
                return Down(Stage.CONTAINER, f"{why}stopped before: {error}", "fleet up goes on from there")
            case HostError():
                return Down(error.stage, error.message, error.remedy)
            case BuilderError():
                return Down(Stage.BUILDER, error.message, error.remedy)
            case FleetError():
                return Down(Stage.CONTAINER, error.message, error.remedy)
            case _:
                bug = f"a bug of fleet: {type(error).__name__}: {error}"
                return Down(Stage.CONTAINER, bug, "report it, with this line")


_NEEDS_ROOM = frozenset({Stage.IMAGE, Stage.CONTAINER, Stage.TCP, Stage.TLS, Stage.API})
"""Where a full disk may be behind a failure."""

_CRASHED = frozenset({"restarting", "exited", "dead"})
