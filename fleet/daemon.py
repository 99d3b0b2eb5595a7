"""A node's container: what it is made of, and the files that it gets."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fleet import buildkitd
from fleet.model import object_name

if TYPE_CHECKING:
    from certs.authority import Credential

RECIPE = "1"
"""Raised when fleet itself makes containers differently, so that an upgrade of fleet replaces them."""

EMULATORS = tuple(
    f"/usr/bin/buildkit-qemu-{arch}"
    for arch in ("aarch64", "arm", "i386", "loongarch64", "mips64", "mips64el", "ppc64le", "riscv64", "s390x", "x86_64")
)
"""The helpers with which BuildKit's official image emulates without reporting it: Dockerfile of moby/buildkit."""

Files = dict[str, tuple[bytes, int]]
"""Absolute path in the container -> content and mode."""


@dataclass(frozen=True, slots=True)
class DaemonSpec:
    """The container that a node is to have; all of it is in `settings`, so drift is one comparison."""

    fleet: str
    node: str
    image: str
    port: int
    bind: str
    """The host's address that the port is published on; empty: all."""
    config: str
    """The text of buildkitd.toml."""
    names: tuple[str, ...]
    """What the node's certificate is valid for."""
    authority: str
    """Fingerprint of the CA that the daemon trusts and its certificate comes from."""

    @property
    def name(self) -> str:
        """The container's name, and its state volume's."""
        return object_name(self.fleet, self.node)

    @property
    def settings(self) -> dict[str, str]:
        """The wanted settings as a label keeps them: long texts as their hash."""
        return {
            "recipe": RECIPE,
            "image": self.image,
            "port": f"{self.bind}:{self.port}",
            "config": hashlib.sha256(self.config.encode()).hexdigest()[:16],
            "names": " ".join(self.names),
            "authority": self.authority[:16],
        }

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the settings, in hex."""
        return hashlib.sha256(repr(sorted(self.settings.items())).encode()).hexdigest()

    def files(self, credential: Credential, trust: bytes) -> Files:
        """Configuration, certificates, and what makes the image's emulators refuse.

        BuildKit looks its emulators up as executables on the PATH: an empty file without the x bit is not found.
        """
        return {
            buildkitd.CONFIG_PATH: (self.config.encode(), 0o644),
            buildkitd.CA_PATH: (trust, 0o644),
            buildkitd.CERT_PATH: (credential.certificate, 0o644),
            buildkitd.KEY_PATH: (credential.key.reveal(), 0o600),
            **dict.fromkeys(EMULATORS, (b"", 0o644)),
        }


def last_words(log: str, *, lines: int = 5) -> str:
    """The last `lines` of a daemon's log that say something, each once: BuildKit ends with a stack trace."""
    written = log.splitlines()
    places = {number for number, line in enumerate(written) if line.startswith("\t")}
    frames = places | {number - 1 for number in places}
    said = dict.fromkeys(line for number, line in enumerate(written) if number not in frames)
    return "\n".join(list(said)[-lines:])
