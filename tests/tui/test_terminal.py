"""`fleet tui` on a terminal of its own: however it ends, the terminal is as it was, and nothing is left behind."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fleet.observing.recording import Recorder
from tests.support.canned import SMALL, day
from tests.tui import slow

PATIENCE = 30.0


@dataclass(slots=True)
class Terminal:
    """Both ends of it, and what runs there."""

    ours: int
    theirs: int
    process: subprocess.Popen[bytes]
    drawn: bytearray = field(default_factory=bytearray)

    def until(self, wanted: bytes) -> None:
        deadline = time.monotonic() + PATIENCE
        while wanted not in self.drawn:
            assert time.monotonic() < deadline, bytes(self.drawn[-2000:])
            self._read()

    def ended(self) -> int:
        """What it has exited with; what it still draws is taken."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < deadline
            self._read()
        self._read()
        return self.process.returncode

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.process.send_signal(signal.SIGWINCH)

    def _read(self) -> None:
        if select.select([self.ours], [], [], 0.1)[0]:
            self.drawn += os.read(self.ours, 1 << 16)


@contextmanager
def terminal(folder: Path, width: int = 80, height: int = 24, **environment: str) -> Iterator[Terminal]:
    with Recorder(folder / "day.gz", SMALL) as recorder:
        recorder.write(day())
    shown = (sys.executable, "-m", "fleet", "tui", f"--replay={folder / 'day.gz'}")
    with running(shown, width, height, **environment) as terminal:
        yield terminal


@contextmanager
def running(shown: Sequence[str], width: int = 80, height: int = 24, **environment: str) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    argv = (sys.executable, "-c", _OWNING, *shown)
    # These would count for more than the terminal's own size.
    around = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
    process = subprocess.Popen(
        argv,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env=around | environment,
        cwd=slow.ROOT,
    )
    try:
        yield Terminal(ours, theirs, process)
    finally:
        process.kill()
        process.wait()
        for end in (ours, theirs):
            try:
                os.close(end)
            except OSError:
                continue  # the test has closed it


_OWNING = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
"""Only whose terminal it is gets its signals."""

ENDS: Mapping[str, tuple[bytes | signal.Signals, int]] = {
    "q": (b"q", 0),
    "ctrl-C": (b"\x03", 0),
    "SIGINT": (signal.SIGINT, 0),
    "SIGTERM": (signal.SIGTERM, 128 + signal.SIGTERM),
    "SIGHUP": (signal.SIGHUP, 128 + signal.SIGHUP),
}


@pytest.mark.parametrize(("by", "code"), ENDS.values(), ids=ENDS)
def test_the_terminal_is_as_it_was(tmp_path: Path, by: bytes | signal.Signals, code: int) -> None:
    with terminal(tmp_path) as shown:
        before = termios.tcgetattr(shown.theirs)
        shown.until(b"amd-3")
        assert termios.tcgetattr(shown.theirs) != before
        if isinstance(by, bytes):
            os.write(shown.ours, by)
        else:
            shown.process.send_signal(by)
        assert shown.ended() == code
        assert termios.tcgetattr(shown.theirs) == before
        for begun, ended in ((b"\x1b[?1049h", b"\x1b[?1049l"), (b"\x1b[?1000h", b"\x1b[?1000l")):
            assert shown.drawn.rfind(ended) > shown.drawn.rfind(begun) >= 0
        assert shown.drawn.rfind(b"\x1b[?25h") > shown.drawn.rfind(b"\x1b[?25l")
        assert b"Traceback" not in shown.drawn


def test_a_terminal_that_is_closed_leaves_no_process(tmp_path: Path) -> None:
    with terminal(tmp_path) as shown:
        shown.until(b"amd-3")
        os.close(shown.theirs)
        os.close(shown.ours)
        assert shown.process.wait(PATIENCE) == 128 + signal.SIGHUP


