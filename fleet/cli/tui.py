"""`fleet tui`: the dashboard, with the world put behind it."""

from __future__ import annotations

import gc
import os
import queue
import signal
import sys
import threading
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING

from fleet.cli.world import load_any, world_of
from fleet.errors import HostError, UsageError
from fleet.model.facts import Down, Stage
from fleet.model.spec import Connection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from fleet.applying.history import Entry
    from fleet.applying.report import Event
    from fleet.builds import BuildRecord, Step, Written
    from fleet.logs import Line
    from fleet.model.snapshot import Snapshot
    from fleet.model.spec import FleetSpec
    from fleet.observing.building import Told
    from fleet.observing.recording import Recorder
    from fleet.observing.watch import Watch
    from fleet.parallel import Stop
    from fleet.ports import World
    from tui.outside import Deed, Outside, Watching

TAIL = 200
"""Lines of each node with which a log begins."""


def tui(inventory: Path, *, read_only: bool, bell: bool, record: Path | None) -> int:
    """`fleet tui`."""
    _refuse_pipes()
    spec = load_any(inventory)
    with ExitStack() as stack:
        put = outside(spec)
        if _is_a_page():
            put = replace(put, shell=None)
        if record:
            from fleet.observing.recording import Recorder

            put = taped(put, stack.enter_context(Recorder(record, spec)))
        return show(put, read_only=read_only, bell=bell)


def replay(path: Path) -> int:
    """`fleet tui --replay`: neither an inventory nor a fleet is needed for it."""
    _refuse_pipes()
    from fleet.observing.recording import Recording, Replay
    from tui.outside import Outside

    recording = Recording.open(path)
    shown = Replay(recording)
    put = Outside(
        recording.spec,
        lambda: nullcontext(shown),
        lambda: shown.now or datetime.now(UTC),
        sign=lambda: shown.sign,
        player=shown,
    )
    return show(put, read_only=True, bell=False)


def _refuse_pipes() -> None:
    # It draws on stderr.
    if not _is_a_page() and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("fleet tui needs a terminal", "fleet status, or fleet status --watch")


def _is_a_page() -> bool:
    """Whether `fleet tui --web` has begun this, for a browser."""
    return "TEXTUAL_DRIVER" in os.environ


def show(put: Outside, *, read_only: bool = False, bell: bool = False) -> int:
    """Until it is left, and what changes nodes has ended; its exit code."""
    if _is_a_page():
        # Ctrl-C is for what serves it; here it would end programs that a change runs.
        with suppress(PermissionError):
            os.setsid()
    # A key's answer takes two frames; Textual reads it when it is imported.
    os.environ.setdefault("TEXTUAL_FPS", "240")
    from tui.app import Dashboard

    # Looking for garbage among all that was imported takes longer than a key may.
    gc.freeze()
    gc.set_threshold(5000, 20, 20)
    # Seconds that the threads which ask the nodes may keep the screens from going on.
    sys.setswitchinterval(0.0005)
    app = Dashboard(put, read_only=read_only, bell=bell)

    def leave(number: int, _: object) -> None:
        if not os.isatty(2):
            app.end_changes()
            # Textual's threads would wait for the terminal that is gone.
            os._exit(128 + number)
        if not app.changing:
            # Who asks twice gets it at once.
            signal.signal(number, signal.SIG_DFL)
        app.later(lambda code: app.exit(return_code=code), 128 + number)

    # By itself Python would end without giving the terminal back.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    try:
        app.run()
    finally:
        app.end_watching()
        if (changing := app.changing) and os.isatty(2):
            print(f"{', '.join(changing)}: to be finished; ctrl-C leaves it half done", file=sys.stderr)
        app.end_changes()
    return app.return_code or 0


def taped(put: Outside, recorder: Recorder) -> Outside:
    """The same, each Snapshot being recorded before it is shown."""

    @contextmanager
    def watch() -> Iterator[Watching]:
        with put.watch() as watching:
            yield _Taped(watching, recorder)

    return replace(put, watch=watch, sign=lambda: "● recording")


class _Taped:
    def __init__(self, watching: Watching, recorder: Recorder) -> None:
        self._watching = watching
        self._recorder: Recorder | Down = recorder
        self.hurry, self.stop = watching.hurry, watching.stop

    def snapshots(self) -> Iterator[Snapshot]:
        """A recording that fails is told, and the watching goes on."""
        for snapshot in self._watching.snapshots():
            if not isinstance(self._recorder, Down):
                try:
                    self._recorder.write(snapshot)
                except OSError as error:
                    self._recorder = Down(Stage.BUILDER, f"nothing is recorded any more: {error.strerror}")
            failed = (self._recorder,) if isinstance(self._recorder, Down) else ()
            yield replace(snapshot, problems=(*failed, *snapshot.problems))


