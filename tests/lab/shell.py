"""Running commands, and the one exception of the lab."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path


class LabError(Exception):
    """What failed and the next thing to try, for a person to read."""


def run(
    *argv: str | Path,
    log: Path | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
    timeout: float | None = None,
) -> str:
    """Run a command and return what it printed; with a log its output goes there instead.

    Raises LabError with the last lines of its output when it fails or takes longer than timeout seconds.
    """
    words = [str(word) for word in argv]
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(log or os.devnull, "a", encoding="utf-8") as sink:
            done = subprocess.run(
                words,
                input=stdin if stdin is not None else "",
                stdout=sink if log else subprocess.PIPE,
                stderr=subprocess.STDOUT if log else subprocess.PIPE,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                timeout=timeout,
                text=True,
                errors="replace",
                check=False,
            )
    except FileNotFoundError as error:
        raise LabError(f"{words[0]}: no such program") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(words)}: no end within {timeout} s") from error
    if done.returncode != 0:
        output = tail(log) if log else "\n".join((done.stderr or done.stdout).splitlines()[-15:])
        where = f" (all of it: {log})" if log else ""
        raise LabError(f"{' '.join(words)}: exit {done.returncode}{where}\n{output}")
    return done.stdout or ""


def succeeds(*argv: str | Path, timeout: float | None = None) -> bool:
    """Whether the command ends well."""
    try:
        run(*argv, timeout=timeout)
    except LabError:
        return False
    return True


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log."""
    if not path.exists():
        return ""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        file.write(text)
    draft.chmod(mode)
    draft.replace(path)
