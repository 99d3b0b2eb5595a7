"""Settings of all unit tests, and a machine on which to run fleet."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import settings

from fleet.cli import run as run_fleet

# A busy machine makes single examples slow; the suite's own time limit catches what hangs.
settings.register_profile("fleet", deadline=None)
settings.load_profile("fleet")

Run: TypeAlias = Callable[..., tuple[int, str, str]]

INVENTORY = """\
fleet: acme
hosts:
  amd-1: {address: 127.0.0.1, port: 1, ssh: {port: 1}}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An operator's machine with an inventory of one host that is not there."""
    (tmp_path / "inventory.yaml").write_text(INVENTORY)
    monkeypatch.chdir(tmp_path)
    for name in ("FLEET_INVENTORY", "FLEET_NAME", "FLEET_BUNDLE_PASSPHRASE", "BUILDX_BUILDER", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    for name, folder in {
        "HOME": "home",
        "FLEET_HOME": "vaults",
        "BUILDX_CONFIG": "buildx",
        "XDG_CACHE_HOME": "cache",
    }.items():
        monkeypatch.setenv(name, str(tmp_path / folder))
    return tmp_path


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs fleet with these arguments: exit code, stdout and stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fleet", *arguments])
        code = run_fleet()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return code, printed.out, printed.err

    assert home.is_dir()
    return call
