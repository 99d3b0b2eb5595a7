"""Carry out one host's lane: its actions in order, and what brings the former daemon back when one fails."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from certs.certificate import describe
from fleet import notes
from fleet.actions import (
    GRACE,
    AwaitIdle,
    AwaitReady,
    CreateDaemon,
    Drain,
    PullImage,
    PutBack,
    RemoveDaemon,
    RemoveImage,
    RemoveVolume,
    Resume,
    SetAside,
    StartDaemon,
)
from fleet.daemon import aside, in_use, last_words
from fleet.errors import BuilderError, EngineError, FleetError, HostError
from fleet.health import at_rest, not_native
from fleet.model import ApiFacts, Down, HostFacts, Stage, object_name
from fleet.report import Event, Outcome, Result
from fleet.route import native_platforms

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from fleet.actions import LaneAction
    from fleet.lane import Lane
    from fleet.model import Facts, FleetSpec, HostSpec, Platform
    from fleet.observe import Connections
    from fleet.ports import Engine, World

READY_TIMEOUT = 90.0
"""Seconds from start to the first answer: an emulated or loaded host takes tens of seconds."""

REFUSAL_TIMEOUT = 10.0
"""Seconds after which a certificate that is refused all the time will not be accepted any more."""

LOOK_TIMEOUT = 5.0
"""Seconds that a daemon has to answer when it is asked again and again."""

ANSWER_TIMEOUT = 30.0
"""Seconds that it has when it is asked once: an emulated host that builds is slow to answer."""

SETTLING = 2.0
"""Seconds from draining to the first look: a build that was sent here just before has begun by then."""

LOOK_EVERY = 0.2
"""Seconds between two looks at a daemon."""

FREEZES = 10
"""How often Docker may fail to freeze a daemon."""


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
    take_over: Callable[[str], None]
    """Gives what a node owns to the others, as far as they run it."""
    stop: threading.Event
    """Set when the run is to end as soon as every host is fit to be left alone."""

    def run(self, host: HostSpec, lane: Lane) -> Outcome:
        """Carry out one lane; whatever happens, the outcome says it."""
        if lane.blocked:
            self.emit(Event(host.name, f"{lane.blocked.stage}: {lane.blocked.reason}", "failed"))
            return Outcome(host.name, Result.BLOCKED, failure=lane.blocked)
        started = time.monotonic()
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
                self.emit(Event(host.name, str(action)))
                self._act(host, action)
                if isinstance(action, AwaitReady):
                    back = ()
        except Exception as error:  # a lane ends alone, whatever it was
            result = Result.STOPPED if isinstance(error, _StoppedError) else Result.FAILED
            failure = self._brought_back(host, back, _failure(error))
            self.emit(Event(host.name, f"{failure.stage}: {failure.reason}", "failed"))
            return Outcome(host.name, result, time.monotonic() - started, failure)
        result = Result.DONE if lane.actions else Result.UNCHANGED
        self.emit(Event(host.name, "done" if lane.actions else "nothing to do", "done"))
        return Outcome(host.name, result, time.monotonic() - started, warning=lane.warning)

    def _brought_back(self, host: HostSpec, back: tuple[LaneAction, ...], failure: Down) -> Down:
        """The failure, and what became of the daemon that was there before."""
        replaced = any(isinstance(action, PutBack) for action in back)
        try:
            for action in back:
                self.emit(Event(host.name, str(action)))
                self._act(host, action)
        except Exception as error:  # told beside the failure that led here
            again = _failure(error)
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
            case Drain():
                noted = notes.drain(self._answer(host))
                if noted is None or noted.passing:
                    drained = notes.Drain(self.world.operator, self.world.now(), passing=True)
                    self.world.prober.note(host, notes.DRAIN, drained.text())
            case AwaitIdle():
                self.take_over(host.name)
                self._await_idle(host, settling=SETTLING)
            case SetAside(container, name, grace):
                self._stop_unused(host, engine, container, grace)
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
                engine.create(wanted, describe(credential.certificate), wanted.files(credential, trust))
            case StartDaemon(name):
                engine.start(name)
            case AwaitReady():
                self._await_ready(host, engine)
            case RemoveVolume(name):
                engine.remove_volume(name)
            case RemoveImage(reference, mark):
                engine.remove_image(reference, mark)

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
        for daemon in engine.survey(self.spec.name).daemons:
            if daemon.name == name and daemon.id != container:
                engine.remove(daemon.id, grace=0)

    def _stop_unused(self, host: HostSpec, engine: Engine, container: str, grace: int) -> None:
        """Stop a daemon at a moment when no client is connected, not even one whose build has not begun.

        Told to end, BuildKit finishes what it was asked, but a build that has just begun has more to ask. Frozen, it
        lets nobody in who would be turned away a moment later: buildx knocks again, and finds the successor.
        """

        def connected(process: int) -> bool:
            tables = (f"/proc/{process}/net/tcp", f"/proc/{process}/net/tcp6")
            return in_use(self.connections.get(host).run(("cat", *tables)).stdout)

        begun, tries = time.monotonic(), FREEZES
        while tries and time.monotonic() - begun < GRACE:
            try:
                if engine.kill_unless(container, connected):
                    return
            except EngineError:  # one that waits for its disk cannot be frozen, and some kernels freeze nobody
                tries -= 1
            self._await_idle(host, settling=0)
        engine.stop(container, grace=grace)

    def _await_idle(self, host: HostSpec, *, settling: float) -> None:
        """Until no build runs there, or the grace is over: what still runs then has the same time once more."""
        begun, told = time.monotonic(), None
        while (waited := time.monotonic() - begun) < GRACE:
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
        since = time.monotonic()
        deadline = since + READY_TIMEOUT
        same: tuple[Stage, str] | None = None
        while True:
            api = self.world.prober.probe(host, timeout=LOOK_TIMEOUT)
            if isinstance(api, ApiFacts):
                if not (platforms := native_platforms(host, api, found)):
                    problem = not_native(host, api, found, platforms) or Down(Stage.NATIVE, "nothing is native")
                    raise HostError(problem.stage, problem.reason, problem.remedy)
                if (drain := notes.drain(api)) is None or drain.passing:
                    self.ready[host.name] = platforms
                return
            self._refuse_crashed(host, engine)
            since = since if (why := (api.stage, api.reason)) == same else time.monotonic()
            same = why
            settled = api.stage is Stage.TLS and not api.late and time.monotonic() - since > REFUSAL_TIMEOUT
            if settled or time.monotonic() > deadline:
                raise HostError(api.stage, api.reason, api.remedy)
            time.sleep(LOOK_EVERY)

    def _refuse_crashed(self, host: HostSpec, engine: Engine) -> None:
        name = object_name(self.spec.name, host.name)
        for daemon in engine.survey(self.spec.name).daemons:
            if daemon.name == name and daemon.state in _CRASHED:
                last = last_words(engine.logs(daemon.id, tail=60))
                raise HostError(
                    Stage.CONTAINER,
                    f"{daemon.name} does not stay up ({daemon.detail}); its last lines:\n{last}",
                    f"correct buildkit.config or the image; see docker logs {daemon.name} on the host",
                )


_CRASHED = frozenset({"restarting", "exited", "dead"})


def _failure(error: Exception) -> Down:
    match error:
        case _StoppedError():
            return Down(Stage.CONTAINER, f"stopped before: {error}", "fleet up goes on from there")
        case HostError():
            return Down(error.stage, error.message, error.remedy)
        case BuilderError():
            return Down(Stage.BUILDER, error.message, error.remedy)
        case FleetError():
            return Down(Stage.CONTAINER, error.message, error.remedy)
        case _:
            return Down(
                Stage.CONTAINER, f"a bug of fleet: {type(error).__name__}: {error}", "report it, with this line"
            )
