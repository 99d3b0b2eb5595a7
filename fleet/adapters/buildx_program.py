"""The docker buildx of this machine: the program that it is, and its version, remembered until a file changes."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fleet import buildx
from fleet.adapters.cache_folder import cache_folder
from fleet.errors import BuilderError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ENVIRONMENT: Mapping[str, str] = {"DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND": "docker"}
"""By this a plugin knows that it is to be what docker would have run: docker/cli `cli-plugins/plugin`, v29."""

_PLUGIN = Path("docker-buildx")
_SYSTEM = ("/usr/local/lib/docker", "/usr/local/libexec/docker", "/usr/lib/docker", "/usr/libexec/docker")
"""Where docker looks for `cli-plugins` after the user's own folder: docker/cli `cli-plugins/manager`, v29."""


def program() -> tuple[str, ...]:
    """What to run for `docker buildx`, with ENVIRONMENT: the plugin that docker would, and not docker in between.

    docker starts the plugin twice, which takes longer than a cached build does, and on a terminal it keeps a signal to
    itself: the plugin goes on. Where docker is somebody's script, or has the plugin elsewhere, it is docker itself.
    """
    docker, plugins = shutil.which("docker"), _stamps(*_places())
    if docker and plugins and not _is_script(docker):
        return (str(plugins[0][0]), "buildx")
    return ("docker", "buildx")


def version(ask: Callable[[], str]) -> tuple[int, int, int]:
    """The version of this machine's docker buildx; `ask` runs `docker buildx version`. Raises BuilderError."""
    cache, installed = cache_folder(), _installed()
    memory = cache / "buildx-version.json"
    if installed:
        with suppress(OSError, ValueError, KeyError, TypeError, BuilderError):
            known = json.loads(memory.read_bytes())
            if known["installed"] == installed:
                return buildx.parse_version(known["version"])
    told = ask()
    found = buildx.parse_version(told)
    if installed:
        with suppress(OSError):
            cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = memory.with_name(f".{memory.name}.{os.getpid()}")
            draft.write_text(json.dumps({"installed": installed, "version": told}))
            draft.replace(memory)
    return found


def _installed() -> list[list[str | int]] | None:
    """What decides which buildx runs: docker, its settings, and every plugin of that name; None: it is elsewhere."""
    docker = shutil.which("docker")
    plugins = _stamps(*_places())
    if not docker or not plugins:
        return None
    return _stamps(Path(docker), _own() / "config.json") + plugins


def _places() -> list[Path]:
    """Where docker looks for the plugin, in its order."""
    extra: list[Path] = []
    with suppress(OSError, ValueError, KeyError, TypeError):
        extra = [Path(folder) for folder in json.loads((_own() / "config.json").read_bytes())["cliPluginsExtraDirs"]]
    folders = (*extra, *(Path(folder) / "cli-plugins" for folder in (_own(), *_SYSTEM)))
    return [folder / _PLUGIN for folder in folders]


def _own() -> Path:
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")


def _is_script(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return False


def _stamps(*files: Path) -> list[list[str | int]]:
    found: list[list[str | int]] = []
    for file in files:
        with suppress(OSError):
            stat = file.stat()
            found.append([str(file), stat.st_ino, stat.st_mtime_ns, stat.st_size])
    return found
