"""A lock on a host: held by a process there that lives as long as the connection to it."""

from __future__ import annotations

HEARTBEAT = 20
"""Seconds between two signs of life of the holder."""

SCRIPT = r"""
umask 0
file=/tmp/fleet.$1.lock
[ -e "$file" ] || : > "$file"
exec 9< "$file" || exit 1
if ! flock -n 9; then echo taken; cat "$file"; exit; fi
printf '%s\n' "$2" 2>/dev/null > "$file"
echo held
while [ -n "$(timeout 90 head -n 1)" ]; do :; done
"""
"""Arguments: the lock's name, who takes it. A kernel lock: it ends with its last holder, here this very shell.

The file may be another user's; then it still locks, and only the name of the holder is an older one.
"""


def path(name: str) -> str:
    """The file that is locked, on the host."""
    return f"/tmp/fleet.{name}.lock"  # noqa: S108 - the one place that all users of a host share
