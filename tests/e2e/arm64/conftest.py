"""The lab with its emulated host."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import HOSTS
from tests.lab import Lab
from tests.support.lab import running_lab


@pytest.fixture(scope="session")
def lab() -> Lab:
    """The lab with its three hosts."""
    return running_lab(*HOSTS)
