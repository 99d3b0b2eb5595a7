"""One `docker buildx` on the user's terminal, with a folder of its own for what buildx notes of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from fleet.adapters.buildx_program import ENVIRONMENT
from fleet.errors import BuilderError
from fleet.parallel import Gathering

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

GRACE = 0.5
"""Seconds between two signals to a buildx that is to end."""

SIGNALS = 5
"""The second has it skip what it would still do, the third has it give up; then it is killed."""

RUNS = "runs"
REFS = "refs"


class BuildxRun:
    """A buildx under way; a context, which leaves no process and no file behind.

    buildx notes each build under `refs` of its configuration, before it asks for it: in a folder of the run's own they
    are this run's. The builders are the configuration's.
    """

    def __init__(self, command: Sequence[str], configuration: Path, label: str = "") -> None:
        """Begin; raises BuilderError. `configuration`: the folder that has the builders; `label`: before each line."""
        self.interrupted = False
        self._configuration = configuration
        self._folder = _own_folder(configuration)
        self._ending: threading.Thread | None = None
        self._ended = threading.Event()
        try:
            self._process = subprocess.Popen(
                tuple(command),
                env=os.environ | ENVIRONMENT | {"BUILDX_CONFIG": str(self._folder)},
                stderr=subprocess.PIPE if label else None,
            )
        except OSError as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise BuilderError(f"{command[0]} cannot be run here: {error.strerror}", "install docker buildx") from error
        self._telling = threading.Thread(target=self._tell, args=(label.encode(),), daemon=True)
        self._telling.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self.wait()
        for note in self._notes():
            kept = self._configuration / note.relative_to(self._folder)
            kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            note.replace(kept)
        shutil.rmtree(self._folder, ignore_errors=True)

    def wait(self) -> int:
        """Its exit code, once it has ended; a signal's is 128 and its number.

        An interrupt of the terminal reaches buildx from there, and is given time to end it in its own way.
        """
        ending = Gathering({self._process.pid: self._process.wait})
        while True:
            try:
                [code] = ending.results().values()
            except KeyboardInterrupt:
                self.interrupt()
            else:
                self._ended.set()
                # Where docker stands in between, what it leaves behind when it is killed may hold on to the other end.
                self._telling.join(GRACE)
                return 128 - code if code < 0 else code

    def end(self) -> None:
        """Have it end soon, as an interrupt would; from any thread, and more than once."""
        if self._ending is None and not self._ended.is_set():
            self._ending = threading.Thread(target=self._insist, daemon=True)
            self._ending.start()

    def interrupt(self) -> None:
        """The same, because the user wants it."""
        self.interrupted = True
        self.end()

    def refs(self) -> Mapping[str, tuple[str, ...]]:
        """Node -> what BuildKit's history knows the builds by that were asked of it."""
        refs: dict[str, tuple[str, ...]] = {}
        for note in self._notes():
            refs[note.parent.name] = (*refs.get(note.parent.name, ()), note.name)
        return refs

    def _notes(self) -> list[Path]:
        """Builds that buildx noted: refs/BUILDER/NODE/REF."""
        return sorted(path for path in self._folder.glob(f"{REFS}/*/*/*") if path.parent.parent.name != "__group__")

    def _tell(self, label: bytes) -> None:
        for line in self._process.stderr or ():
            os.write(sys.stderr.fileno(), label + b" | " + line)

    def _insist(self) -> None:
        # The terminal may have told it already: then this is the second time only if it takes long.
        if self.interrupted and self._ended.wait(GRACE):
            return
        for _ in range(SIGNALS):
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGINT)
            if self._ended.wait(GRACE):
                return
        self._process.kill()


def _own_folder(configuration: Path) -> Path:
    """A configuration of this run's own that has the other's builders; removes what dead processes left."""
    runs = configuration / RUNS
    runs.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in runs.iterdir():
        if not _lives(left.name.partition(".")[0]):
            shutil.rmtree(left, ignore_errors=True)
    folder = runs / f"{os.getpid()}.{os.urandom(4).hex()}"
    folder.mkdir(mode=0o700)
    (folder / "instances").symlink_to(configuration / "instances")
    # Whose uploads of a context build upon each other: made by buildx itself where it is missing.
    identity = configuration / ".buildNodeID"
    with suppress(FileExistsError), open(identity, "x", opener=lambda p, f: os.open(p, f, 0o600)) as file:
        file.write(os.urandom(8).hex())
    (folder / identity.name).symlink_to(identity)
    return folder


def _lives(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True
