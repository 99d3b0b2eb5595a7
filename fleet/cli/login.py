"""`fleet ssh`: OpenSSH takes the place of this process, told what the inventory says and nothing more."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from fleet.cli.world import load
from fleet.errors import FleetError
from fleet.model.spec import Connection

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import NoReturn

    from fleet.model.spec import HostSpec


def ssh(inventory: Path, node: str, command: Sequence[str]) -> NoReturn:
    """`fleet ssh`; its exit code is that of ssh, or of the command on the operator's own machine."""
    host = load(inventory, [node]).host(node)
    # ssh NODE -- COMMAND is a habit of many.
    command = command[1:] if command[:1] == ("--",) else command
    argv = local_argv(command) if host.connection is Connection.LOCAL else ssh_argv(host, command)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - there is no shell to want
    except OSError as error:
        raise FleetError(f"{argv[0]}: {error.strerror}", "install OpenSSH's client, or correct SHELL") from error


def ssh_argv(host: HostSpec, command: Sequence[str] = ()) -> tuple[str, ...]:
    """OpenSSH for this host: ~/.ssh/config says the rest, jump hosts for one; unknown host keys are refused.

    As with ssh, the host's shell reads the words of `command`, joined by spaces.
    """
    wanted = host.ssh
    options = {
        "User": wanted.user,
        "Port": str(wanted.port) if wanted.port else None,
        "IdentityFile": _path(wanted.identity_file),
        "UserKnownHostsFile": _path(wanted.known_hosts_file),
        "GlobalKnownHostsFile": "none" if wanted.known_hosts_file else None,
        "StrictHostKeyChecking": "yes",
    }
    given = (word for key, value in options.items() if value for word in ("-o", f"{key}={value}"))
    return ("ssh", *given, "--", host.address, *command)


def local_argv(command: Sequence[str] = ()) -> tuple[str, ...]:
    """A shell of the operator's own, which reads the words of `command` as one behind ssh would."""
    shell = os.environ.get("SHELL") or "/bin/sh"
    return (shell, "-c", " ".join(command)) if command else (shell,)


def _path(file: str | None) -> str | None:
    """A file as ssh_config takes it: blanks, and % which otherwise begins a token."""
    return f'"{file.replace("%", "%%")}"' if file else None
