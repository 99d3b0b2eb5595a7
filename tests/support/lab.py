"""The lab for tests: its hosts as fleet sees them, and a reason when it is not there."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import pytest

from fleet.model.facts import Image
from fleet.model.spec import HostSpec, SshSpec, pull_mark
from tests.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Callable

    from fleet.ports import Engine

T = TypeVar("T")


def unavailable(reason: str) -> NoReturn:
    """Skip the test for want of the lab; in CI, where the lab has to be, fail it."""
    message = f"the lab is not up ({reason}): make lab"
    if os.environ.get("CI"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def worker() -> int:
    """The number of this process among those that run tests side by side."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def running_lab(*hosts: str) -> Lab:
    """The lab with these hosts and its registry in working order; amd-1 and amd-2 are this process's own."""
    lab = Lab.current(worker())
    needed = {"network", "registry", *(lab.hosts[name].host.name for name in hosts)}
    wrong = sorted(needed - {row.name for row in lab.status() if row.healthy})
    if wrong:
        unavailable(f"{', '.join(wrong)} not healthy")
    return lab


def host_spec(lab: Lab, name: str, *, port: int) -> HostSpec:
    """A host of the lab as an inventory would name it."""
    login = SshSpec(user="build", identity_file=str(lab.home.ssh_key), known_hosts_file=str(lab.home.known_hosts))
    return HostSpec(name, lab.hosts[name].host.address, port, ssh=login)


def docker_socket(lab: Lab, name: str) -> Path:
    """The Docker socket of a namespace host, as this machine sees it."""
    pid = lab.hosts[name].service.pid()
    if pid is None:
        unavailable(f"{name} is not running")
    return Path(f"/proc/{pid}/root/run/docker.sock")


def have_image(engine: Engine, fleet: str, image: str) -> None:
    """Have the Engine pull it if it is not there."""
    mark = pull_mark(fleet, image)
    if engine.image(image, mark) is Image.ABSENT:
        engine.pull(image, mark, lambda _: None)


def eventually(look: Callable[[], T | None], *, seconds: float = 60) -> T:
    """What `look` finds, as soon as it does."""
    deadline = time.monotonic() + seconds
    while True:
        if (found := look()) is not None:
            return found
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.25)
