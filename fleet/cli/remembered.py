"""Inventories that were checked before are not checked again: YAML and pydantic take longer than a node's answer.

What is remembered is found by the hash of all that decides the result, so it is never stale: the file's bytes and
place, the home folder, and fleet's own checking code. Losing it costs a third of a second.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleet.adapters.cache_folder import cache_folder
from fleet.containers.buildkitd import merged, placed
from fleet.model.platforms import Platform
from fleet.model.spec import (
    Balance,
    BuildkitSpec,
    Connection,
    Delivery,
    FleetSpec,
    GatewaySpec,
    HostSpec,
    KeyPair,
    Limits,
    SshSpec,
    TlsSpec,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

_CHECKERS = ("inventory", "model", "containers/buildkitd.py", "quantities.py")
"""What decides on an inventory, under the package: when any of it changes, everything is checked anew."""
_KEPT = 16


def load(path: Path) -> FleetSpec:
    """As `fleet.inventory.parse.load`, and as strict."""
    directory = cache_folder() / "inventories"
    key = None
    with suppress(OSError, ValueError, KeyError, TypeError):
        key = _key(path)
        spec = _restored(json.loads((directory / key).read_bytes()))
        if all(Path(file).is_file() for file in _files(spec)):
            return spec
    from fleet.inventory import parse as inventory

    spec = inventory.load(path)
    with suppress(OSError):
        # It may have been saved again while it was checked.
        if key and key == _key(path):
            _remember(directory, key, spec)
    return spec


def _key(path: Path) -> str:
    package = Path(__file__).parent.parent
    digest = hashlib.sha256(f"{path.absolute()}\n{Path.home()}\n".encode())
    checkers = (package / name for name in _CHECKERS)
    for file in (path, *(code for it in checkers for code in (sorted(it.glob("*.py")) if it.is_dir() else [it]))):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _files(spec: FleetSpec) -> Iterable[str]:
    logins = [file for host in spec.hosts for file in (host.ssh.identity_file, host.ssh.known_hosts_file)]
    pairs = [pair for pair in (spec.tls.ca, spec.tls.client, *(host.tls for host in spec.hosts)) if pair]
    configs = (merged(spec.buildkit.config, host.config) for host in spec.hosts)
    registries = [file for config in configs for file in placed(config)[1].values()]
    return {
        file for file in (*registries, *logins, *(file for pair in pairs for file in (pair.cert, pair.key))) if file
    }


def _remember(directory: Path, name: str, spec: FleetSpec) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = directory / f".{name}.{os.getpid()}"
    draft.write_text(json.dumps(asdict(spec)))
    draft.replace(directory / name)
    newest = sorted(directory.iterdir(), key=lambda entry: entry.stat().st_mtime, reverse=True)
    for entry in newest[_KEPT:]:
        entry.unlink(missing_ok=True)


def _restored(tree: dict[str, Any]) -> FleetSpec:
    tls = tree["tls"]
    return FleetSpec(
        name=tree["name"],
        buildkit=BuildkitSpec(**tree["buildkit"]),
        hosts=tuple(
            HostSpec(
                **{
                    **host,
                    "connection": Connection(host["connection"]),
                    "ssh": SshSpec(**host["ssh"]),
                    "platforms": tuple(Platform(**platform) for platform in host["platforms"]),
                    "tls": _key_pair(host["tls"]),
                    "limits": Limits(**host["limits"]),
                    "delivery": Delivery(host["delivery"]),
                }
            )
            for host in tree["hosts"]
        ),
        gateway=GatewaySpec(**{**gateway, "hosts": tuple(gateway["hosts"]), "balance": Balance(gateway["balance"])})
        if (gateway := tree["gateway"])
        else None,
        tls=TlsSpec(
            **{
                **tls,
                "ca": _key_pair(tls["ca"]),
                "ca_passphrase_command": tuple(tls["ca_passphrase_command"]),
                "client": _key_pair(tls["client"]),
            }
        ),
    )


def _key_pair(tree: dict[str, Any] | None) -> KeyPair | None:
    return KeyPair(**tree) if tree else None
