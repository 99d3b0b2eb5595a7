"""Which docker buildx this machine has: remembered until one of its files changes, for asking starts two programs."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fleet import buildx
from fleet.errors import BuilderError

if TYPE_CHECKING:
    from collections.abc import Callable

_PLUGIN = Path("cli-plugins/docker-buildx")
_SYSTEM = ("/usr/local/lib/docker", "/usr/local/libexec/docker", "/usr/lib/docker", "/usr/libexec/docker")
"""Where docker looks for plugins after the user's own folder: docker/cli `cli-plugins/manager`, v29."""


def version(ask: Callable[[], str]) -> tuple[int, int, int]:
    """The version of this machine's docker buildx; `ask` runs `docker buildx version`. Raises BuilderError."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fleet"
    memory, installed = cache / "buildx-version.json", _installed()
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
    own = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    plugins = _stamps(*(folder / _PLUGIN for folder in (own, *map(Path, _SYSTEM))))
    if not docker or not plugins:
        return None
    return _stamps(Path(docker), own / "config.json") + plugins


def _stamps(*files: Path) -> list[list[str | int]]:
    found: list[list[str | int]] = []
    for file in files:
        with suppress(OSError):
            stat = file.stat()
            found.append([str(file), stat.st_ino, stat.st_mtime_ns, stat.st_size])
    return found
