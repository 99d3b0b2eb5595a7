"""Waiting until something holds."""

import time
from collections.abc import Callable

from tests.lab.shell import LabError


def wait_for(holds: Callable[[], bool], seconds: float, what: str, interval: float = 0.1) -> None:
    """Return once it holds; LabError when it does not within the given seconds."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise LabError(f"{what}: not ready after {seconds:.0f} s")
        time.sleep(interval)
