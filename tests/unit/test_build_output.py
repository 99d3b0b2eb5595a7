"""What is told of a build that is done: lines for people, JSON for CI, and buildx's own metadata file."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from fleet.builds import BuildRecord, Outcome, Steps
from fleet.cli.build_output import add_metadata, as_json, lines
from fleet.dispatching.dispatch import Share
from fleet.errors import FleetError
from tests.support.values import NOW, platforms

DIGEST = "sha256:" + "ab" * 32
RECORD = BuildRecord(
    "amd-1", "ref-1", NOW, NOW + timedelta(seconds=2.5), Outcome.DONE, steps=Steps(7, 7, 5), digest=DIGEST
)
AMD = Share("amd-1", platforms("linux/amd64", "linux/386"), emulated=False, record=RECORD)
RISCV = Share("arm-1", platforms("linux/riscv64"), emulated=True, record=None)


def test_a_node_has_a_line_in_columns() -> None:
    assert list(lines([AMD, RISCV])) == [
        f"linux/amd64,linux/386  amd-1  native    5 of 7 steps cached  2.5 s  {DIGEST}",
        "linux/riscv64          arm-1  emulated  –                    –      –",
    ]
    assert list(lines([])) == []


def test_the_json_tells_the_same() -> None:
    assert json.loads(json.dumps(as_json("acme", 0, [AMD, RISCV]))) == {
        "fleet": "acme",
        "exit_code": 0,
        "builds": [
            {
                "platforms": ["linux/amd64", "linux/386"],
                "node": "amd-1",
                "native": True,
                "steps": {"done": 7, "total": 7, "cached": 5},
                "seconds": 2.5,
                "digest": DIGEST,
                "ref": "ref-1",
            },
            {
                "platforms": ["linux/riscv64"],
                "node": "arm-1",
                "native": False,
                "steps": None,
                "seconds": None,
                "digest": None,
                "ref": None,
            },
        ],
    }


def test_a_metadata_file_keeps_what_buildx_wrote(tmp_path: Path) -> None:
    path = tmp_path / "metadata.json"
    path.write_text(json.dumps({"containerimage.digest": DIGEST}))
    add_metadata(path, as_json("acme", 0, [AMD]))
    content = json.loads(path.read_text())
    assert content["containerimage.digest"] == DIGEST
    assert content["fleet"]["builds"][0]["node"] == "amd-1"
    assert [file.name for file in tmp_path.iterdir()] == ["metadata.json"]


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_metadata_file_that_is_not_buildxs_is_told(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "metadata.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(FleetError, match=r"metadata\.json cannot be written"):
        add_metadata(path, {})
    assert path.exists() is (content is not None)
