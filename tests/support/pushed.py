"""What a pushed image holds, read back from a plain-http registry through its API."""

from __future__ import annotations

import io
import json
import tarfile
import urllib.request
from dataclasses import dataclass
from typing import Any

_ACCEPTED = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        "oci.image.index.v1",
        "oci.image.manifest.v1",
        "docker.distribution.manifest.list.v2",
        "docker.distribution.manifest.v2",
    )
)


@dataclass(frozen=True, slots=True)
class PushedImage:
    """One platform's image: its manifest's digest, and every file of its layers, later ones over earlier ones."""

    digest: str
    files: dict[str, bytes]


def read(registry: str, repository: str, tag: str) -> dict[str, PushedImage]:
    """Platform -> image; attestations are left out."""
    return {
        "/".join(filter(None, (platform["os"], platform["architecture"], platform.get("variant")))): _image(
            registry, repository, entry["digest"]
        )
        for entry in index(registry, repository, tag)["manifests"]
        if (platform := entry["platform"])["os"] != "unknown"
    }


def index(registry: str, repository: str, tag: str) -> dict[str, Any]:
    """The list of manifests that the tag leads to."""
    found: dict[str, Any] = json.loads(_get(registry, repository, f"manifests/{tag}"))
    return found


def put_index(registry: str, repository: str, tag: str, content: dict[str, Any]) -> None:
    """Have the tag lead to this list of manifests, whatever it says."""
    request = urllib.request.Request(
        f"http://{registry}/v2/{repository}/manifests/{tag}",
        data=json.dumps(content).encode(),
        headers={"Content-Type": content["mediaType"]},
        method="PUT",
    )
    urllib.request.urlopen(request, timeout=30).close()


def tags(registry: str, repository: str) -> list[str]:
    """The repository's tags; none when it does not exist."""
    try:
        return list(json.loads(_get(registry, repository, "tags/list"))["tags"] or [])
    except urllib.error.HTTPError:
        return []


def _image(registry: str, repository: str, digest: str) -> PushedImage:
    manifest: dict[str, Any] = json.loads(_get(registry, repository, f"manifests/{digest}"))
    files: dict[str, bytes] = {}
    for layer in manifest["layers"]:
        with tarfile.open(fileobj=io.BytesIO(_get(registry, repository, f"blobs/{layer['digest']}"))) as archive:
            for member in archive:
                if member.isfile() and (stream := archive.extractfile(member)):
                    files[member.name.removeprefix("./")] = stream.read()
    return PushedImage(digest, files)


def _get(registry: str, repository: str, path: str) -> bytes:
    request = urllib.request.Request(f"http://{registry}/v2/{repository}/{path}", headers={"Accept": _ACCEPTED})
    with urllib.request.urlopen(request, timeout=30) as answer:
        content: bytes = answer.read()
        return content
