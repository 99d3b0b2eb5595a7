"""Images for hosts that cannot pull: what a registry has of one, and the archive of it that Docker loads.

The archive is laid out twice over the same blobs, as `docker save` does it: for Engines that keep images in their own
way (manifest.json), and for those that leave it to containerd (an OCI layout, opencontainers/image-spec).
"""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, BinaryIO

from pydantic import Field

from fleet.manifests import Descriptor, Model, read
from fleet.model.facts import Offer
from fleet.model.platforms import Platform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_PIECE = 1 << 16
"""Bytes read at a time."""

_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)
_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class _Published(Descriptor):
    manifests: tuple[Descriptor, ...] = ()


class _Manifest(Model):
    media_type: Annotated[str, Field(alias="mediaType")] = _MANIFEST
    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class Archive:
    """A tar that Docker loads, piece by piece; `size` in bytes of all of it."""

    size: int
    pieces: Iterator[bytes]


def manifest_for(published: str, arch: str) -> tuple[str, bool]:
    """The digest of the manifest for linux on `arch`, by what `imagetools inspect --format '{{json .Manifest}}'` says.

    And whether it is the only one there is, whatever it is for. Raises ValueError.
    """
    found = read(_Published, published)
    if not found.manifests:
        return found.digest, True
    wanted = Platform("linux", arch).normalised()
    offered = {
        Platform(one.platform.os, one.platform.architecture, one.platform.variant).normalised(): one.digest
        for one in reversed(found.manifests)
        # What belongs to an image but is none, such as its provenance.
        if one.platform.os == "linux"
    }
    if wanted not in offered:
        raise ValueError(
            f"it is there for {', '.join(map(str, sorted(offered))) or 'no platform'} only, not for {arch}"
        )
    return offered[wanted], False


def offer(reference: str, digest: str, manifest: str) -> Offer:
    """What is to be had by this manifest; raises ValueError."""
    found = read(_Manifest, manifest)
    blobs = {blob.digest: blob.size for blob in (found.config, *found.layers)}
    return Offer(reference, digest, found.config.digest, sum(blobs.values()))


def repository(reference: str) -> str:
    """The reference without its tag and digest."""
    name = reference.partition("@")[0]
    path, colon, tag = name.rpartition(":")
    return path if colon and "/" not in tag else name


def archive(digest: str, manifest: bytes, tag: str, blob: Callable[[str, int], BinaryIO]) -> Archive:
    """The image of that manifest, under that tag alone; `blob` opens what has a digest and a size.

    Raises ValueError.
    """
    found = read(_Manifest, manifest)
    described = {
        "mediaType": found.media_type,
        "digest": digest,
        "size": len(manifest),
        "annotations": {
            "io.containerd.image.name": f"docker.io/library/{tag}",
            "org.opencontainers.image.ref.name": tag.partition(":")[2],
        },
    }
    index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [described]}
    layers = [_path(layer.digest) for layer in found.layers]
    legacy = [{"Config": _path(found.config.digest), "RepoTags": [tag], "Layers": layers}]
    texts = {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps(index).encode(),
        "manifest.json": json.dumps(legacy).encode(),
        _path(digest): manifest,
    }
    blobs = {one.digest: one.size for one in (found.config, *found.layers)}
    size = sum(_BLOCK + _padded(length) for length in (*map(len, texts.values()), *blobs.values())) + len(_END)
    return Archive(size, _pieces(texts, blobs, blob))


def _pieces(
    texts: Mapping[str, bytes], blobs: Mapping[str, int], blob: Callable[[str, int], BinaryIO]
) -> Iterator[bytes]:
    for name, content in texts.items():
        yield _header(name, len(content)) + content + _padding(len(content))
    for digest, size in blobs.items():
        yield _header(_path(digest), size)
        with blob(digest, size) as file:
            while piece := file.read(_PIECE):
                yield piece
        yield _padding(size)
    yield _END


def _header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o644
    return entry.tobuf(tarfile.USTAR_FORMAT)


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _padding(size: int) -> bytes:
    return bytes(_padded(size) - size)


def _path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"
