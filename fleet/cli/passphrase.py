"""Where passphrases come from: the environment or the terminal, that of a CA key from a command, too."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.errors import UsageError

if TYPE_CHECKING:
    from certs.keys import Passphrase
    from fleet.model.spec import TlsSpec

VARIABLE = "FLEET_CA_PASSPHRASE"
NEW_VARIABLE = "FLEET_CA_NEW_PASSPHRASE"
BUNDLE_VARIABLE = "FLEET_BUNDLE_PASSPHRASE"

COMMAND_TIMEOUT = 120
"""Seconds: a password manager may ask a person first."""

_TERMINAL = Path("/dev/tty")


def ca_passphrase(fleet: str, tls: TlsSpec, *, new: bool = False) -> Passphrase:
    """The passphrase of the CA's key; raises UsageError. `new`: typed twice, since it is going to seal a key.

    A prompt is for a terminal on which nothing else is being drawn.
    """
    if (given := os.environ.get(VARIABLE)) is not None:
        return _passphrase(given, "the CA's key", VARIABLE)
    if tls.ca_passphrase_command:
        return _passphrase(_printed(tls.ca_passphrase_command), "the CA's key", "tls.ca_passphrase_command")
    ways = f"set {VARIABLE}, or tls.ca_passphrase_command in the inventory, or run it in a terminal"
    typed = _typed(f"Passphrase of the CA of {fleet}: ", "the key of the CA", ways, new=new)
    return _passphrase(typed, "the CA's key", "the terminal")


def new_ca_passphrase(fleet: str, tls: TlsSpec, *, sealed: bool) -> Passphrase:
    """What the CA's key is to be sealed with; raises UsageError.

    `sealed`: it is so already, and what opens it is no answer to what it is to be from now on.
    """
    if (given := os.environ.get(NEW_VARIABLE)) is not None:
        return _passphrase(given, "the CA's key", NEW_VARIABLE)
    if not sealed:
        return ca_passphrase(fleet, tls, new=True)
    ways = f"to seal it with another one, set {NEW_VARIABLE}, or run it in a terminal"
    typed = _typed(f"New passphrase of the CA of {fleet}: ", "the key of the CA", ways, new=True)
    return _passphrase(typed, "the CA's key", "the terminal")


def bundle_passphrase(*, new: bool = False) -> Passphrase:
    """The passphrase of a bundle; raises UsageError. `new`: typed twice, since it is going to seal one."""
    if (given := os.environ.get(BUNDLE_VARIABLE)) is not None:
        return _passphrase(given, "the bundle", BUNDLE_VARIABLE)
    ways = f"set {BUNDLE_VARIABLE}, or run it in a terminal"
    return _passphrase(_typed("Passphrase of the bundle: ", "the bundle", ways, new=new), "the bundle", "the terminal")


def _passphrase(text: str, sealed: str, source: str) -> Passphrase:
    from certs.keys import Passphrase

    if not text:
        raise UsageError(f"the passphrase of {sealed} is empty, from {source}")
    return Passphrase(text)


def _printed(command: tuple[str, ...]) -> str:
    """The first line that a program prints. What it complains of it tells the user itself, on stderr."""
    program, problem, line = f"tls.ca_passphrase_command ({command[0]})", None, b""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, timeout=COMMAND_TIMEOUT, check=False)
        line = done.stdout.partition(b"\n")[0].removesuffix(b"\r")
        problem = f"ended with status {done.returncode}" if done.returncode else None
    except subprocess.TimeoutExpired:
        problem = f"did not end within {COMMAND_TIMEOUT} s"
    except OSError as error:
        problem = f"does not run: {error.strerror}"
    if problem is None:
        try:
            return line.decode()
        except UnicodeDecodeError:
            problem = "printed no UTF-8"
    # Raised out here: the errors above hold what was printed.
    raise UsageError(f"{program} {problem}", f"try it by hand, or set {VARIABLE}")


def _typed(prompt: str, sealed: str, ways: str, *, new: bool) -> str:
    import getpass
    import warnings

    try:
        with _TERMINAL.open("r+b", buffering=0), warnings.catch_warnings():
            # Where the echo cannot be switched off, it would read all the same.
            warnings.simplefilter("error", getpass.GetPassWarning)
            typed = getpass.getpass(prompt)
            if new and getpass.getpass("The same again: ") != typed:
                raise UsageError("the two passphrases differ", "type them again")
            return typed
    except EOFError:
        return ""
    except (OSError, getpass.GetPassWarning):
        raise UsageError(
            f"{sealed} is {'to be ' if new else ''}sealed with a passphrase, and there is no terminal to ask on", ways
        ) from None
