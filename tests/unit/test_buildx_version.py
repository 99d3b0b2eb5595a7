"""docker buildx is asked for its version once, and again as soon as it may be another."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fleet.adapters import buildx_version
from fleet.adapters.buildx_version import version
from fleet.errors import BuilderError

if TYPE_CHECKING:
    from collections.abc import Callable

PLUGIN = "config/cli-plugins/docker-buildx"


class Asked:
    """`docker buildx version`, and how often it ran."""

    def __init__(self) -> None:
        self.times = 0
        self.says = "github.com/docker/buildx v0.36.1 \n"

    def __call__(self) -> str:
        self.times += 1
        return self.says


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where docker and its plugin are installed."""
    for program in ("bin/docker", PLUGIN):
        (tmp_path / program).parent.mkdir(parents=True)
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(buildx_version, "_SYSTEM", ())
    return tmp_path


@pytest.mark.usefixtures("machine")
def test_it_is_asked_once() -> None:
    asked = Asked()
    assert [version(asked) for _ in range(3)] == [(0, 36, 1)] * 3
    assert asked.times == 1


def _rewritten(path: Path) -> None:
    path.write_text("#!/bin/sh\n# another\n")


CHANGES: dict[str, Callable[[Path], object]] = {
    "the plugin is another": lambda machine: _rewritten(machine / PLUGIN),
    "the plugin is as long, and newer": lambda machine: os.utime(machine / PLUGIN, (1, 1)),
    "docker is another": lambda machine: _rewritten(machine / "bin/docker"),
    "docker is told of other folders": lambda machine: _rewritten(machine / "config/config.json"),
    "the memory is torn": lambda machine: (machine / "cache/fleet/buildx-version.json").write_text("{"),
    "the memory is nonsense": lambda machine: (machine / "cache/fleet/buildx-version.json").write_text("[]"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_it_is_asked_again_when(change: Callable[[Path], object], machine: Path) -> None:
    asked = Asked()
    version(asked)
    change(machine)
    asked.says = "github.com/docker/buildx v0.40.0 abc\n"
    assert version(asked) == (0, 40, 0)
    assert asked.times == 2


def test_a_plugin_that_is_elsewhere_is_asked_each_time(machine: Path) -> None:
    (machine / PLUGIN).unlink()
    asked = Asked()
    assert version(asked) == version(asked) == (0, 36, 1)
    assert asked.times == 2


def test_what_does_not_run_is_not_remembered(machine: Path) -> None:
    asked = Asked()
    asked.says = "no version"
    with pytest.raises(BuilderError):
        version(asked)
    assert not (machine / "cache").exists()


def test_a_cache_that_cannot_be_written_is_of_no_account(machine: Path) -> None:
    (machine / "cache").write_text("")
    assert version(Asked()) == (0, 36, 1)
