"""Sizes, durations and moments, as people write and read them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.quantities import parse_duration, parse_moment, parse_size, size
from tests.support.values import NOW


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "–"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (9_949, "9.9 kB"),
        (12_345, "12 kB"),
        (1_500_000, "1.5 MB"),
        (999_000_000, "999 MB"),
        (50_000_000_000, "50 GB"),
        (2_345_000_000_000, "2.3 TB"),
        (23_450_000_000_000, "23.4 TB"),
    ],
)
def test_a_size_for_people(count: int | None, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("1000", 1000),
        ("512B", 512),
        ("1k", 1000),
        ("10GB", 10_000_000_000),
        ("10gb", 10_000_000_000),
        ("10 G", 10_000_000_000),
        ("1.5GB", 1_500_000_000),
        ("2TB", 2_000_000_000_000),
        ("1KiB", 1024),
        ("512MiB", 512 * 1024**2),
        ("1Gi", 1024**3),
        (" 7MB ", 7_000_000),
    ],
)
def test_a_size_is_read(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize(
    "text", ["", "GB", "-1GB", "ten", "10 GB free", "10%", "1e9", "1,5GB", "9i", "٣GB", "99999999999T"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a size|more than there is"):
        parse_size(text)


@given(st.integers(0, 10**15))
def test_a_size_that_was_shown_is_read_again_within_its_precision(count: int) -> None:
    assert abs(parse_size(size(count)) - count) <= count * 0.05 + 0.5


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("2h", 7200),
        ("1h30m", 5400),
        ("7d", 604_800),
        ("2w", 1_209_600),
        ("1.5h", 5400),
        ("0s", 0),
    ],
)
def test_a_duration_is_read(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "10", "h", "-1h", "10 m", "1month", "1h 30m", "999999999w"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a duration|longer than"):
        parse_duration(text)


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine two hours ahead of UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "CEST-2")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("10m", NOW - timedelta(minutes=10)),
        ("1d12h", NOW - timedelta(hours=36)),
        ("2030-04-30T08:00:00Z", datetime(2030, 4, 30, 8, tzinfo=UTC)),
        ("2030-04-30T08:00+01:00", datetime(2030, 4, 30, 7, tzinfo=UTC)),
        ("2030-04-30T08:00", datetime(2030, 4, 30, 6, tzinfo=UTC)),
        ("2030-04-30 08:00:01.5", datetime(2030, 4, 30, 6, 0, 1, 500_000, tzinfo=UTC)),
        ("2030-04-30", datetime(2030, 4, 29, 22, tzinfo=UTC)),
    ],
)
def test_a_moment_is_read(text: str, moment: datetime) -> None:
    assert parse_moment(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "noon", "10", "2030-13-01", "0001-01-01T00:00+14:00"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is neither a duration"):
        parse_moment(text, NOW)
