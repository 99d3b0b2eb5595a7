"""Images on their way: what registries say of them, and the archive that Docker loads."""

from __future__ import annotations

import io
import json
import tarfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.containers import images
from fleet.model.facts import Offer
from fleet.planning.actions import SendImage

AMD, ARM, ARM_V6, OTHER = (f"sha256:{digit * 64}" for digit in "1234")
MARK = "fleet.acme:pulled-0123456789ab"


def index(*platforms: tuple[str, dict[str, str]]) -> str:
    return json.dumps({"digest": OTHER, "manifests": [{"digest": d, "platform": p} for d, p in platforms]})


LINUX_AMD = (AMD, {"os": "linux", "architecture": "amd64"})
LINUX_ARM = (ARM, {"os": "linux", "architecture": "arm", "variant": "v7"})
PUBLISHED: dict[str, tuple[str, str, tuple[str, bool]]] = {
    "one of several": (index(LINUX_AMD, LINUX_ARM), "amd64", (AMD, False)),
    "the default variant": (index((ARM_V6, LINUX_ARM[1] | {"variant": "v6"}), LINUX_ARM), "arm", (ARM, False)),
    "a variant that is spelled out": (
        index((ARM, {"os": "linux", "architecture": "arm64", "variant": "v8"})),
        "arm64",
        (ARM, False),
    ),
    "provenance beside it": (
        index(LINUX_AMD, (OTHER, {"os": "unknown", "architecture": "unknown"})),
        "amd64",
        (AMD, False),
    ),
    "the first of two": (index(LINUX_AMD, (OTHER, LINUX_AMD[1])), "amd64", (AMD, False)),
    "the only one": (json.dumps({"digest": AMD, "mediaType": "…"}), "amd64", (AMD, True)),
}


@pytest.mark.parametrize(("said", "arch", "manifest"), PUBLISHED.values(), ids=PUBLISHED)
def test_the_manifest_for_an_architecture(said: str, arch: str, manifest: tuple[str, bool]) -> None:
    assert images.manifest_for(said, arch) == manifest


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (index(LINUX_AMD, LINUX_ARM), "it is there for linux/amd64, linux/arm/v7 only, not for riscv64"),
        (index((AMD, {"os": "windows", "architecture": "riscv64"})), "it is there for no platform only"),
        ("{}", "its manifest cannot be read: digest"),
        ("<html>", "its manifest cannot be read"),
        (index(("sha256:../../etc", {})), "its manifest cannot be read: manifests.0.digest"),
    ],
)
def test_what_is_no_manifest_for_it(said: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        images.manifest_for(said, "riscv64")


def manifest(*layers: tuple[str, int], **changed: Any) -> str:
    described = [{"digest": digest, "size": size} for digest, size in layers]
    return json.dumps({"config": {"digest": AMD, "size": 7}, "layers": described} | changed)


def test_an_offer_counts_what_is_sent_twice_once() -> None:
    offer = images.offer("x:1", OTHER, manifest((ARM, 1_000_000), (ARM_V6, 500), (ARM, 1_000_000)))
    assert offer == Offer("x:1", OTHER, AMD, 1_000_507)
    assert str(SendImage(offer, MARK)) == "send x:1 (1.0 MB)"


@pytest.mark.parametrize(
    ("reference", "repository"),
    [
        ("moby/buildkit:v1", "moby/buildkit"),
        ("r.example:5000/buildkit:v1", "r.example:5000/buildkit"),
        (f"r.example:5000/buildkit@{AMD}", "r.example:5000/buildkit"),
        (f"buildkit:v1@{AMD}", "buildkit"),
    ],
)
def test_a_reference_without_tag_and_digest(reference: str, repository: str) -> None:
    assert images.repository(reference) == repository


@given(st.lists(st.binary(max_size=200_000), min_size=1, max_size=3))
def test_an_archive_is_a_tar_of_the_size_that_is_told(contents: list[bytes]) -> None:
    blobs = {f"sha256:{number:064x}": content for number, content in enumerate(contents)}
    first, *layers = ((digest, len(content)) for digest, content in blobs.items())
    described = manifest(*layers, *layers, config={"digest": first[0], "size": first[1]}).encode()
    archive = images.archive(OTHER, described, MARK, lambda digest, _: io.BytesIO(blobs[digest]))
    received = b"".join(archive.pieces)
    assert len(received) == archive.size
    with tarfile.open(fileobj=io.BytesIO(received)) as tar:
        files = {entry.name: file.read() for entry in tar if (file := tar.extractfile(entry))}
    names = {digest: f"blobs/{digest.replace(':', '/')}" for digest in (*blobs, OTHER)}
    assert {name: files[name] for name in names.values()} == {
        names[digest]: content for digest, content in (blobs | {OTHER: described}).items()
    }
    assert json.loads(files["manifest.json"]) == [
        {"Config": names[first[0]], "RepoTags": [MARK], "Layers": [names[digest] for digest, _ in layers] * 2}
    ]
