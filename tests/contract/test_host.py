"""What every Host keeps: the fake, this machine, and one behind SSH."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import paramiko
import pytest
from paramiko.common import cMSG_CHANNEL_EOF

from fleet.adapters import host_lock, local
from fleet.adapters.local import LocalHost
from fleet.adapters.ssh import connect
from fleet.applying import history
from fleet.applying.history import Entry, History
from fleet.applying.report import Result
from fleet.errors import HostError
from fleet.model.facts import Stage
from fleet.parallel import gather
from tests.support.fakes import FakeHost, Machine
from tests.support.lab import docker_socket, eventually, host_spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fleet.ports import Host
    from tests.lab import Lab


@pytest.fixture(params=["fake", "local", "ssh"])
def again(request: pytest.FixtureRequest) -> Callable[[], Host]:
    """Opens one more connection to the same host."""
    if request.param == "fake":
        machine = Machine("10.0.0.1")
        return lambda: FakeHost(machine)
    if request.param == "local":
        return LocalHost
    lab: Lab = request.getfixturevalue("lab")
    return lambda: connect(host_spec(lab, "amd-1", port=1))


def test_a_lock_has_one_holder_who_is_named_until_the_connection_ends(again: Callable[[], Host]) -> None:
    name = f"contract-{os.getpid()}"
    one, other = again(), again()
    try:
        assert one.hold(name, "anna@laptop, fleet up") is None
        assert other.hold(name, "bob@desk, fleet up") == "anna@laptop, fleet up"
        assert other.hold(f"{name}-else", "bob@desk, fleet up") is None
        one.close()
        eventually(lambda: True if other.hold(name, "bob@desk, fleet up") is None else None)
    finally:
        one.close()
        other.close()


@pytest.mark.parametrize("kind", ["local", "ssh"])
def test_a_link_in_the_place_of_the_lock_is_left_alone(kind: str, lab: Lab) -> None:
    name = f"contract-link-{os.getpid()}"
    remote = connect(host_spec(lab, "amd-1", port=1))
    host: Host = LocalHost() if kind == "local" else remote
    file = host_lock.path(name)
    victim = f"{file}.victim"
    try:
        host.run(("ln", "-s", victim, file))
        with pytest.raises(HostError):
            host.hold(name, "anna@laptop")
        assert host.run(("test", "-e", victim)).status != 0
    finally:
        host.run(("rm", "-f", file))
        host.close()
        remote.close()


@pytest.fixture(params=["fake", "local", "ssh"])
def host(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    if request.param == "fake":
        yield FakeHost(Machine("10.0.0.1"))
        return
    lab: Lab = request.getfixturevalue("lab")
    if request.param == "local":
        monkeypatch.setattr(local, "DOCKER_SOCKET", str(docker_socket(lab, "amd-1")))
        yield LocalHost()
        return
    connected = connect(host_spec(lab, "amd-1", port=1))
    yield connected
    connected.close()


def test_arguments_arrive_whole(host: Host) -> None:
    words = ("a b", "$HOME", "'quoted'", '"', "*", "", "a\\nb", "; false", "ä")
    done = host.run(("printf", r"%s\n", *words))
    assert (done.status, done.stderr) == (0, "")
    assert done.stdout == "".join(f"{word}\n" for word in words)


def test_status_and_both_outputs_are_told_apart(host: Host) -> None:
    done = host.run(("sh", "-c", "echo out; echo err >&2; exit 7"))
    assert (done.status, done.stdout, done.stderr) == (7, "out\n", "err\n")


def test_a_command_that_reads_gets_nothing(host: Host) -> None:
    done = host.run(("cat",), timeout=20)
    assert (done.status, done.stdout) == (0, "")


def test_a_command_that_does_not_end_is_an_error(host: Host) -> None:
    with pytest.raises(HostError, match="sleep did not end within") as caught:
        host.run(("sleep", "5"), timeout=0.2)
    assert caught.value.stage in {Stage.SSH, Stage.DOCKER}


def test_commands_go_on_after_one_that_did_not_end(host: Host) -> None:
    with pytest.raises(HostError):
        host.run(("sleep", "5"), timeout=0.2)
    assert host.run(("printf", r"%s\n", "x")).stdout == "x\n"


def test_docker_is_reached_over_the_same_connection(host: Host) -> None:
    assert host.engine().version().split(".")[0].isdigit()


def test_a_command_that_ends_at_once_does_not_end_the_connection(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    host = connect(host_spec(lab, "amd-1", port=1))
    send = paramiko.Transport._send_user_message  # type: ignore[attr-defined]  # private: not in the stubs

    def send_ends_late(transport: paramiko.Transport, message: paramiko.Message) -> None:
        if message.asbytes().startswith(cMSG_CHANNEL_EOF):
            time.sleep(0.2)
        send(transport, message)

    monkeypatch.setattr(paramiko.Transport, "_send_user_message", send_ends_late)
    for _ in range(2):
        assert host.run(("printf", "x")).stdout == "x"
        time.sleep(0.3)
    host.close()


def test_nothing_runs_over_a_closed_connection(host: Host) -> None:
    if isinstance(host, LocalHost):
        host.close()
        assert host.run(("printf", r"%s\n", "x")).stdout == "x\n"
        return
    host.close()
    with pytest.raises(HostError, match="the connection was lost"):
        host.run(("printf", r"%s\n", "x"))


def test_a_local_engine_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "DOCKER_SOCKET", "/nonexistent/docker.sock")
    with pytest.raises(HostError, match=r"/nonexistent/docker\.sock: No such file") as caught:
        LocalHost().engine().version()
    assert (caught.value.stage, caught.value.remedy) == (Stage.DOCKER, "is the Docker Engine running?")


# ------------------------------------------------------------------------------------------------ history


@pytest.fixture
def kept(host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A fleet of which the host keeps nothing yet; this machine's own home is left alone."""
    monkeypatch.setenv("HOME", str(tmp_path))
    name = f"contract-{os.getpid()}"
    yield name
    host.run(history.forget(name))


