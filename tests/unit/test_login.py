"""`fleet ssh`: what OpenSSH is told, and nothing that is not in the inventory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fleet.cli.login import local_argv, ssh_argv
from fleet.model.spec import HostSpec, SshSpec
from tests.unit.conftest import Run

STRICT = "StrictHostKeyChecking=yes"

ARGV: dict[str, tuple[HostSpec, tuple[str, ...], tuple[str, ...]]] = {
    "all is left to ~/.ssh/config": (
        HostSpec("amd-1", "10.0.0.11"),
        (),
        ("ssh", "-o", STRICT, "--", "10.0.0.11"),
    ),
    "what the inventory says comes first": (
        HostSpec("amd-1", "fd00::1", ssh=SshSpec("build", 2222, "/keys/one", "/keys/known", sudo=True)),
        (),
        (
            *("ssh", "-o", "User=build", "-o", "Port=2222", "-o", 'IdentityFile="/keys/one"'),
            *("-o", 'UserKnownHostsFile="/keys/known"', "-o", "GlobalKnownHostsFile=none"),
            *("-o", STRICT, "--", "fd00::1"),
        ),
    ),
    "blanks and per cents are part of a path": (
        HostSpec("amd-1", "amd-1.example", ssh=SshSpec(identity_file="/my keys/100%h")),
        (),
        ("ssh", "-o", 'IdentityFile="/my keys/100%%h"', "-o", STRICT, "--", "amd-1.example"),
    ),
    "a command and its options": (
        HostSpec("amd-1", "10.0.0.11"),
        ("docker", "ps", "-a"),
        ("ssh", "-o", STRICT, "--", "10.0.0.11", "docker", "ps", "-a"),
    ),
}


@pytest.mark.parametrize(("host", "command", "argv"), ARGV.values(), ids=ARGV)
def test_what_ssh_is_told(host: HostSpec, command: tuple[str, ...], argv: tuple[str, ...]) -> None:
    assert ssh_argv(host, command) == argv


def test_this_machine_needs_a_shell_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/bin/zsh")
    assert local_argv() == ("/bin/zsh",)
    assert local_argv(("echo", "$HOME", "&&", "ls")) == ("/bin/zsh", "-c", "echo $HOME && ls")
    monkeypatch.delenv("SHELL")
    assert local_argv() == ("/bin/sh",)


class Replaced(BaseException):
    """Another program has taken the place of this one."""


@pytest.mark.parametrize(
    ("typed", "argv"),
    [
        (("amd-1",), ("ssh", "-o", "Port=1", "-o", STRICT, "--", "127.0.0.1")),
        (
            ("amd-1", "ls", "-l", "-i", "x"),
            ("ssh", "-o", "Port=1", "-o", STRICT, "--", "127.0.0.1", "ls", "-l", "-i", "x"),
        ),
        (("amd-1", "--", "ls"), ("ssh", "-o", "Port=1", "-o", STRICT, "--", "127.0.0.1", "ls")),
    ],
    ids=str,
)
def test_options_behind_the_node_are_the_commands(
    run: Run, monkeypatch: pytest.MonkeyPatch, typed: tuple[str, ...], argv: tuple[str, ...]
) -> None:
    replaced: list[tuple[str, ...]] = []

    def replace(program: str, words: tuple[str, ...]) -> None:
        assert program == words[0]
        replaced.append(words)
        raise Replaced

    monkeypatch.setattr(os, "execvp", replace)
    with pytest.raises(Replaced):
        run("ssh", *typed)
    assert replaced == [argv]


def test_a_machine_without_ssh_is_told(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(home))
    code, out, err = run("ssh", "amd-1")
    assert (code, out) == (1, "")
    assert "fleet: ssh: No such file or directory" in err
    assert "try: install OpenSSH's client" in err
