"""A node's container: what it is made of, and the files that it gets."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from fleet.containers import buildkitd
from fleet.model.spec import Limits, object_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from certs.certificate import Credential

RECIPE = "2"
"""Raised when fleet itself makes containers differently, so that an upgrade of fleet replaces them."""

RESTART = "unless-stopped"
"""When Docker is to start it again by itself."""

EMULATORS = tuple(
    f"/usr/bin/buildkit-qemu-{arch}"
    for arch in ("aarch64", "arm", "i386", "loongarch64", "mips64", "mips64el", "ppc64le", "riscv64", "s390x", "x86_64")
)
"""The helpers with which BuildKit's official image emulates without reporting it: Dockerfile of moby/buildkit."""

Files = dict[str, tuple[bytes, int]]
"""Absolute path in the container -> content and mode."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """A file of this machine that a container is to have, and the SHA-256 of its content in hex."""

    path: str
    """In the container."""
    source: str
    digest: str


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
    """Fingerprint of the CA that its certificate comes from."""
    trust: tuple[str, ...] = ()
    """Fingerprints of the CAs whose clients it lets in."""
    brought: str = ""
    """Serial number of the certificate that the inventory brings for it; empty: it gets one of its own."""
    limits: Limits = field(default_factory=Limits)
    delivered: tuple[Delivered, ...] = ()
    """Certificates and keys for registries."""

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
            "authority": short(self.authority),
            "trust": trust_setting(self.trust),
            "brought": self.brought,
            "limits": self._limits,
            # Which files there are is part of the configuration.
            **({"registries": self._delivered} if self.delivered else {}),
        }

    @property
    def enforced(self) -> dict[str, str]:
        """What Docker is to do for it, in the words in which an Engine says what it does: `DaemonFacts.enforced`."""
        return {
            "image": self.image,
            "limits": self._limits,
            "restart": RESTART,
            "privileged": "yes",
            "init": "yes",
            "network": "bridge",
            "port": f"{self.bind}:{self.port}",
            "volume": self.name,
        }

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the settings, in hex."""
        return fingerprint(self.settings)

    @property
    def _limits(self) -> str:
        return " ".join(f"{name}={most}" for name, most in asdict(self.limits).items() if most)

    @property
    def _delivered(self) -> str:
        return hashlib.sha256(" ".join(file.digest for file in self.delivered).encode()).hexdigest()[:16]

    def files(
        self, credential: Credential, trust: bytes, contents: Mapping[str, bytes] = MappingProxyType({})
    ) -> Files:
        """Configuration, certificates, and what makes the image's emulators refuse.

        `contents`: of the files to be delivered, by their names here.
        BuildKit looks its emulators up as executables on the PATH: an empty file without the x bit is not found.
        """
        return {
            buildkitd.CONFIG_PATH: (self.config.encode(), 0o644),
            buildkitd.CA_PATH: (trust, 0o644),
            buildkitd.CERT_PATH: (credential.certificate, 0o644),
            buildkitd.KEY_PATH: (credential.key.reveal(), 0o600),
            **{
                file.path: (contents[file.source], 0o644 if file.path.startswith(f"{buildkitd.DIRECTORY}/") else 0o600)
                for file in self.delivered
            },
            **dict.fromkeys(EMULATORS, (b"", 0o644)),
        }


def aside(name: str) -> str:
    """The name of a daemon's container while its successor proves itself."""
    return f"{name}.aside"


def fingerprint(settings: Mapping[str, str]) -> str:
    """SHA-256 of a container's settings, in hex."""
    return hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()


def trust_setting(fingerprints: Sequence[str]) -> str:
    """The CAs that a daemon trusts, as its label remembers them."""
    return " ".join(map(short, fingerprints))


def short(fingerprint: str) -> str:
    """Enough of a fingerprint to tell CAs apart in a label."""
    return fingerprint[:16]


def in_use(connections: str) -> bool:
    """Whether a daemon has let a client in, by the Linux kernel's tables of TCP (/proc/PID/net/tcp and tcp6).

    A connection that it has not accepted yet has no inode.
    """
    rows = [line.split() for line in connections.splitlines()]
    return any(row[1].endswith(_PORT) and row[3] == _ESTABLISHED and row[9] != "0" for row in rows if len(row) > 9)


_PORT, _ESTABLISHED = f":{buildkitd.CONTAINER_PORT:04X}", "01"


def last_words(log: str, *, lines: int = 5) -> str:
    """The last `lines` of a daemon's log that say something, each once, where it was said last.

    BuildKit ends with its name and why, or with a stack trace; what comes after is of the next start, which has not
    ended yet.
    """
    written = log.splitlines()
    places = {number for number, line in enumerate(written) if line.startswith("\t")}
    frames = places | {number - 1 for number in places}
    said = [(number, line) for number, line in enumerate(written) if number not in frames]
    ends = places | {number for number, line in said if line.startswith("buildkitd: ")}
    ended = [(number, line) for number, line in said if number <= max(ends, default=-1)]
    latest = dict.fromkeys(line for _, line in reversed(ended or said))
    return "\n".join(reversed(list(latest)[:lines]))
