"""The command line: arguments in, rendering out. The one place where adapters and core are put together."""

from __future__ import annotations

import atexit
import io
import os
import sys
import time
from contextlib import suppress

from fleet.errors import FleetError

INTERRUPTED = 130


def main() -> None:
    """The `fleet` command."""
    code = run()
    # The interpreter's own end takes a tenth of a short command, and would wait for threads that nobody waits for.
    # What those have put aside goes with it.
    atexit._run_exitfuncs()  # noqa: SLF001 - os._exit leaves it out, and there is no other name for it
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def run() -> int:
    """Do what the command line says, and its exit code; every FleetError becomes its message and its remedy."""
    started = time.monotonic()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that lacks a glyph shows a question mark.
            stream.reconfigure(errors="replace")
    try:
        code = _dispatch(sys.argv[1:], started)
        if sys.stdout:
            sys.stdout.flush()
    except FleetError as error:
        _complain(error.message, error.remedy)
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        where = "".join(f" at: {note}" for note in getattr(interrupt, "__notes__", ()))
        _complain(f"interrupted{where}", "run the command again: it goes on where it stopped")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone; nobody is left to tell.
        return 1
    except OSError as error:
        _complain(str(error), None)
        return FleetError.exit_code
    return code


def _dispatch(arguments: list[str], started: float) -> int:
    if arguments[:1] in (["build"], ["bake"]) and not {"-h", "--help"} & set(arguments):
        from fleet.cli.build import build

        return build(arguments[0], arguments[1:])
    from fleet.cli.main import run

    return run(started)


def _complain(message: str, remedy: str | None) -> None:
    colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    name = "\x1b[1;31mfleet:\x1b[0m" if colour else "fleet:"
    print(f"{name} {message}", file=sys.stderr)
    if remedy:
        print(f"  try: {remedy}", file=sys.stderr)
