"""Where fleet keeps, for this user, what it could lose."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """fleet/ in XDG_CACHE_HOME or ~/.cache; it need not be there."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fleet"
