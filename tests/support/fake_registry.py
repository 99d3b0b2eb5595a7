"""Registries in memory: small images that a real Docker Engine takes, too."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from fleet.containers import images
from fleet.errors import HostError
from fleet.model.facts import Stage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fleet.containers.images import Archive
    from fleet.model.facts import Offer


@dataclass(slots=True)
class FakeRegistry:
    """Has every image for these architectures, but none that is called nowhere."""

    arches: tuple[str, ...] = ("amd64", "arm64", "riscv64")
    answers: bool = True
    fetched: list[str] = field(default_factory=list)
    """Digests, in the order in which they were first asked for."""
    named: dict[str, str] = field(default_factory=dict)
    """What names were made to mean, as digests."""

    def offer(self, reference: str, arch: str) -> Offer:
        if not self.answers or "nowhere" in reference or arch not in self.arches:
            raise HostError(Stage.IMAGE, f"this machine cannot get {reference}", "is the reference right?")
        digest, blobs = image(reference, arch)
        return images.offer(reference, digest, blobs[digest].decode())

    def archive(self, offer: Offer, tag: str) -> Archive:
        if not self.answers:
            raise HostError(Stage.IMAGE, f"this machine cannot get {offer.reference}", "is the reference right?")
        blobs = next(
            blobs for digest, blobs in (image(offer.reference, arch) for arch in self.arches) if digest == offer.digest
        )
        if offer.digest not in self.fetched:
            self.fetched.append(offer.digest)
        return images.archive(offer.digest, blobs[offer.digest], tag, lambda digest, _: io.BytesIO(blobs[digest]))

    def name(self, names: Sequence[str], sources: Sequence[str]) -> str:
        if not self.answers:
            raise HostError(Stage.IMAGE, f"this machine cannot get {sources[0]}", "is the reference right?")
        digest = digest_of(" ".join(sources).encode())
        self.named |= dict.fromkeys(names, digest)
        return digest


@cache
def image(reference: str, arch: str) -> tuple[str, Mapping[str, bytes]]:
    """The digest of a manifest, and every blob by its digest."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        text = reference.encode() * 9
        entry = tarfile.TarInfo("reference")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))
    layer = gzip.compress(content.getvalue(), mtime=0)
    config = json.dumps(
        {
            "os": "linux",
            "architecture": arch,
            "config": {"Cmd": ["/true"]},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(content.getvalue())]},
        }
    ).encode()
    kind = "application/vnd.oci.image"
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": f"{kind}.manifest.v1+json",
            "config": {"mediaType": f"{kind}.config.v1+json", "digest": digest_of(config), "size": len(config)},
            "layers": [{"mediaType": f"{kind}.layer.v1.tar+gzip", "digest": digest_of(layer), "size": len(layer)}],
        }
    ).encode()
    return digest_of(manifest), {digest_of(blob): blob for blob in (layer, config, manifest)}


def digest_of(content: bytes) -> str:
    """As registries write it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
