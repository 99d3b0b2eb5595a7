"""The command line: arguments in, rendering out. The one place where adapters and core are put together."""

from fleet.cli.main import main

__all__ = ["main"]
