"""The lab's command line: `python -m tests.lab --help`."""

import argparse
import os
import sys
import time

from tests.lab.hosts import FAULTS
from tests.lab.lab import Lab
from tests.lab.progress import say
from tests.lab.settings import HOSTS
from tests.lab.shell import LabError


def main() -> int:
    """Run one command; the exit code is 0 when it did what it says and, for status, all is healthy."""
    arguments = _parse()
    lab = Lab.current()
    began = time.monotonic()
    try:
        match arguments.command:
            case "up":
                lab.up([host.name for host in HOSTS] if arguments.all else arguments.hosts)
                say(f"lab: up, {time.monotonic() - began:.1f} s (source {lab.checkout}/.lab/env)")
            case "down":
                lab.down(purge=arguments.purge)
                say(f"lab: down, {time.monotonic() - began:.1f} s")
            case "status":
                return _status(lab)
            case "heal":
                with lab.locked():
                    lab.hosts[arguments.host].heal()
                say(f"{arguments.host}: healed, {time.monotonic() - began:.1f} s")
            case fault:
                with lab.locked():
                    lab.hosts[arguments.host].inflict(fault)
                say(f"{arguments.host}: {fault} (until `python -m tests.lab heal {arguments.host}`)")
    except LabError as error:
        say(f"lab: {error}")
        return 1
    except KeyboardInterrupt:
        say("lab: interrupted; the next `up` mends what is half done")
        os._exit(130)  # without waiting for the threads: they may be at a boot
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description="The test lab (docs/lab.md).")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    names = [host.name for host in HOSTS]
    up = commands.add_parser("up", help="bring the lab up, or mend it")
    up.add_argument("hosts", nargs="*", metavar="HOST", help=f"only these: {', '.join(names)}")
    up.add_argument("--all", action="store_true", help="every host, as the end-to-end tests need them")
    down = commands.add_parser("down", help="end it; nothing stays but caches and the registries' content")
    down.add_argument("--purge", action="store_true", help="what registries, fleet and buildx keep goes too")
    commands.add_parser("status", help="one line a host and service; exit 0 when all are healthy")
    for name in (*FAULTS, "heal"):
        purpose = "undo every fault of a host" if name == "heal" else f"fault: {name}"
        commands.add_parser(name, help=purpose).add_argument("host", choices=names, metavar="HOST")
    arguments = parser.parse_args()
    if unknown := set(getattr(arguments, "hosts", ())) - set(names):
        parser.error(f"no such host: {', '.join(sorted(unknown))}")
    return arguments


def _status(lab: Lab) -> int:
    rows = lab.status()
    for row in rows:
        state = "up" if row.healthy else "fault" if row.faults else "down"
        why = row.problem or ", ".join(row.faults)
        print(f"{row.name:<13} {state:<6} {f'pid {row.pid}' if row.pid else '':<12} {why}".rstrip())
    return 0 if all(row.healthy for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
