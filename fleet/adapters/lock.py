"""One fleet at a time at work on a vault."""

from __future__ import annotations

import fcntl
import getpass
import os
import sys
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.adapters import pem_files
from fleet.errors import Held

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

FILE = "lock"
FOLLOWED = "watch.lock"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a vault, made if need be; raises Held at once when another has it, saying who."""
    with _held(directory / FILE, f"another fleet is at work on {directory.name}", "wait for it to end"):
        with pem_files.translated():
            # Nobody else writes now, so these belong to one who was killed.
            for folder in (".", "clients", "bundles"):
                for unfinished in directory.glob(f"{folder}/{pem_files.UNFINISHED}"):
                    unfinished.unlink()
        yield


def followed(directory: Path) -> AbstractContextManager[None]:
    """Be the one that follows this fleet; raises Held when another does. The vault is not held meanwhile."""
    return _held(directory / FOLLOWED, f"another fleet watch follows {directory.name}", "one is enough; else end it")


@contextmanager
def _held(path: Path, by: str, remedy: str) -> Iterator[None]:
    """The kernel decides, and lets go when the holder ends, however it ends; what the file says is for people alone."""
    with pem_files.translated():
        lock = _take(path, by, remedy)
    try:
        with pem_files.translated():
            os.ftruncate(lock, 0)
            os.pwrite(lock, _holder().encode(), 0)
        yield
    finally:
        os.close(lock)


def _take(path: Path, by: str, remedy: str) -> int:
    """The file, open and locked; who leaves a fleet removes it last of all, and then it locks nothing any more."""
    while True:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock), path.stat()):
                    return lock
        except BlockingIOError as error:
            holder = _printable(os.pread(lock, 500, 0)) or f"it holds {path}"
            os.close(lock)
            raise Held(f"{by}: {holder}", remedy) from error
        os.close(lock)


def _holder() -> str:
    command = _printable(" ".join((Path(sys.argv[0]).name, *sys.argv[1:])).encode(errors="replace"))[:200]
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without /etc/passwd
        user = f"user {os.getuid()}"
    return f"{command} (process {os.getpid()} of {user}, since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC)"


def _printable(text: bytes) -> str:
    return "".join(one if one.isprintable() else " " for one in text.decode(errors="replace")).strip()