def entry(by: str) -> Entry:
    return Entry("amd-1", datetime.now(UTC), by, "up", ("pull 'x' \\ $HOME %s",), Result.DONE)


def test_what_was_done_is_kept_in_the_order_in_which_it_was_written(host: Host, kept: str) -> None:
    assert host.run(history.read(kept)).stdout == ""
    written = tuple(entry(by) for by in ("anna@desk", "bob@desk"))
    for one in written:
        assert host.run(history.append(kept, one)).status == 0
    assert history.parse(host.run(history.read(kept)).stdout) == History(written)
    assert host.run(history.forget(kept)).status == 0
    assert host.run(history.read(kept)).stdout == ""


def test_the_oldest_lines_go(host: Host, kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "KEPT", 3)
    for by in "abcde":
        host.run(history.append(kept, entry(by)))
    assert [one.by for one in history.parse(host.run(history.read(kept)).stdout).entries] == list("cde")


def test_a_torn_line_does_not_swallow_the_next_and_nobody_else_may_read(host: Host, kept: str) -> None:
    if isinstance(host, FakeHost):
        host.machine.histories[kept] = '{"torn'
    else:
        host.run(history.append(kept, entry("a")))
        at = f"$HOME/.local/state/fleet/{kept}.jsonl"
        assert host.run(("sh", "-c", f"stat -c %a {at} $HOME/.local/state/fleet")).stdout == "600\n700\n"
        host.run(("sh", "-c", f"""printf '{{"torn' > {at}"""))
    written = entry("b")
    host.run(history.append(kept, written))
    assert history.parse(host.run(history.read(kept)).stdout) == History((written,), 1)


def test_writing_at_once_mixes_nothing(host: Host, kept: str) -> None:
    several = {number: partial(host.run, history.append(kept, entry(f"{number}@desk"))) for number in range(8)}
    assert {done.status for done in gather(several).values()} == {0}
    read = history.parse(host.run(history.read(kept)).stdout)
    assert (len({one.by for one in read.entries}), read.unreadable) == (8, 0)