def drain(shown: Terminal, folder: Path) -> None:
    """Begin what only ends when it may."""
    shown.until(b"amd-3")
    os.write(shown.ours, b"d")
    shown.until(b"y yes")
    os.write(shown.ours, b"y")
    deadline = time.monotonic() + PATIENCE
    while not (folder / "begun").exists():
        assert time.monotonic() < deadline
        shown._read()


def let_go(shown: Terminal, folder: Path, code: int) -> None:
    """It waits for it, and only for it."""
    with pytest.raises(subprocess.TimeoutExpired):
        shown.process.wait(1)
    (folder / "go").touch()
    assert shown.process.wait(PATIENCE) == code
    assert (folder / "ended").exists()


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGHUP])
def test_what_changes_nodes_is_finished_without_the_screens(tmp_path: Path, by: signal.Signals) -> None:
    with running(slow.argv(tmp_path)) as shown:
        before = termios.tcgetattr(shown.theirs)
        drain(shown, tmp_path)
        shown.process.send_signal(by)
        shown.until(b"drain amd-1: to be finished; ctrl-C")
        # As when a shell sends it, and the terminal, too.
        shown.process.send_signal(by)
        assert termios.tcgetattr(shown.theirs) == before
        let_go(shown, tmp_path, 128 + by)


def test_what_changes_nodes_is_left_half_done_by_ctrl_c_alone(tmp_path: Path) -> None:
    with running(slow.argv(tmp_path)) as shown:
        drain(shown, tmp_path)
        shown.process.send_signal(signal.SIGTERM)
        shown.until(b"to be finished; ctrl-C")
        os.write(shown.ours, b"\x03")
        assert shown.ended() == -signal.SIGINT
        assert not (tmp_path / "ended").exists()


def test_what_changes_nodes_is_finished_when_the_terminal_is_closed(tmp_path: Path) -> None:
    with running(slow.argv(tmp_path)) as shown:
        drain(shown, tmp_path)
        os.close(shown.theirs)
        os.close(shown.ours)
        let_go(shown, tmp_path, 128 + signal.SIGHUP)


def test_a_terminal_that_nobody_reads_and_then_closes(tmp_path: Path) -> None:
    with terminal(tmp_path) as shown:
        shown.until(b"amd-3")
        for _ in range(200):
            # Each is drawn, until the terminal takes no more.
            os.write(shown.ours, b"t")
        assert select.select([shown.ours], [], [], PATIENCE)[0]
        os.close(shown.theirs)
        os.close(shown.ours)
        assert shown.process.wait(PATIENCE) == 128 + signal.SIGHUP


def test_a_terminal_that_grows_and_shrinks_while_it_is_drawn(tmp_path: Path) -> None:
    with terminal(tmp_path, 20, 5) as shown:
        shown.until(b"acme")
        for width, height in ((200, 60), (1, 1), (20, 5), (80, 24), (3, 200), (120, 40)):
            shown.resize(width, height)
        shown.until(b"DRIFT")
        os.write(shown.ours, b"q")
        assert shown.ended() == 0
        assert b"Traceback" not in shown.drawn


def test_where_no_colour_is_wanted_there_is_none(tmp_path: Path) -> None:
    with terminal(tmp_path, NO_COLOR="1") as shown:
        shown.until(b"amd-3")
        os.write(shown.ours, b"q")
        assert shown.ended() == 0
        assert b"\x1b[38;" not in shown.drawn
        assert b"\x1b[48;" not in shown.drawn
        assert not any(b"\x1b[%dm" % code in shown.drawn for code in (*range(30, 38), *range(90, 98)))


def test_a_terminal_of_sixteen_colours_gets_no_others(tmp_path: Path) -> None:
    with terminal(tmp_path, TERM="xterm", COLORTERM="") as shown:
        shown.until(b"amd-3")
        os.write(shown.ours, b"q")
        assert shown.ended() == 0
        assert b"38;2;" not in shown.drawn
        assert b"38;5;" not in shown.drawn
