"""What a registry has under an image's name: its platforms, how large they are, what vouches for them.

Manifests and indexes are those of opencontainers/image-spec, or Docker's older ones; attestations lie beside the images
as moby/buildkit puts them there (docs/attestations).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fleet.model.platforms import Platform

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_KIND = "vnd.docker.reference.type"
_OF = "vnd.docker.reference.digest"
_ATTESTATION = "attestation-manifest"
_PREDICATE = "in-toto.io/predicate-type"
_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class PlatformImage:
    """One platform's image."""

    platform: str
    """As the index says; where there is none, as the image itself does."""
    digest: str
    size: int
    """Bytes to be fetched: layers, compressed, and configuration."""
    attestations: tuple[str, ...]
    """Predicate types of what vouches for it."""
    actual: str | None
    """What the image itself says that it is for; None: it does not."""

    @property
    def mismatched(self) -> bool:
        """Whether the index says something else than the image itself; a variant counts where both name one."""
        if self.actual is None or self.platform == _UNKNOWN:
            return False
        listed, actual = (text.split("/") for text in (self.platform, self.actual))
        if len(listed) == len(actual) == 3:
            return _normalised(self.platform) != _normalised(self.actual)
        return listed[:2] != actual[:2]


@dataclass(frozen=True, slots=True)
class Published:
    """All that is there under one name."""

    reference: str
    digest: str
    images: tuple[PlatformImage, ...]


class Model(BaseModel):
    """What a registry says, as far as it is looked at."""

    model_config = ConfigDict(frozen=True)


class ImagePlatform(Model):
    """As an index says it of an image, or an image's configuration of itself."""

    os: str = ""
    architecture: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


class Descriptor(Model):
    """What something is known and fetched by; size in bytes."""

    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0)] = 0
    platform: ImagePlatform = ImagePlatform()
    annotations: dict[str, str] = {}

    @property
    def is_attestation(self) -> bool:
        """Whether it vouches for an image."""
        return self.annotations.get(_KIND) == _ATTESTATION


class _Manifest(Model):
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] = ()
    manifests: tuple[Descriptor, ...] | None = None
    """Of an index."""


_M = TypeVar("_M", bound=Model)


def read(model: type[_M], text: str | bytes) -> _M:
    """What a registry has sent, as JSON; raises ValueError."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"its manifest cannot be read: {'.'.join(map(str, first['loc']))} {first['msg']}") from error


def digests(top: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of an index the digests of its images, and those of its attestations; of a single image none.

    `top` is what the name leads to, as the registry has it. Raises ValueError.
    """
    entries = read(_Manifest, top).manifests or ()
    images = tuple(entry.digest for entry in entries if not entry.is_attestation)
    return images, tuple(entry.digest for entry in entries if entry.is_attestation)


def published(reference: str, top: str, manifests: Mapping[str, str], configurations: Mapping[str, str]) -> Published:
    """All of it: `manifests` by the digests of `top`, `configurations` of images by the same, as JSON.

    A single image has its configuration by the reference. Raises ValueError.
    """
    digest = f"sha256:{hashlib.sha256(top.encode()).hexdigest()}"
    found = read(_Manifest, top)
    if found.manifests is None:
        actual = _actual(configurations[reference])
        image = PlatformImage(actual or _UNKNOWN, digest, _size(found), (), actual)
        return Published(reference, digest, (image,))
    vouched = {
        entry.annotations.get(_OF): _predicates(read(_Manifest, manifests[entry.digest]))
        for entry in found.manifests
        if entry.is_attestation
    }
    return Published(
        reference,
        digest,
        tuple(
            PlatformImage(
                platform=str(entry.platform) or _UNKNOWN,
                digest=entry.digest,
                size=_size(read(_Manifest, manifests[entry.digest])),
                attestations=vouched.get(entry.digest, ()),
                actual=_actual(configurations[entry.digest]),
            )
            for entry in found.manifests
            if not entry.is_attestation
        ),
    )


def _actual(configuration: str) -> str | None:
    platform = read(ImagePlatform, configuration)
    return str(platform) if platform.os and platform.architecture else None


def _size(manifest: _Manifest) -> int:
    blobs: Sequence[Descriptor] = (*((manifest.config,) if manifest.config else ()), *manifest.layers)
    return sum({blob.digest: blob.size for blob in blobs}.values())


def _predicates(manifest: _Manifest) -> tuple[str, ...]:
    return tuple(dict.fromkeys(found for layer in manifest.layers if (found := layer.annotations.get(_PREDICATE))))


def _normalised(text: str) -> Platform:
    os, arch, variant = (*text.split("/"), "", "")[:3]
    return Platform(os, arch, variant).normalised()
