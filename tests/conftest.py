"""What holds for all tests."""

from __future__ import annotations

import signal

# Whoever runs the tests in the background of a shell has SIGINT ignored, and so would have every program that they
# start; ctrl-C is part of what is tested.
signal.signal(signal.SIGINT, signal.default_int_handler)
