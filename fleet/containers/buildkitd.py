"""The daemon's configuration, buildkitd.toml of BuildKit v0.32: where it is, and its text.

What an inventory may say is checked in `fleet.inventory.buildkitd_keys`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import tomli_w

CONTAINER_PORT = 1234
"""The port inside the container; the host's own port is mapped to it."""
SOCKET_PATH = "/run/buildkit/buildkitd.sock"
LABEL_ARCH = "dev.fleet.arch"
LABEL_EMULATED = "dev.fleet.emulated"
LABEL_MAX_BUILDS = "dev.fleet.max-builds"
DIRECTORY = "/etc/buildkit"
"""What is in it may be read back, to see whether it is still what fleet put there."""
CONFIG_PATH = f"{DIRECTORY}/buildkitd.toml"
CA_PATH = f"{DIRECTORY}/tls/ca.pem"
CERT_PATH = f"{DIRECTORY}/tls/cert.pem"
KEYS_DIRECTORY = "/etc/buildkit-keys"
"""What is in it never leaves the host."""
KEY_PATH = f"{KEYS_DIRECTORY}/key.pem"
PLATFORM_SCAN_AGE = "24h"
"""How long buildkitd trusts its list of platforms. By default every 20 s whoever asks waits for a program to be
started for each architecture, seconds on a slow host; what a native node can run does not change."""
SPACE: Mapping[str, str] = MappingProxyType({"reservedSpace": "10%", "maxUsedSpace": "80%", "minFreeSpace": "20%"})
"""BuildKit's own shares of the disk, without its caps of 10 and 100 GB: docs/decisions/0005."""


def merged(config: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A host's `own` settings laid over the fleet's: tables key by key, everything else as a whole."""
    both = {key: merged(config[key], own[key]) for key in config.keys() & own if isinstance(own[key], Mapping)}
    return {**config, **own, **both}


def placed(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The same with the files that `registry` names where they are to be in the container; there -> the file here."""
    places: dict[str, str] = {}

    def place(file: str, directory: str, registry: str, name: str) -> str:
        path = f"{directory}/registries/{registry.replace(':', '_')}/{name}.pem"
        places[path] = file
        return path

    registries = {
        registry: {
            **entry,
            **{
                key: [place(f, DIRECTORY, registry, f"ca-{n}") for n, f in enumerate(entry[key])]
                for key in entry.keys() & {"ca"}
            },
            **{
                # Certificate and key may be one file.
                key: [
                    {part: place(pair[part], KEYS_DIRECTORY, registry, f"{part}-{n}") for part in pair}
                    for n, pair in enumerate(entry[key])
                ]
                for key in entry.keys() & {"keypair"}
            },
        }
        for registry, entry in config.get("registry", {}).items()
    }
    return {**config, **({"registry": registries} if registries else {})}, places


def render(config: Mapping[str, Any], labels: Mapping[str, str] = MappingProxyType({})) -> str:
    """The text of buildkitd.toml for a checked `buildkit.config`: equal trees give equal text.

    `labels` are the worker's, which every client can read; they are put beside those of the inventory.
    """
    oci = config.get("worker", {}).get("oci", {})
    # With one of them BuildKit forgets its defaults of the others; rules have limits of their own.
    space = {} if oci.keys() & {*SPACE, "gcpolicy"} else SPACE
    tree = {
        **config,
        "grpc": {
            "address": [f"unix://{SOCKET_PATH}", f"tcp://0.0.0.0:{CONTAINER_PORT}"],
            "tls": {"ca": CA_PATH, "cert": CERT_PATH, "key": KEY_PATH},
        },
        "worker": {
            "oci": {
                **space,
                **oci,
                "enabled": True,
                **({"labels": {**oci.get("labels", {}), **labels}} if labels else {}),
            },
            "containerd": {"enabled": False},
        },
        "system": {"platformsCacheMaxAge": PLATFORM_SCAN_AGE, **config.get("system", {})},
    }
    return f"# Written by fleet from the inventory: edits are lost.\n{tomli_w.dumps(_sorted(tree))}"


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, tuple | list) else value
