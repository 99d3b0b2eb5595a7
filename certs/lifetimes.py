"""How long certificates live and when they are renewed: dates alone, without reading a certificate."""

from __future__ import annotations

from datetime import datetime, timedelta

AUTHORITY_LIFETIME = timedelta(days=3650)
"""Ten years: replacing a CA touches every node and client, so it should be a decision and not a deadline."""

LEAF_LIFETIME = timedelta(days=365)
"""A year: short enough that a lost key dies, long enough that a fleet left alone for months still works."""

RENEWAL_DAYS = 30
"""A certificate this close to its end is renewed: a month leaves room for holidays."""

MEMORY = timedelta(days=30)
"""How long it is remembered who had a certificate that has ended: long enough to wonder why something stopped."""

CLOCK_TOLERANCE = timedelta(minutes=5)
"""How far not-before lies in the past, so that a host whose clock is slow accepts a new certificate."""


def days_left(expires: datetime, now: datetime) -> int:
    """Whole days until then; negative afterwards."""
    return (expires - now) // timedelta(days=1)


def needs_renewal(
    expires: datetime,
    now: datetime,
    *,
    days: int = RENEWAL_DAYS,
    issued: datetime | None = None,
    authority_expires: datetime | None = None,
) -> bool:
    """Whether a leaf ends within `days`, or has ended, and a new one would last longer: none outlives its CA.

    One that is good for hours would need it from the beginning: from `issued` on, it has two thirds of its time.
    """
    lasting = authority_expires is None or authority_expires > expires
    window = timedelta(days=days)
    return lasting and expires - now <= (min(window, (expires - issued) / 3) if issued else window)
