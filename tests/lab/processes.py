"""Long-lived processes that outlive the shell that began them, and end by their own id."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.lab.shell import LabError, write


def _birth(pid: int) -> str | None:
    """Boot id and start time of a live process: with its pid they name it for ever (proc(5), field 22)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] in "ZX":
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return f"{boot} {fields[19]}"


@dataclass(frozen=True, slots=True)
class Service:
    """A process remembered in a file."""

    record: Path
    log: Path

    def pid(self) -> int | None:
        """The process id while it runs, never that of a stranger who got the same number."""
        try:
            remembered = json.loads(self.record.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        pid = int(remembered["pid"])
        return pid if _birth(pid) == remembered["birth"] else None

    def start(self, argv: Sequence[str | Path], env: Mapping[str, str] | None = None) -> int:
        """Start it in a session of its own, its output in the log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as log:
            process = subprocess.Popen(
                [str(word) for word in argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        process.returncode = 0  # else Python complains that it outlives this object, as it should
        write(self.record, json.dumps({"pid": process.pid, "birth": _birth(process.pid), "argv": str(argv[0])}))
        return process.pid

    def stop(self, sign: signal.Signals = signal.SIGTERM, patience: float = 10) -> None:
        """End it and wait for the end; SIGKILL when it takes longer than patience."""
        began = time.monotonic()
        while (pid := self.pid()) is not None:
            late = time.monotonic() - began
            if late > patience + 10:
                raise LabError(f"process {pid} ({self.record.stem}) does not end")
            try:
                os.killpg(pid, signal.SIGKILL if late > patience else sign)
            except ProcessLookupError:
                break
            _reap(pid)
            time.sleep(0.05)
        self.record.unlink(missing_ok=True)


def _reap(pid: int) -> None:
    """Collect a process that is our own child, so that it does not linger as a zombie."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
