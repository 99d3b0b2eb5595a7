"""The tools that fleet is compared with, in a virtual environment of their own, and the Python that Ansible needs."""

from __future__ import annotations

import os
import subprocess
import venv
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.lab import Lab

REQUIREMENTS = ("ansible-core==2.19.14", "pyinfra==3.10.0")
FOLDER = "/var/tmp/bench-python"
PYTHON = f"{FOLDER}/python3"
"""On the hosts."""
_PACKAGES = ("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libexpat1", "libffi8")
_LIBRARIES = f"{FOLDER}/usr/lib/x86_64-linux-gnu:{FOLDER}/lib/x86_64-linux-gnu"


def installed() -> Path:
    """Where their programs are; installed at the first time."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = cache / "fleet-bench" / "-".join(REQUIREMENTS)
    if not (folder / "whole").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run((folder / "bin" / "pip", "install", "--quiet", *REQUIREMENTS), check=True)
        (folder / "whole").touch()
    return folder / "bin"


@contextmanager
def with_python(lab: Lab, names: Sequence[str]) -> Iterator[None]:
    """Debian's Python of this machine on these hosts, which have none, for as long as they are measured."""
    listed = subprocess.run(("dpkg", "-L", *_PACKAGES), capture_output=True, text=True, check=True).stdout.split("\n")
    files = [line for line in dict.fromkeys(listed) if Path(line).is_file()]
    packed = subprocess.run(
        ("tar", "-chP", "-T", "-"), input="\n".join(files).encode(), capture_output=True, check=True
    )
    start = f'#!/bin/sh\nLD_LIBRARY_PATH={_LIBRARIES} exec {FOLDER}/usr/bin/python3.11 "$@"\n'
    key, known = lab.home.ssh_key, lab.home.known_hosts
    for name in names:
        login = (
            "ssh",
            "-F",
            "none",
            "-i",
            key,
            "-o",
            f"UserKnownHostsFile={known}",
            f"build@{lab.hosts[name].host.address}",
        )
        unpack = f"mkdir -p {FOLDER} && tar -x -C {FOLDER} && printf '%s' '{start}' > {PYTHON} && chmod +x {PYTHON}"
        subprocess.run((*login, unpack), input=packed.stdout, check=True, capture_output=True)
    try:
        yield
    finally:
        for name in names:
            lab.hosts[name].ssh(f"rm -rf {FOLDER}")
