"""The lab for the real adapters, and names of their own for tests that run side by side."""

from __future__ import annotations

import pytest

from tests.lab import Lab
from tests.support.lab import running_lab, worker

FIRST_PORT = 1299


@pytest.fixture(scope="session")
def lab() -> Lab:
    """The lab with amd-1."""
    return running_lab("amd-1")


@pytest.fixture(scope="session")
def fleet_name() -> str:
    """A fleet of this process's own."""
    return f"contract-{worker()}"


@pytest.fixture(scope="session")
def port() -> int:
    """A port of this process's own."""
    return FIRST_PORT + worker()
