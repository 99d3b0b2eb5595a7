"""What this machine's buildx remembers of the builds that it asked for: docker/buildx `localstate`, v0.36."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from fleet.adapters.buildx_run import REFS, RUNS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def context_of(ref: str, configurations: Iterable[Path]) -> str | None:
    """The context of a build that this machine asked for, which may be empty; None: it did not, or has forgotten.

    `configurations`: the folders in which buildx keeps what it knows.
    """
    if not ref.isalnum():
        return None
    for folder in configurations:
        # Of a build under way, what `fleet build` asked for lies with its run.
        for stored in (*folder.glob(f"{REFS}/*/*/{ref}"), *folder.glob(f"{RUNS}/*/{REFS}/*/*/{ref}")):
            try:
                path = json.loads(stored.read_text())["LocalPath"]
            except (OSError, ValueError, KeyError, TypeError):
                path = ""
            return path if isinstance(path, str) and path != "-" else ""
    return None
