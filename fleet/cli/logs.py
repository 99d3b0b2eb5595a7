"""`fleet logs`: what the daemons of several nodes wrote, as one log."""

from __future__ import annotations

import json
import queue
import re
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import click

from fleet.cli import output
from fleet.cli.progress import progress
from fleet.cli.world import chosen, load, world_of
from fleet.errors import HostError, UsageError
from fleet.logs import Line, Window, merged
from fleet.model.facts import Down
from fleet.model.spec import object_name
from fleet.parallel import HEED, gather
from fleet.quantities import parse_moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from fleet.model.spec import FleetSpec, HostSpec
    from fleet.observing.observe import Connections

HOLD = 0.3
"""Seconds for which a line that is followed may be overtaken by an earlier one of another node."""

AHEAD = 10_000
"""Lines that are read ahead of a terminal or pipe that is slow."""

_COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "bright_cyan", "bright_yellow", "bright_green")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
"""What could move a terminal's cursor or worse: builds have a say in what a daemon logs."""


def logs(
    inventory: Path,
    nodes: Sequence[str],
    *,
    follow: bool,
    since: str | None,
    tail: int | None,
    as_json: bool,
    verbose: bool,
) -> int:
    """`fleet logs`; interrupting what is followed is its regular end."""
    from fleet.observing.observe import Connections

    spec = load(inventory, nodes)
    world = world_of(spec)
    try:
        begin = parse_moment(since, world.now()) if since else None
    except ValueError as error:
        raise UsageError(f"--since: {error}") from error
    hosts = chosen(spec, nodes)
    with Connections(world.connect) as connections:
        with progress(verbose=verbose) as show:
            show.waiting("asking the hosts")
            opened = gather(
                {
                    host.name: partial(open_log, spec, host, connections, since=begin, tail=tail, follow=follow)
                    for host in hosts
                }
            )
        run = Run(_print_json if as_json else _painter(opened))
        for name, found in opened.items():
            if isinstance(found, Down):
                run.failed(name, found)
        streams = {name: found for name, found in opened.items() if not isinstance(found, Down)}
        if follow:
            run.follow(streams)
        else:
            run.finish(streams)
    return output.exit_code(name not in run.failures for name in opened)


def open_log(
    spec: FleetSpec,
    host: HostSpec,
    connections: Connections,
    *,
    since: datetime | None,
    tail: int | None,
    follow: bool,
) -> Iterator[Line] | Down:
    """The log of a node's daemon, or why it cannot be read."""
    try:
        engine = connections.get(host).engine()
        return engine.log_stream(object_name(spec.name, host.name), since=since, tail=tail, follow=follow)
    except HostError as error:
        return _down(error)


class Run:
    """Shows the lines of several streams; a stream that fails is told, and does not stop the others."""

    def __init__(self, show: Callable[[str, Line], None]) -> None:
        self._show = show
        self.failures: set[str] = set()

    def failed(self, name: str, why: Down) -> None:
        """Tell that of this node nothing more will be seen."""
        self.failures.add(name)
        output.complain(name, why)

    def finish(self, streams: Mapping[str, Iterator[Line]]) -> None:
        """Show each to its end."""
        for name, line in merged({name: self._guarded(name, stream) for name, stream in streams.items()}):
            self._show(name, line)

    def _guarded(self, name: str, stream: Iterator[Line]) -> Iterator[Line]:
        try:
            yield from stream
        except HostError as error:
            self.failed(name, _down(error))

    def follow(self, streams: Mapping[str, Iterator[Line]]) -> None:
        """Show all as they are written, to the end of the last, or until interrupted."""
        arriving: queue.Queue[tuple[str, Line | Down | None]] = queue.Queue(AHEAD)
        for name, stream in streams.items():
            threading.Thread(target=pass_on, args=(name, stream, arriving), daemon=True).start()
        window, left = Window(HOLD), set(streams)
        try:
            while left:
                due = window.wait(time.monotonic())
                with suppress(queue.Empty):
                    name, said = arriving.get(timeout=HEED if due is None else min(due, HEED))
                    if isinstance(said, Line):
                        window.add(name, said, time.monotonic())
                    else:
                        left.discard(name)
                        self._all(window.due())
                        self._ended(name, said)
                self._all(window.due(time.monotonic()))
        except KeyboardInterrupt:
            self._all(window.due())

    def _all(self, due: Iterator[tuple[str, Line]]) -> None:
        for name, line in due:
            self._show(name, line)

    def _ended(self, name: str, why: Down | None) -> None:
        if why:
            self.failed(name, why)
        else:
            click.echo(f"{name}: its log has ended: the daemon has stopped", err=True)


def pass_on(name: str, stream: Iterator[Line], arriving: queue.Queue[tuple[str, Line | Down | None]]) -> None:
    """Pass a stream on, and how it ended: None, as it should."""
    ended = None
    try:
        for line in stream:
            arriving.put((name, line))
    except HostError as error:
        ended = _down(error)
    arriving.put((name, ended))


def _down(error: HostError) -> Down:
    return Down(error.stage, error.message, error.remedy)


def _painter(names: Sequence[str] | Mapping[str, object]) -> Callable[[str, Line], None]:
    width = max(map(len, names))
    colours = {name: _COLOURS[at % len(_COLOURS)] for at, name in enumerate(names)}

    def show(name: str, line: Line) -> None:
        click.echo(f"{click.style(f'{name:<{width}} |', fg=colours[name])} {_CONTROL.sub('�', line.text)}")

    return show


def _print_json(name: str, line: Line) -> None:
    click.echo(json.dumps({"node": name, "time": line.at.isoformat(), "line": line.text}))
