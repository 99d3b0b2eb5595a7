"""What Docker Engines answer, in fleet's words; and the labels by which its containers are known."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fleet.check.ground import EngineInfo
from fleet.model.facts import CertificateFacts, DaemonFacts

if TYPE_CHECKING:
    from collections.abc import Mapping

LABEL_FLEET = "dev.fleet.name"
LABEL_NODE = "dev.fleet.node"
LABEL_SETTINGS = "dev.fleet.settings"
LABEL_HASH = "dev.fleet.hash"
LABEL_FILES = "dev.fleet.files"
LABEL_CERTIFICATE = "dev.fleet.certificate"
LABEL_PROXY = "dev.fleet.gateway"

STATE_DIRECTORY = "/var/lib/buildkit"
SHORT_ID = len("sha256:") + 12
"""Characters of an image's id: as many as Docker shows."""


def container_name(container: Mapping[str, Any]) -> str:
    """Its name, else its id."""
    return str(container["Names"][0]).removeprefix("/") if container["Names"] else str(container["Id"])


def container_facts(
    listed: Mapping[str, Any], made: Mapping[str, Any] | None = None, files: Mapping[str, str] | None = None
) -> DaemonFacts:
    """A container of fleet's, as Docker lists it.

    `made`: the same when it was looked into, with the digests of its `files` if they could be read.
    """
    labels: Mapping[str, str] = listed["Labels"]
    put = _mapping(labels.get(LABEL_FILES)) if files is not None else {}
    return DaemonFacts(
        id=listed["Id"],
        name=container_name(listed),
        node=labels.get(LABEL_NODE, ""),
        state=listed["State"],
        settings=_mapping(labels.get(LABEL_SETTINGS)),
        certificate=_certificate(_mapping(labels.get(LABEL_CERTIFICATE))),
        detail=listed["Status"],
        enforced=_enforced(made, listed) if made else None,
        changed=tuple(sorted(path for path, digest in put.items() if (files or {}).get(path) != digest)),
    )


def _enforced(made: Mapping[str, Any], listed: Mapping[str, Any]) -> dict[str, str]:
    """In the words of `DaemonSpec.enforced`."""
    host = made["HostConfig"]
    # What fleet never sets, but `docker update` may.
    others = ("CpuQuota", "CpuShares", "CpusetCpus", "CpusetMems", "MemoryReservation", "PidsLimit", "BlkioWeight")
    limits = {
        "cpus": f"{host.get('NanoCpus', 0) / 10**9:g}" if host.get("NanoCpus") else "",
        "memory": host.get("Memory"),
        **{name: host.get(name) for name in others if host.get(name) not in {-1, None}},
    }
    ports = {
        # However "everywhere" is written.
        f"{'' if bound['HostIp'] in {'0.0.0.0', '::'} else bound['HostIp']}:{bound['HostPort']}"  # noqa: S104
        for bindings in (host.get("PortBindings") or {}).values()
        for bound in bindings or ()
    }
    return {
        # Docker lists the image's id where the name that it was made from means another image by now, or none.
        "image": listed["ImageID"][:SHORT_ID] if listed["Image"] == listed["ImageID"] else made["Config"]["Image"],
        "limits": " ".join(f"{name}={most}" for name, most in limits.items() if most),
        "restart": host["RestartPolicy"]["Name"] or "no",
        "privileged": "yes" if host["Privileged"] else "no",
        "init": "yes" if host.get("Init") else "no",
        "network": " ".join(sorted(made["NetworkSettings"]["Networks"] or ())),
        "port": " ".join(sorted(ports)),
        "volume": " ".join(
            mount.get("Name", "") for mount in made["Mounts"] if mount["Destination"] == STATE_DIRECTORY
        ),
    }


def digest(content: bytes) -> str:
    """Enough of a file's SHA-256, in hex, to tell that it was changed."""
    return hashlib.sha256(content).hexdigest()[:16]


def digests(archive: bytes, directory: str) -> dict[str, str]:
    """Path -> digest of each plain file in a tar archive of that directory; raises tarfile.TarError."""
    above = directory.rpartition("/")[0]
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {
            f"{above}/{entry.name}": digest(file.read())
            for entry in tar
            if entry.isfile() and (file := tar.extractfile(entry))
        }


def engine_info(said: Mapping[str, Any], containers: list[Mapping[str, Any]], bridge: Mapping[str, str]) -> EngineInfo:
    """What it says of itself, who has which port there, and how its bridge is."""
    limits = {"memory": "MemoryLimit", "cpu": "CpuCfsQuota", "pids": "PidsLimit"}
    mtu = bridge.get("com.docker.network.driver.mtu", "")
    # An option reads `name=seccomp,profile=builtin`.
    security = (option.partition(",")[0].removeprefix("name=") for option in said.get("SecurityOptions") or ())
    return EngineInfo(
        id=said.get("ID", ""),
        os=said.get("OSType", ""),
        root=said.get("DockerRootDir", ""),
        driver=said.get("Driver", ""),
        cgroups=said.get("CgroupVersion") or None,
        unlimited=tuple(name for name, key in limits.items() if said.get(key) is False),
        cpus=said.get("NCPU") or None,
        memory=said.get("MemTotal") or None,
        security=frozenset(security),
        mtu=int(mtu) if mtu.isdigit() else None,
        proxied=bool(said.get("HttpProxy") or said.get("HttpsProxy")),
        published={
            port["PublicPort"]: container_name(container)
            for container in containers
            for port in container.get("Ports") or ()
            if port.get("PublicPort") and port["Type"] == "tcp"
        },
    )


def _mapping(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _certificate(label: Mapping[str, Any]) -> CertificateFacts | None:
    try:
        return CertificateFacts(
            serial=str(label["serial"]),
            expires=datetime.fromisoformat(label["expires"]),
            names=tuple(map(str, label["names"])),
            # Containers of an older fleet do not say it.
            issued=datetime.fromisoformat(issued) if (issued := label.get("issued")) else None,
            subject=str(label.get("subject", "")),
        )
    except (KeyError, TypeError, ValueError):
        return None