def outside(spec: FleetSpec) -> Outside:
    """What the dashboard may do here: on a machine that has joined, nothing that takes the operator."""
    from tui.outside import Outside

    world = _World(spec)
    member = Outside(
        spec,
        world.watch,
        lambda: datetime.now(UTC),
        deeds={"prune": partial(_deed, spec, "prune")},
        builds=world.builds,
        build=world.build,
    )
    if spec.joined:
        return member
    words = ("up", "drain", "resume", "restart", "prune")
    deeds: Mapping[str, Deed] = {word: partial(_deed, spec, word) for word in words}
    return replace(
        member,
        deeds=deeds,
        logs=partial(_logs, spec),
        history=partial(_history, spec),
        shell=partial(_shell, spec),
    )


class _World:
    """Made when the first screen stands: SSH and gRPC take their time to import."""

    def __init__(self, spec: FleetSpec) -> None:
        self._spec = spec
        self._guard = threading.Lock()

    @cached_property
    def _watched(self) -> World:
        return world_of(self._spec, certificates=True, keep=True)

    @property
    def _world(self) -> World:
        """One for all, so that what is built is told over the connections that are kept."""
        with self._guard:
            return self._watched

    @contextmanager
    def watch(self) -> Iterator[Watch]:
        from fleet.observing.watch import Watch

        with Watch(self._spec, self._world) as watch:
            yield watch

    def builds(self, nodes: Sequence[str], stop: Stop) -> Iterator[Told]:
        from fleet.adapters.builder import configuration
        from fleet.adapters.remembered_builds import context_of
        from fleet.cli.build import OWN_BUILDERS
        from fleet.cli.world import entitled
        from fleet.observing.building import follow

        memory = (configuration(), entitled(self._spec).directory / OWN_BUILDERS)
        hosts = [self._spec.host(name) for name in nodes]
        contexts: dict[str, str | None] = {}
        for node, said in follow(hosts, self._world.prober, stop, steps=True):
            if isinstance(said, Down | None):
                yield node, said
                continue
            # buildx notes what it asks for while that runs, and forgets nothing.
            if contexts.get(said.ref) is None and not (said.ref in contexts and said.completed):
                contexts[said.ref] = context_of(said.ref, memory)
            context = contexts[said.ref]
            yield node, said if context is None else said.known_here(context)

    def build(self, node: str, ref: str, stop: Stop) -> Iterator[BuildRecord | Step | Written]:
        return self._world.prober.build(self._spec.host(node), ref, stop)


def _deed(spec: FleetSpec, word: str, nodes: Sequence[str], tell: Callable[[Event], None]) -> Sequence[str]:
    from fleet.cli.deeds import Deeds

    deed: Deed = getattr(Deeds(spec, lambda: world_of(spec)), word)
    return deed(nodes, tell)


def _shell(spec: FleetSpec, node: str) -> Sequence[str]:
    from fleet.cli.login import local_argv, ssh_argv

    host = spec.host(node)
    return local_argv() if host.connection is Connection.LOCAL else ssh_argv(host)


def _history(spec: FleetSpec, node: str) -> Sequence[Entry]:
    from fleet.applying.record import histories
    from fleet.observing.observe import Connections

    with Connections(world_of(spec).connect) as connections:
        found = histories(spec.name, [spec.host(node)], connections)[node]
    if isinstance(found, Down):
        raise HostError(found.stage, found.reason, found.remedy)
    return found.entries


def _logs(spec: FleetSpec, nodes: Sequence[str], stop: Stop) -> Iterator[tuple[str, Line | Down | None]]:
    """Lines of these nodes as they come; a node that cannot be asked says why, and does not stop the others."""
    from fleet.cli.logs import AHEAD, open_log, pass_on
    from fleet.observing.observe import Connections

    arriving: queue.Queue[tuple[str, Line | Down | None]] = queue.Queue(AHEAD)
    with Connections(world_of(spec).connect) as connections:

        def read(name: str) -> None:
            stream = open_log(spec, spec.host(name), connections, since=None, tail=TAIL, follow=True)
            if isinstance(stream, Down):
                arriving.put((name, stream))
            else:
                pass_on(name, stream, arriving)

        for name in nodes:
            threading.Thread(target=read, args=(name,), daemon=True).start()
        while not stop.is_set():
            try:
                yield arriving.get(timeout=0.2)
            except queue.Empty:
                continue
