"""What every registry keeps: the fake, and buildx with the lab's registries."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fleet.adapters.registry import BuildxRegistry
from fleet.errors import HostError
from fleet.model.facts import Stage
from tests.lab import Lab
from tests.support import pushed
from tests.support.fake_registry import FakeRegistry

if TYPE_CHECKING:
    from fleet.containers.images import Archive
    from fleet.ports import Registry

MARK = "fleet.acme:pulled-0123456789ab"


@dataclass(frozen=True, slots=True)
class Shelf:
    """A registry that has an image for amd64 and arm64, and two names of it."""

    registry: Registry
    tagged: str
    for_one: str
    """A digest of it for amd64 alone."""


@pytest.fixture(params=["fake", "plain", "tls"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    if request.param == "fake":
        return Shelf(FakeRegistry(), "lab/base:latest", "lab/base:latest")
    return shelf_of(request.getfixturevalue("lab_here"), request.param, tmp_path)


@pytest.fixture
def lab_here(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """The lab, with its docker buildx."""
    for name, value in lab.env().items():
        monkeypatch.setenv(name, value)
    return lab


def shelf_of(lab: Lab, kind: str, cache: Path) -> Shelf:
    env = lab.env()
    plain, tls = env["LAB_REGISTRY"], env["LAB_TLS_REGISTRY"]
    reached: dict[str, Any] = {plain: {"http": True}, tls: {"ca": [env["LAB_TLS_REGISTRY_CA"]]}}
    tagged = env["LAB_BASE_IMAGE"].replace(plain, tls if kind == "tls" else plain)
    digest = pushed.read(plain, "lab/base", "latest")["linux/amd64"].digest
    return Shelf(BuildxRegistry(reached, cache), tagged, f"{tagged.removesuffix(':latest')}@{digest}")


def read(archive: Archive) -> dict[str, bytes]:
    content = b"".join(archive.pieces)
    assert len(content) == archive.size
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return {entry.name: file.read() for entry in tar if (file := tar.extractfile(entry))}


@pytest.mark.parametrize("arch", ["amd64", "arm64"])
def test_what_was_offered_is_fetched_under_one_tag(shelf: Shelf, arch: str) -> None:
    offer = shelf.registry.offer(shelf.tagged, arch)
    assert offer.reference == shelf.tagged
    files = read(shelf.registry.archive(offer, MARK))
    [image] = json.loads(files["manifest.json"])
    assert image["RepoTags"] == [MARK]
    config = files[image["Config"]]
    assert f"sha256:{hashlib.sha256(config).hexdigest()}" == offer.config
    assert json.loads(config)["architecture"] == arch
    [described] = json.loads(files["index.json"])["manifests"]
    assert described["digest"] == offer.digest
    assert described["annotations"]["io.containerd.image.name"] == f"docker.io/library/{MARK}"
    manifest = files[f"blobs/{offer.digest.replace(':', '/')}"]
    assert f"sha256:{hashlib.sha256(manifest).hexdigest()}" == offer.digest
    assert offer.size == len(config) + sum(len(files[layer]) for layer in image["Layers"])


def test_a_digest_names_the_same(shelf: Shelf) -> None:
    by_tag, by_digest = (shelf.registry.offer(name, "amd64") for name in (shelf.tagged, shelf.for_one))
    assert replace(by_tag, reference="") == replace(by_digest, reference="")


@pytest.mark.parametrize(("reference", "arch"), [("nowhere", "amd64"), ("", "s390x")])
def test_what_is_not_there_is_no_offer(shelf: Shelf, reference: str, arch: str) -> None:
    with pytest.raises(HostError) as caught:
        shelf.registry.offer(shelf.tagged.replace("base:latest", f"{reference}:1") if reference else shelf.tagged, arch)
    assert caught.value.stage is Stage.IMAGE
    assert caught.value.remedy


def test_an_image_for_another_architecture_alone_is_no_offer(lab_here: Lab, tmp_path: Path) -> None:
    shelf = shelf_of(lab_here, "plain", tmp_path)
    with pytest.raises(HostError, match="it is for amd64 only, not for arm64"):
        shelf.registry.offer(shelf.for_one, "arm64")


def test_an_image_is_fetched_once(lab_here: Lab, tmp_path: Path) -> None:
    shelf = shelf_of(lab_here, "plain", tmp_path)
    offer = shelf.registry.offer(shelf.tagged, "amd64")
    first = read(shelf.registry.archive(offer, MARK))
    assert [path.name for path in tmp_path.iterdir()] == [offer.digest.removeprefix("sha256:")]
    cut_off = BuildxRegistry({}, tmp_path)
    assert read(cut_off.archive(offer, MARK)) == first
    with pytest.raises(HostError, match="this machine cannot get"):
        cut_off.archive(replace(offer, digest=f"sha256:{'0' * 64}"), MARK)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_cache_that_is_damaged_is_not_sent(lab_here: Lab, tmp_path: Path) -> None:
    shelf = shelf_of(lab_here, "plain", tmp_path)
    offer = shelf.registry.offer(shelf.tagged, "amd64")
    shelf.registry.archive(offer, MARK)
    largest = max(tmp_path.rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    largest.chmod(0o600)
    largest.write_bytes(b"short")
    with pytest.raises(HostError, match="is damaged"):
        read(shelf.registry.archive(offer, MARK))


def test_a_registry_under_an_authority_that_nobody_trusts_is_refused(lab_here: Lab, tmp_path: Path) -> None:
    tagged = shelf_of(lab_here, "tls", tmp_path).tagged
    with pytest.raises(HostError, match="unknown authority"):
        BuildxRegistry({}, tmp_path).offer(tagged, "amd64")
