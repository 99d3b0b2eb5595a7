"""Sizes, durations and moments, as people write and read them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?) ?(?:([kmgt])(i?))?b?", re.ASCII | re.IGNORECASE)
_PART = r"(\d{1,9}(?:\.\d{1,9})?)([smhdw])"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_LONGEST = timedelta(days=36500)
"""Go counts nanoseconds in 64 bits."""


def size(count: int | None) -> str:
    """Bytes for a person, in powers of 1000 as disks are sold; unknown is a dash, never zero."""
    if count is None:
        return "–"
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 10 else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def lasting(seconds: float) -> str:
    """How long something took, for a person: 0.8 s, 42 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def parse_size(text: str) -> int:
    """Bytes of `10GB`, `10G`, `512MiB` or `1000`: powers of 1000, with an i of 1024; raises ValueError."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise ValueError(f"{text!r} is not a size such as 10GB or 512MiB")
    number, unit, binary = found.groups()
    exponent = " kmgt".index(unit.lower()) if unit else 0
    count = round(float(number) * float(1024 if binary else 1000) ** exponent)
    if count >= 1 << 63:
        raise ValueError(f"{text!r} is more than there is")
    return count


def parse_duration(text: str) -> timedelta:
    """`90s`, `10m`, `1h30m`, `7d` or `2w`; raises ValueError."""
    if not re.fullmatch(f"(?:{_PART})+", text, re.ASCII):
        raise ValueError(f"{text!r} is not a duration such as 10m, 2h or 7d")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in re.findall(_PART, text))
    if seconds > _LONGEST.total_seconds():
        raise ValueError(f"{text!r} is longer than 100 years")
    return timedelta(seconds=seconds)


def parse_moment(text: str, now: datetime) -> datetime:
    """A duration before `now`, or a date and time (ISO 8601; local time if it names no zone); raises ValueError."""
    if re.fullmatch(f"(?:{_PART})+", text, re.ASCII):
        return now - parse_duration(text)
    try:
        return datetime.fromisoformat(text).astimezone(now.tzinfo)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is neither a duration such as 10m nor a time such as 2026-05-01T12:00") from None
