"""Texts with tones, laid out: wide characters, room that is short, and what is not known."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.values import NOW
from tui.cells import Cell, Column, age, bar, fitted, layout, length, matches, ordered, plain, sparkline, toned, wrapped


@pytest.mark.parametrize(
    ("text", "width", "right", "shown"),
    [
        ("ready", 7, False, "ready  "),
        ("ready", 7, True, "  ready"),
        ("ready", 5, False, "ready"),
        ("ready", 4, False, "rea…"),
        ("日本語", 6, False, "日本語"),
        ("日本語", 5, False, "日本…"),
        ("日本語", 4, False, "日 …"),
        ("ready", 1, False, "…"),
        ("ready", 0, False, ""),
    ],
)
def test_a_cell_is_made_to_fit(text: str, width: int, right: bool, shown: str) -> None:
    assert plain(fitted(toned(text), width, right=right)) == shown


@given(st.text(max_size=30), st.integers(0, 20), st.booleans())
def test_whatever_is_in_a_cell_it_takes_exactly_its_room(text: str, width: int, right: bool) -> None:
    assert length(fitted(toned(text), width, right=right)) == width


@given(st.lists(st.text("ab 日c", max_size=12), max_size=5), st.integers(4, 20))
def test_wrapped_lines_are_no_wider_and_lose_nothing_but_blanks(texts: list[str], width: int) -> None:
    cell: Cell = tuple((text, "") for text in texts)
    lines = wrapped(cell, width)
    assert all(length(((plain(line).rstrip(), ""),)) <= width for line in lines)
    assert "".join("".join(map(plain, lines)).split()) == "".join(plain(cell).split())


def test_nothing_that_a_terminal_would_obey_gets_through() -> None:
    assert plain(toned("a\x1b[2Jb\nc")) == "a�[2Jb�c"


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0.0, "────"), (0.01, "━───"), (0.5, "━━──"), (0.99, "━━━━"), (1.0, "━━━━"), (1.2, "━━━━")],
)
def test_a_bar_shows_what_is_not_nothing_and_no_more_than_all(share: float, shown: str) -> None:
    assert plain(bar(share, 4, "good")) == shown


def test_a_sparkline_has_gaps_where_nothing_is_known_and_the_newest_on_the_right() -> None:
    assert plain(sparkline([0, 1, None, 4], 6, 4)) == "  ▁▃ █"
    assert plain(sparkline([0, 1, 2, 3, 4], 3, 4)) == "▅▆█"
    assert plain(sparkline([], 2, 4)) == "  "


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0s"), (99, "99s"), (100, "2m"), (5900, "98m"), (6000, "2h"), (100_000, "28h"), (200_000, "2d"), (-5, "0s")],
)
def test_an_age_in_one_unit(seconds: int, shown: str) -> None:
    assert age(NOW - timedelta(seconds=seconds), NOW) == shown


def test_never_is_no_age() -> None:
    assert age(None, NOW) == "–"


@pytest.mark.parametrize(
    ("pattern", "passes"),
    [("", True), ("ARM", True), ("amd", False), ("!amd", True), ("!arm", False), ("!", True), (" arm ", True)],
)
def test_a_filter(pattern: str, passes: bool) -> None:
    assert matches(pattern, "arm-1 ready") is passes


def column(title: str, width: int, rank: int = 0, *, grows: bool = False) -> Column[int]:
    return Column(title, lambda row: toned(str(row)), lambda row: row, width, rank, grows=grows)


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (40, [("NAME", 8), ("A", 4), ("B", 4), ("WHY", 18)]),
        (30, [("NAME", 8), ("A", 4), ("B", 4), ("WHY", 8)]),
        (29, [("NAME", 8), ("B", 4), ("WHY", 13)]),
        (20, [("NAME", 8), ("WHY", 10)]),
        (5, [("NAME", 8), ("WHY", 8)]),
    ],
)
def test_columns_make_room_for_each_other_by_rank(width: int, shown: list[tuple[str, int]]) -> None:
    columns = [column("NAME", 4), column("A", 4, 2), column("B", 4, 1), column("WHY", 8, grows=True)]
    assert [(one.title, space) for one, space in layout(columns, width, 8)] == shown


@pytest.mark.parametrize("descending", [False, True])
def test_unknown_comes_last_either_way(descending: bool) -> None:
    rows: list[int | None] = [2, None, 1, 3]
    by: Column[int | None] = Column("N", lambda _: (), lambda row: row, 4)
    known = [3, 2, 1] if descending else [1, 2, 3]
    assert ordered(rows, by, descending=descending) == [*known, None]
