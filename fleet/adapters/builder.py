"""docker buildx on this machine: what it has stored, and running it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fleet import buildx
from fleet.adapters import buildx_program
from fleet.adapters.buildx_run import BuildxRun
from fleet.errors import BuilderError
from fleet.model.facts import BuilderFacts
from fleet.parallel import Gathering

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

COMMAND_TIMEOUT = 60.0
"""Seconds for a command that changes a builder; buildx has one lock, and `ls` holds it while it dials."""

VERSION_TIMEOUT = 10.0
"""Seconds for its version, which needs neither lock nor network."""

_INSTALL = "install the docker client and docker buildx 0.32 or newer on this machine"


def configuration() -> Path:
    """Where buildx keeps its builders: BUILDX_CONFIG, else buildx/ in DOCKER_CONFIG or ~/.docker."""
    if configured := os.environ.get("BUILDX_CONFIG"):
        return Path(configured)
    docker = os.environ.get("DOCKER_CONFIG")
    return (Path(docker) if docker else Path.home() / ".docker") / "buildx"


class Fitness:
    """Whether this machine's docker buildx is fit: asked in the background from the moment this is made."""

    def __init__(self) -> None:
        self._asking: Gathering[str, None] | None = Gathering({"version": _check_version})

    def wait(self) -> None:
        """Wait for the answer, once; raises BuilderError for a missing or unfit buildx."""
        if self._asking:
            self._asking.results()
            self._asking = None


def _check_version() -> None:
    buildx.check_version(version())


def version() -> tuple[int, int, int]:
    """The version of this machine's docker buildx; raises BuilderError."""
    return buildx_program.version(_version_told)


def _version_told() -> str:
    done = capture(("version",), os.environ, VERSION_TIMEOUT)
    if done.returncode != 0:
        raise BuilderError(f"docker buildx does not run: {last_line(done.stderr)}", _INSTALL)
    return done.stdout


class BuildxBuilder:
    """The docker buildx of this machine. Its files are read, never written: `ls` and `inspect` dial every node."""

    def __init__(self, directory: Path | None = None, fitness: Fitness | None = None) -> None:
        """`directory`: builders of fleet's own, apart from the user's; `fitness`: asked for already."""
        self._directory = directory or configuration()
        self._environment = os.environ | {"BUILDX_CONFIG": str(self._directory)}
        self._fitness = fitness
        self._runs = set[BuildxRun]()
        self._interrupted = False

    def check(self) -> None:
        """Refuse a missing or unfit buildx; asked once. Raises BuilderError."""
        self._fitness = self._fitness or Fitness()
        self._fitness.wait()

    def read(self, name: str) -> BuilderFacts:
        """The builder as buildx has stored it; raises BuilderError when that cannot be read."""
        try:
            stored = (self._directory / "instances" / name).read_text()
        except FileNotFoundError:
            return BuilderFacts()
        except OSError as error:
            raise BuilderError(f"{error.filename}: {error.strerror}", "is it yours?") from error
        facts = buildx.parse_instance(stored)
        return BuilderFacts(facts.nodes, facts.driver, default=_is_default(self._directory, name))

    def run(self, arguments: Sequence[str]) -> str:
        """Run `docker buildx …` quietly to its end; what it printed. Raises BuilderError with its last line."""
        self.check()
        done = capture(arguments, self._environment, COMMAND_TIMEOUT)
        if done.returncode != 0:
            raise BuilderError(
                f"docker buildx {arguments[0]} failed: {last_line(done.stderr)}",
                f"BUILDX_CONFIG={shlex.quote(str(self._directory))} docker buildx {shlex.join(arguments)}",
            )
        return done.stdout

    @contextmanager
    def start(self, arguments: Sequence[str], *, label: str = "") -> Iterator[BuildxRun]:
        """Begin `docker buildx …` on the user's terminal; at the end of the context nothing of it is left.

        `label`: what stands before each line that it writes to standard error.
        """
        self.check()
        with BuildxRun((*buildx_program.program(), *arguments), self._directory, label) as run:
            self._runs.add(run)
            try:
                if self._interrupted:
                    run.interrupt()
                yield run
            finally:
                self._runs.discard(run)

    def interrupt(self) -> None:
        """End all runs, as the user would, and those that begin later; waits until they have ended."""
        self._interrupted = True
        for run in tuple(self._runs):
            run.interrupt()
        for run in tuple(self._runs):
            run.wait()


def capture(
    arguments: Sequence[str], environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run `docker buildx …` quietly for at most `timeout` seconds; raises BuilderError when that cannot be done."""
    program = buildx_program.program()
    try:
        return subprocess.run(
            (*program, *arguments),
            env={**environment, **buildx_program.ENVIRONMENT},
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
            # A terminal's ctrl-C is for fleet, which knows what it is in the middle of.
            process_group=0,
        )
    except subprocess.TimeoutExpired as error:
        raise BuilderError(
            f"docker buildx {arguments[0]} did not end within {timeout:.0f} s",
            "another buildx may hold its lock: docker buildx ls dials every node of every builder",
        ) from error
    except OSError as error:
        raise BuilderError(f"{program[0]} cannot be run here: {error.strerror}", _INSTALL) from error


def _is_default(directory: Path, name: str) -> bool:
    if chosen := os.environ.get("BUILDX_BUILDER"):
        return chosen == name
    try:
        return bool(json.loads((directory / "current").read_text()).get("Name") == name)
    except (OSError, ValueError, AttributeError):
        return False


def last_line(text: str) -> str:
    """What a failed buildx said."""
    return (text.strip().splitlines() or ["no output"])[-1].removeprefix("ERROR: ")
