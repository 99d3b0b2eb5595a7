"""Where the passphrase of a sealed CA key comes from, and that it goes nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from fleet.cli import passphrase
from fleet.cli.passphrase import VARIABLE, ca_passphrase
from fleet.errors import UsageError
from fleet.model.spec import TlsSpec

SECRET = "correct horse, ändlich"  # noqa: S105 - of a test


def command(script: str) -> TlsSpec:
    return TlsSpec(ca_passphrase_command=(sys.executable, "-c", script))


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def test_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, SECRET)
    assert ca_passphrase("acme", command("raise SystemExit(1)")).reveal() == SECRET.encode()


@pytest.mark.parametrize("end", ["", r"\n", r"\r\n", r"\nuser: me\n"])
def test_a_command_prints_it_on_its_first_line(end: str) -> None:
    script = f"import sys; sys.stdout.buffer.write('  {SECRET} {end}'.encode())"
    assert ca_passphrase("acme", command(script)).reveal() == f"  {SECRET} ".encode()


def test_a_command_is_run_without_a_shell(tmp_path: Path) -> None:
    tls = TlsSpec(ca_passphrase_command=("echo", f"$(touch {tmp_path}/x); $HOME"))
    assert ca_passphrase("acme", tls).reveal() == f"$(touch {tmp_path}/x); $HOME".encode()


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (f"print('{SECRET}'); raise SystemExit(3)", "ended with status 3"),
        (f"import sys; sys.stdout.buffer.write('{SECRET}'.encode() + b'\\xff')", "printed no UTF-8"),
        ("print()", "is empty"),
        ("", "is empty"),
        (f"print('{SECRET}', flush=True); import time; time.sleep(30)", "did not end within 1 s"),
    ],
)
def test_a_command_that_fails_is_told_without_what_it_printed(
    monkeypatch: pytest.MonkeyPatch, script: str, why: str
) -> None:
    monkeypatch.setattr(passphrase, "COMMAND_TIMEOUT", 1)
    with pytest.raises(UsageError, match=why) as caught:
        ca_passphrase("acme", command(script))
    error = caught.value
    assert "tls.ca_passphrase_command" in error.message
    assert SECRET[:7] not in "".join(traceback.format_exception(error)).replace(script, "")
    assert (error.__cause__, error.__context__) == (None, None)


def test_a_command_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match=r"\(/no/such\) does not run: No such file") as caught:
        ca_passphrase("acme", TlsSpec(ca_passphrase_command=("/no/such", SECRET)))
    assert SECRET not in caught.value.message
    assert caught.value.remedy


ASK = """
import os, sys
from fleet.cli.passphrase import ca_passphrase
from fleet.errors import UsageError
from fleet.model.spec import TlsSpec
if sys.argv[1] != "none":
    os.login_tty(int(sys.argv[1]))
try:
    print("got", len(ca_passphrase("acme", TlsSpec(), new=sys.argv[2] == "new").reveal()))
except UsageError as error:
    print(error.message, "|", error.remedy)
"""


def ask(typed: str, *, new: bool = False) -> str:
    """What a terminal shows while a person types these lines."""
    person, terminal = os.openpty()
    arguments = [sys.executable, "-c", ASK, str(terminal), "new" if new else "old"]
    asked = subprocess.Popen(arguments, pass_fds=[terminal])
    os.close(terminal)
    shown, lines = b"", typed.splitlines(keepends=True)
    try:
        while piece := os.read(person, 1000):
            shown += piece
            if lines and shown.rstrip(b" ").endswith(b":"):
                os.write(person, lines.pop(0).encode())
    except OSError:  # the other end is closed
        pass
    finally:
        asked.wait(timeout=30)
        os.close(person)
    return shown.decode().replace("\r\n", "\n")


def test_a_terminal_is_asked_without_an_echo() -> None:
    assert ask("secret\n") == "Passphrase of the CA of acme: \ngot 6\n"


def test_a_new_passphrase_is_typed_twice() -> None:
    assert ask("secret\nsecret\n", new=True).endswith("The same again: \ngot 6\n")
    assert "the two passphrases differ" in ask("secret\nsecreT\n", new=True)


@pytest.mark.parametrize("typed", ["\n", "\x04"])
def test_nothing_typed_is_no_passphrase(typed: str) -> None:
    assert "is empty, from the terminal" in ask(typed)


def test_without_a_terminal_the_three_ways_are_told() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASK, "none", "old"],
        input=f"{SECRET}\n",
        capture_output=True,
        text=True,
        check=True,
        start_new_session=True,
    )
    assert "no terminal to ask on" in done.stdout
    assert all(way in done.stdout for way in (VARIABLE, "tls.ca_passphrase_command", "run it in a terminal"))
    assert done.stderr == ""


def test_an_empty_variable_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")
    with pytest.raises(UsageError, match=f"is empty, from {VARIABLE}"):
        ca_passphrase("acme", command(f"print('{SECRET}')"))
