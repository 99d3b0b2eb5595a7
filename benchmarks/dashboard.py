"""The dashboard in a terminal of its own: how soon it is there, what a thousand nodes cost, how fast it answers a key.

Prints a table; with --write it also goes into README. Needs no lab, except for what an idle fleet of three costs.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import re
import select
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

README = Path(__file__).parent.parent / "README.md"
MARK = "<!-- bench:dashboard -->\n"
TICKS = os.sysconf("SC_CLK_TCK")
KEYS = 200
NODES = 1000

IMPORT = "import textual.app, textual.scroll_view, textual.widgets, textual.widgets._input"

FLEET = str(Path(sys.executable).with_name("fleet"))
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""What is installed is compiled once, not each time."""


def main() -> None:
    """Measure and print, or be what is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--write", action="store_true", help="put the table into README")
    parser.add_argument("--simulate", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.simulate:
        _simulate(options.simulate)
        return
    table = _table(options.rounds, options.seconds)
    print(table)
    if options.write:
        before, _, rest = README.read_text().partition(MARK)
        README.write_text(before + MARK + table + rest[rest.index("<!-- /bench -->") :])


def _table(rounds: int, seconds: float) -> str:
    paints = [_first_paint() for _ in range(rounds)]
    bare = statistics.median(_timed("pass") for _ in range(rounds))
    textual = statistics.median(_timed(IMPORT) for _ in range(rounds)) - bare
    with terminal(sys.executable, "-m", "benchmarks.dashboard", "--simulate", str(NODES)) as shown:
        shown.read_until(f"{NODES} ready".encode())
        # Every host has been looked at.
        shown.read_for(15)
        cpu = shown.cpu_share(seconds)
        keys = sorted(_answer(shown, at) for at in range(2, KEYS + 2))
        memory = shown.resident()
    many = f"{NODES} simulated nodes"
    slowest = keys[int(KEYS * 0.95)]
    rows = [
        ("from the command to the first screen, no node asked yet", f"{statistics.median(paints):.2f} s", "0.7 s"),
        ("of that, importing Textual", f"{textual:.2f} s", ""),
        (f"{many}, asked every 2 s: share of a core", f"{cpu:.0%}", "25 %"),
        (f"{many}: memory", f"{memory / 1e6:.0f} MB", "200 MB"),
        (f"{many}: a key is answered, 95th percentile of {KEYS}", f"{slowest * 1000:.0f} ms", "50 ms"),
    ]
    if "LAB_HOME" in os.environ:
        subprocess.run((FLEET, "up"), check=True, stdout=sys.stderr)
        with terminal(FLEET, "tui", "--read-only") as shown:
            shown.read_until(b"3 ready")
            shown.read_for(15)
            rows.append(("three idle nodes of the lab: share of a core", f"{shown.cpu_share(seconds):.1%}", "2 %"))
    lines = (f"| {what} | {measured} | {'under ' + limit if limit else ''} |\n" for what, measured, limit in rows)
    return "| what | measured | to reach |\n|---|---|---|\n" + "".join(lines)


def _first_paint() -> float:
    """With hosts that nobody reaches: nothing that they could say is waited for."""
    with tempfile.TemporaryDirectory() as folder:
        inventory = Path(folder) / "inventory.yaml"
        hosts = "".join(f"  amd-{n}: {{address: 192.0.2.{n}}}\n" for n in range(1, 4))
        inventory.write_text(f"fleet: bench\nssh: {{user: build}}\nhosts:\n{hosts}")
        environment = {"FLEET_INVENTORY": str(inventory), "FLEET_HOME": folder, "XDG_CACHE_HOME": folder}
        # The second time the inventory has been checked before.
        for _ in range(2):
            started = time.perf_counter()
            with terminal(FLEET, "tui", **environment) as shown:
                shown.read_until(b"amd-3")
                seconds = time.perf_counter() - started
    return seconds


def _answer(shown: Terminal, at: int) -> float:
    """From a key to the address of the next node, which only the lines about the one under the cursor have."""
    started = time.perf_counter()
    os.write(shown.descriptor, b"j")
    shown.read_until(f"node-{at}.example".encode())
    answered = time.perf_counter() - started
    # As a person does, and not in step with what is drawn by itself.
    shown.read_for(0.037 + 0.013 * (at % 7))
    return answered


@dataclass(slots=True)
class Terminal:
    """A program on a terminal of 120×40."""

    process: int
    descriptor: int
    content: bytearray = field(default_factory=bytearray)

    def read_until(self, wanted: bytes) -> None:
        """Read on until that was drawn."""
        self.content.clear()
        deadline = time.monotonic() + 120
        # What is drawn anew in the middle of a text has escape sequences there.
        while wanted not in re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", self.content):
            assert time.monotonic() < deadline, bytes(self.content[-2000:])
            self._read(1.0)

    def read_for(self, seconds: float) -> None:
        """Take what is drawn, as a terminal does."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._read(left)

    def _read(self, timeout: float) -> None:
        if select.select([self.descriptor], [], [], timeout)[0]:
            try:
                self.content += os.read(self.descriptor, 1 << 16)
            except OSError as error:
                raise RuntimeError(f"it has ended: {bytes(self.content[-2000:])!r}") from error

    def cpu_share(self, seconds: float) -> float:
        """Of one core, over that time."""
        before, started = self._cpu(), time.monotonic()
        self.read_for(seconds)
        return (self._cpu() - before) / (time.monotonic() - started)

    def _cpu(self) -> float:
        values = Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()
        return (int(values[11]) + int(values[12])) / TICKS

    def resident(self) -> int:
        """Bytes of memory."""
        [line] = [line for line in Path(f"/proc/{self.process}/status").read_text().splitlines() if "VmRSS" in line]
        return int(line.split()[1]) * 1024


@contextmanager
def terminal(*argv: str, **environment: str) -> Iterator[Terminal]:
    """Run it there, and end it."""
    process, descriptor = pty.fork()
    if process == 0:
        os.execvpe(argv[0], argv, ENVIRONMENT | environment | {"TERM": "xterm-256color", "COLORTERM": "truecolor"})
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    try:
        yield Terminal(process, descriptor)
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(descriptor)


def _timed(program: str) -> float:
    started = time.perf_counter()
    subprocess.run((sys.executable, "-c", program), check=True, env=ENVIRONMENT)
    return time.perf_counter() - started


def _simulate(count: int) -> None:
    """The dashboard over machines that are none: all of it is real but what is at the other end of a connection."""
    from contextlib import contextmanager as context
    from dataclasses import replace
    from datetime import UTC, datetime

    from fleet.cli.tui import show
    from fleet.observing.watch import Watch
    from tests.support.fakes import Machine
    from tests.support.values import IMAGE, fleet, host
    from tests.support.world import FakeWorld
    from tui.outside import Outside

    spec = fleet(*(host(f"node-{at}") for at in range(1, count + 1)))
    world = FakeWorld.of(*(Machine(one.address, images={IMAGE}) for one in spec.hosts))
    world.now = datetime.now(UTC)
    assert not world.apply(spec)
    ports = replace(world.ports(), now=lambda: datetime.now(UTC))

    @context
    def watch() -> Iterator[Watch]:
        with Watch(spec, ports) as watched:
            yield watched

    show(Outside(spec, watch, lambda: datetime.now(UTC)))


if __name__ == "__main__":
    main()
