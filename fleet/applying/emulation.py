"""Binfmt handlers of hosts: with them a kernel runs other machines' programs through QEMU, slowly.

They come and go by an image that knows QEMU for all architectures, run once and privileged; no file of it stays on the
host, and the handlers last until it restarts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from fleet.errors import HostError, UsageError
from fleet.model.facts import Down, HostFacts, Image, Stage
from fleet.model.platforms import ARCHITECTURES, Platform
from fleet.model.spec import pull_mark
from fleet.observing.observe import observe_host
from fleet.parallel import gather

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fleet.model.spec import FleetSpec, HostSpec
    from fleet.observing.observe import Connections

IMAGE = "tonistiigi/binfmt:latest"
"""Docker's own way: it installs and removes handlers, and has the emulators in it."""

RUN_TIMEOUT = 120
"""Seconds for it to do so."""

INSTALL, REMOVE = "install", "remove"


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be done on one host: architectures as platforms name them; none: all."""

    verb: str
    architectures: tuple[str, ...]
    image: str = IMAGE

    def __str__(self) -> str:
        listed = ", ".join(self.architectures) or "every architecture"
        return f"{self.verb} {'handlers' if len(self.architectures) != 1 else 'the handler'} for {listed}"

    def arguments(self, handled: Sequence[str]) -> tuple[str, ...]:
        """Of the image, on a host with handlers for `handled`; none: there is nothing to be done."""
        if self.verb == INSTALL:
            lacking = [arch for arch in self.architectures if arch not in handled]
            return ("--install", ",".join(lacking) or "all") if lacking or not self.architectures else ()
        going = [arch for arch in handled if not self.architectures or arch in self.architectures]
        return ("--uninstall", ",".join(going)) if going else ()

    def failed(self, handled: Sequence[str]) -> tuple[str, ...]:
        """Where it came to nothing, by the handlers that there are now."""
        if self.verb == INSTALL:
            return tuple(arch for arch in self.architectures if arch not in handled)
        return tuple(arch for arch in handled if not self.architectures or arch in self.architectures)


def of(verb: str, architectures: Sequence[str], image: str | None = None) -> Change:
    """As a user says it: `arm64`, `linux/arm64` or `aarch64`; raises UsageError."""
    try:
        return Change(verb, tuple(dict.fromkeys(Platform.parse(text).arch for text in architectures)), image or IMAGE)
    except ValueError as error:
        raise UsageError(str(error), f"one of: {', '.join(sorted(ARCHITECTURES))}") from error


def handlers(spec: FleetSpec, hosts: Sequence[HostSpec], connections: Connections) -> dict[str, HostFacts | Down]:
    """What each host says, its handlers being `emulated`."""
    return gather({host.name: partial(observe_host, spec, host, connections) for host in hosts})


def change(
    spec: FleetSpec, host: HostSpec, wanted: Change, connections: Connections, progress: Callable[[str], None]
) -> HostFacts | Down:
    """Do it, and look again; what the host says then, or why that is not what was wanted. Raises UsageError."""
    found = observe_host(spec, host, connections)
    if isinstance(found, Down):
        return found
    if wanted.verb == INSTALL and found.arch in wanted.architectures:
        raise UsageError(f"{host.name} is {found.arch} itself: there is nothing to emulate")
    if not (arguments := wanted.arguments(found.emulated)):
        return found
    try:
        said = _run(spec.name, host, wanted.image, arguments, connections, progress)
    except HostError as error:
        return Down(error.stage, error.message, error.remedy)
    after = observe_host(spec, host, connections)
    if isinstance(after, Down) or not (failed := wanted.failed(after.emulated)):
        return after
    reason = f"{wanted.image} did not {wanted.verb} {', '.join(failed)}: {(said.splitlines() or ['no output'])[0]}"
    return Down(Stage.NATIVE, reason, f"on {host.name}: ls /proc/sys/fs/binfmt_misc; is it mounted there?")


def _run(
    fleet: str,
    host: HostSpec,
    image: str,
    arguments: Sequence[str],
    connections: Connections,
    progress: Callable[[str], None],
) -> str:
    """Run the image, which the host has afterwards only if it had it before."""
    engine = connections.get(host).engine()
    mark = pull_mark(fleet, image)
    if engine.image(image, mark) is Image.ABSENT:
        progress(f"pull {image}")
        engine.pull(image, mark, progress)
    try:
        progress(" ".join(arguments))
        return engine.run(image, arguments, timeout=RUN_TIMEOUT)
    finally:
        engine.remove_image(image, mark)
