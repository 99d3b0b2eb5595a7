"""The command line: arguments in, rendering out. The one place where adapters and core are put together."""

from __future__ import annotations

import io
import os
import sys
import time

from fleet.errors import FleetError

INTERRUPTED = 130


def main() -> None:
    """The `fleet` command; every FleetError becomes its message, its remedy and its exit code."""
    started = time.monotonic()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that lacks a glyph shows a question mark.
            stream.reconfigure(errors="replace")
    try:
        _run(sys.argv[1:], started)
    except FleetError as error:
        _complain(error.message, error.remedy)
        sys.exit(error.exit_code)
    except KeyboardInterrupt as interrupt:
        where = "".join(f" at: {note}" for note in getattr(interrupt, "__notes__", ()))
        _complain(f"interrupted{where}", "run the command again: it goes on where it stopped")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output has gone; nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _complain(str(error), None)
        sys.exit(FleetError.exit_code)


def _run(arguments: list[str], started: float) -> None:
    if arguments[:1] in (["build"], ["bake"]) and not {"-h", "--help"} & set(arguments):
        from fleet.cli.build import build

        code = build(arguments[0], arguments[1:])
        sys.stdout.flush()
        sys.stderr.flush()
        # The interpreter's own end would wait for threads whose nodes nobody waits for.
        os._exit(code)
    from fleet.cli.main import run

    run(started)


def _complain(message: str, remedy: str | None) -> None:
    colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    name = "\x1b[1;31mfleet:\x1b[0m" if colour else "fleet:"
    print(f"{name} {message}", file=sys.stderr)
    if remedy:
        print(f"  try: {remedy}", file=sys.stderr)
