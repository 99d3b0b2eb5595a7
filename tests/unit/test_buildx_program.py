"""The docker buildx of a machine: found as docker finds it, and asked for its version once while it may be no other."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fleet.adapters import buildx_program
from fleet.adapters.buildx_program import program, version
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


def _install(path: Path, content: str = "\x7fELF") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where docker and its plugin are installed."""
    for installed in ("bin/docker", PLUGIN):
        _install(tmp_path / installed)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(buildx_program, "_SYSTEM", ())
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


def test_what_docker_would_run_is_run_without_docker(machine: Path) -> None:
    assert program() == (str(machine / PLUGIN), "buildx")
    (machine / PLUGIN).unlink()
    assert program() == ("docker", "buildx")


def test_a_docker_that_is_a_script_is_somebodys_wish(machine: Path) -> None:
    _install(machine / "bin/docker", "#!/bin/sh\nexec sudo docker\n")
    assert program() == ("docker", "buildx")


def test_without_docker_nothing_stands_in_for_it(machine: Path) -> None:
    (machine / "bin/docker").unlink()
    assert program() == ("docker", "buildx")


def test_folders_are_searched_in_dockers_order(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buildx_program, "_SYSTEM", (str(machine / "system"),))
    (machine / PLUGIN).unlink()
    _install(machine / "system/cli-plugins/docker-buildx")
    assert program()[0] == str(machine / "system/cli-plugins/docker-buildx")
    _install(machine / PLUGIN)
    assert program()[0] == str(machine / PLUGIN)
    _install(machine / "extra/docker-buildx")
    (machine / "config/config.json").write_text(json.dumps({"cliPluginsExtraDirs": [str(machine / "extra")]}))
    assert program()[0] == str(machine / "extra/docker-buildx")


@pytest.mark.parametrize("content", ["{", "[]", "null", '{"cliPluginsExtraDirs": 1}', '{"cliPluginsExtraDirs": [1]}'])
def test_settings_that_are_not_dockers_name_no_folders(machine: Path, content: str) -> None:
    (machine / "config/config.json").write_text(content)
    assert program()[0] == str(machine / PLUGIN)
