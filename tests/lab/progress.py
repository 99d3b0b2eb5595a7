"""One line on stderr when a step begins, one when it ends."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


def say(text: str) -> None:
    """Narration; results go to stdout."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def step(what: str, seconds: int) -> Iterator[None]:
    """Announce a step with its estimate, then how long it really took."""
    say(f"{what} … about {seconds} s")
    began = time.monotonic()
    try:
        yield
    except BaseException:
        say(f"{what}: failed after {time.monotonic() - began:.0f} s")
        raise
    say(f"{what}: done, {time.monotonic() - began:.0f} s")
