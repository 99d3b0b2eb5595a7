"""A lock on a host: held by a process there that lives as long as the connection to it."""

from __future__ import annotations

HEARTBEAT = 20
"""Seconds between two signs of life of the holder."""

SCRIPT = r"""
command -v flock > /dev/null || { echo 'there is no flock (util-linux)' >&2; exit 1; }
umask 0
file=/tmp/fleet.$1.lock
# -C creates and never follows; a link that somebody has put there is left alone.
(set -C; : > "$file") 2> /dev/null
[ -f "$file" ] && [ ! -L "$file" ] || { echo "$file is no plain file" >&2; exit 1; }
exec 9< "$file" || exit 1
if ! flock -n 9; then echo taken; head -c 300 "$file"; exit; fi
[ -O "$file" ] && printf '%s\n' "$2" > "$file"
echo held
while [ -n "$(timeout 90 head -n 1)" ]; do :; done
"""
"""Arguments: the lock's name, who takes it. A kernel lock: it ends with its last holder, here this very shell.

The file may be another user's; then it still locks, and only the name of the holder is an older one.
"""


def readable(holder: str) -> str:
    """What a file that anybody may write says of the lock's holder, without what a terminal would obey."""
    return "".join(letter for letter in holder if letter.isprintable()).strip() or "somebody"


def path(name: str) -> str:
    """The file that is locked, on the host."""
    return f"/tmp/fleet.{name}.lock"  # noqa: S108 - the one place that all users of a host share
