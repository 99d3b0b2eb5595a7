"""The test lab: real hosts, a registry and the build tools on one Linux machine (docs/lab.md)."""

from tests.lab.lab import Lab
from tests.lab.shell import LabError

__all__ = ["Lab", "LabError"]
