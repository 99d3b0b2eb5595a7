"""What holds for all tests."""

from __future__ import annotations

import os
import signal

import pytest
from xdist.scheduler import LoadScopeScheduling

# Whoever runs the tests in the background of a shell has SIGINT ignored, and so would have every program that they
# start; ctrl-C is part of what is tested.
signal.signal(signal.SIGINT, signal.default_int_handler)

LONGEST = (
    "e2e/arm64",
    "e2e/test_watch",
    "e2e/test_rotation",
    "e2e/test_gateway",
    "e2e/test_faults",
    "contract/test_prober",
    "e2e/test_lost_owners",
    "e2e/test_kills",
    "contract/test_engine.py",
    "e2e/test_dispatch",
)
"""What takes longest, which should not be begun last."""


class ByHosts(LoadScopeScheduling):  # type: ignore[misc]  # xdist is not typed
    """In several processes, each with amd64 hosts of its own: a module stays in one, and so does all that needs arm64.

    Of that there is one host. (xdist's own groups do not go with pytest 9.2: its issue 1386.)
    """

    def _split_scope(self, nodeid: str) -> str:
        return "arm64" if "arm64" in nodeid else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling | None:
    """For `--dist loadscope`."""
    return ByHosts(config, log) if config.getvalue("dist") == "loadscope" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, where there are several processes."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: next((n for n, name in enumerate(LONGEST) if name in item.nodeid), len(LONGEST)))
