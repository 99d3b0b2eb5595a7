"""What a registry has under a name: read from manifests, and held against what each image says of itself."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from fleet.cli.inspect import published_json, show
from fleet.manifests import PlatformImage, Published, digests, published

AMD, ARM, VOUCHES = (f"sha256:{letter * 64}" for letter in "abc")
PROVENANCE = "https://slsa.dev/provenance/v1"


def entry(digest: str, platform: str, **annotations: str) -> dict[str, Any]:
    os, arch, variant = (*platform.split("/"), "", "")[:3]
    described = {"os": os, "architecture": arch} | ({"variant": variant} if variant else {})
    return {"digest": digest, "size": 500, "platform": described, "annotations": annotations}


def manifest(*sizes: int, predicate: str = "") -> str:
    annotations = {"in-toto.io/predicate-type": predicate} if predicate else {}
    layers = [
        {"digest": f"sha256:{number:064x}", "size": size, "annotations": annotations}
        for number, size in enumerate(sizes)
    ]
    return json.dumps({"config": {"digest": f"sha256:{'f' * 64}", "size": 10}, "layers": layers})


VOUCHED = {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": AMD}
INDEX = json.dumps(
    {
        "schemaVersion": 2,
        "manifests": [
            entry(AMD, "linux/amd64"),
            entry(ARM, "linux/arm64/v8"),
            entry(VOUCHES, "unknown/unknown", **VOUCHED),
        ],
    }
)
MANIFESTS = {AMD: manifest(100, 200), ARM: manifest(50), VOUCHES: manifest(5, 7, predicate=PROVENANCE)}
CONFIGURATIONS = {
    AMD: '{"os": "linux", "architecture": "amd64", "config": {"Env": []}}',
    ARM: '{"os": "linux", "architecture": "arm64"}',
}


def test_every_platform_with_its_size_and_what_vouches_for_it() -> None:
    assert digests(INDEX) == ((AMD, ARM), (VOUCHES,))
    assert published("r/app:v1", INDEX, MANIFESTS, CONFIGURATIONS) == Published(
        "r/app:v1",
        f"sha256:{hashlib.sha256(INDEX.encode()).hexdigest()}",
        (
            PlatformImage("linux/amd64", AMD, 310, (PROVENANCE,), "linux/amd64"),
            PlatformImage("linux/arm64/v8", ARM, 60, (), "linux/arm64"),
        ),
    )


def test_a_single_image_is_what_it_says_itself() -> None:
    single = manifest(100)
    assert digests(single) == ((), ())
    found = published("r/app", single, {}, {"r/app": CONFIGURATIONS[ARM]})
    assert found.images == (PlatformImage("linux/arm64", found.digest, 110, (), "linux/arm64"),)
    assert not found.images[0].mismatched


def test_layers_that_are_there_twice_are_fetched_once() -> None:
    twice = {"digest": f"sha256:{'e' * 64}", "size": 100}
    single = json.dumps({"config": {"digest": f"sha256:{'f' * 64}", "size": 10}, "layers": [twice, twice]})
    assert published("r/app", single, {}, {"r/app": "{}"}).images[0].size == 110


@pytest.mark.parametrize(
    ("listed", "actual", "mismatched"),
    [
        ("linux/amd64", "linux/amd64", False),
        ("linux/arm64", "linux/amd64", True),
        ("linux/arm64/v8", "linux/arm64", False),
        ("linux/arm64", "linux/arm64/v8", False),
        ("linux/amd64/v2", "linux/amd64", False),
        ("linux/arm/v7", "linux/arm/v6", True),
        ("linux/arm/v7", "linux/arm/v7", False),
        ("linux/arm64/v8", "linux/arm64/v9", True),
        ("linux/amd64/v1", "linux/amd64/v2", True),
        ("windows/amd64", "linux/amd64", True),
        ("unknown", "linux/amd64", False),
        ("linux/amd64", None, False),
    ],
)
def test_an_image_is_what_it_is_listed_as(listed: str, actual: str | None, mismatched: bool) -> None:
    assert PlatformImage(listed, AMD, 1, (), actual).mismatched is mismatched


@pytest.mark.parametrize(
    "top",
    ["", "[]", "{", '{"manifests": [{"digest": "nonsense"}]}', '{"layers": [{"digest": "../../etc", "size": 1}]}'],
)
def test_what_is_no_manifest_is_refused(top: str) -> None:
    with pytest.raises(ValueError, match="its manifest cannot be read"):
        digests(top)


def test_what_is_no_image_has_no_platform() -> None:
    found = published("r/chart", manifest(9), {}, {"r/chart": "{}"})
    assert (found.images[0].platform, found.images[0].actual) == ("unknown", None)


def test_the_table_and_the_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = published("r/app:v1", INDEX, MANIFESTS, CONFIGURATIONS)
    show(found)
    assert capsys.readouterr().out.splitlines() == [
        f"r/app:v1  {found.digest}",
        f"platform         size  {'digest':<71}  attestations",
        f"linux/amd64     310 B  {AMD}  slsa.dev/provenance/v1",
        f"linux/arm64/v8   60 B  {ARM}  –",
    ]
    printed = published_json(found)
    assert printed["images"][0] == {
        "platform": "linux/amd64",
        "actual_platform": "linux/amd64",
        "matches": True,
        "digest": AMD,
        "size_bytes": 310,
        "attestations": [PROVENANCE],
    }
    assert (printed["image"], printed["digest"]) == ("r/app:v1", found.digest)
