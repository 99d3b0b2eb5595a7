"""Logs of several daemons as one: lines, their order, and what is told when one of them cannot be read."""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.cli.logs import Run, _painter, _print_json
from fleet.logs import Line, Window, lines, merged
from fleet.model.facts import Down, Stage
from tests.support.fakes import Container, FakeEngine, Machine
from tests.support.values import NOW

OUT, ERR = 1, 2
STAMP = b"2030-05-01T12:00:0%d.123456789Z "
SECOND = timedelta(seconds=1)


def line(seconds: float, text: str = "") -> Line:
    return Line(NOW + seconds * SECOND, text or f"at {seconds}")


def at(second: int) -> datetime:
    return datetime(2030, 5, 1, 12, 0, second, 123456, tzinfo=UTC)


# -------------------------------------------------------------------------------------------------- lines

FRAMES: dict[str, tuple[list[tuple[int, bytes]], list[Line]]] = {
    "nothing": ([], []),
    "a line a frame": (
        [(OUT, STAMP % 1 + b"one\n"), (ERR, STAMP % 2 + b"two words\n")],
        [Line(at(1), "one"), Line(at(2), "two words")],
    ),
    "an empty line": ([(OUT, STAMP % 1 + b"\n")], [Line(at(1), "")]),
    "a long line in pieces": (
        [(OUT, STAMP % 1 + b"a "), (OUT, STAMP % 1 + b" b"), (OUT, STAMP % 2 + b"c\n")],
        [Line(at(1), "a  bc")],
    ),
    "pieces of two streams between each other": (
        [(OUT, STAMP % 1 + b"a"), (ERR, STAMP % 2 + b"x"), (OUT, STAMP % 3 + b"b\n"), (ERR, STAMP % 4 + b"y\n")],
        [Line(at(1), "ab"), Line(at(2), "xy")],
    ),
    "a line that has no end yet": (
        [(ERR, STAMP % 2 + b"later"), (OUT, STAMP % 1 + b"sooner")],
        [Line(at(1), "sooner"), Line(at(2), "later")],
    ),
    "what is no UTF-8": ([(OUT, STAMP % 1 + b"\xff\n")], [Line(at(1), "\ufffd")]),
}


@pytest.mark.parametrize(("frames", "expected"), FRAMES.values(), ids=FRAMES)
def test_frames_become_lines(frames: list[tuple[int, bytes]], expected: list[Line]) -> None:
    assert list(lines(frames)) == expected


@pytest.mark.parametrize("frame", [b"", b"no time\n", b"\xff\n"])
def test_a_frame_without_a_time_is_refused(frame: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        list(lines([(OUT, frame)]))


# ------------------------------------------------------------------------------------------------- merging

STREAMS = st.dictionaries(
    st.sampled_from(["amd-1", "amd-2", "arm-1"]), st.lists(st.integers(0, 50).map(line), max_size=20)
)


@given(STREAMS)
def test_streams_in_order_become_one_in_order(streams: dict[str, list[Line]]) -> None:
    ordered = {node: sorted(stream, key=lambda one: one.at) for node, stream in streams.items()}
    one = list(merged(ordered))
    assert [entry.at for _, entry in one] == sorted(entry.at for stream in ordered.values() for entry in stream)
    assert {node: [entry for name, entry in one if name == node] for node in ordered} == ordered


@given(STREAMS)
def test_whatever_clocks_do_no_line_is_lost_and_a_nodes_lines_stay_in_their_order(
    streams: dict[str, list[Line]],
) -> None:
    one = list(merged(streams))
    assert {node: [entry for name, entry in one if name == node] for node in streams} == streams


def test_merging_reads_no_further_than_it_must() -> None:
    endless = {"a": map(line, itertools.count()), "b": map(line, itertools.count(0.5))}
    assert [entry.text for _, entry in itertools.islice(merged(endless), 4)] == ["at 0", "at 0.5", "at 1", "at 1.5"]


# ------------------------------------------------------------------------------------------------- the window


def test_a_line_may_be_overtaken_by_an_earlier_one_for_a_while() -> None:
    window = Window(0.5)
    window.add("a", line(2), 10.0)
    assert list(window.due(10.4)) == []
    window.add("b", line(1), 10.4)
    assert [entry.text for _, entry in window.due(10.5)] == ["at 1", "at 2"]
    assert list(window.due(99)) == []


def test_what_comes_too_late_is_shown_at_once() -> None:
    window = Window(0.5)
    window.add("a", line(2), 10.0)
    assert len(list(window.due(10.5))) == 1
    window.add("b", line(1), 11.0)
    assert [node for node, _ in window.due(11.0)] == ["b"]


@pytest.mark.parametrize(("now", "wait"), [(10.0, 0.5), (10.25, 0.25), (12.0, 0.0)])
def test_the_window_says_how_long_to_wait(now: float, wait: float) -> None:
    window = Window(0.5)
    assert window.wait(now) is None
    window.add("a", line(2), 10.0)
    assert window.wait(now) == wait
    assert len(list(window.due())) == 1
    assert window.wait(now) is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20), st.integers(0, 400))), st.integers(1, 1000))
def test_every_line_comes_out_once_and_no_later_than_the_window(written: list[tuple[str, int, int]], held: int) -> None:
    window, now = Window(held), 0
    entered: list[tuple[str, Line]] = []
    left: list[tuple[str, Line]] = []
    for number, (node, second, pause) in enumerate(written):
        now += pause
        entered.append((node, line(second, str(number))))
        window.add(*entered[-1], now)
        left += window.due(now)
        wait = window.wait(now)
        assert wait is None or 0 < wait <= held
    left += window.due()
    assert sorted(left, key=lambda entry: int(entry[1].text)) == entered
    for name in "abc":
        assert [e for e in left if e[0] == name] == [e for e in entered if e[0] == name]


# --------------------------------------------------------------------------------------------- what is shown


def engine(*texts: str, start: float = 0, **changed: object) -> FakeEngine:
    machine = Machine("10.0.0.1", log="\n".join(texts), log_from=NOW + start * SECOND)
    machine.containers.append(Container("id", "daemon", state="running"))
    for name, value in changed.items():
        setattr(machine, name, value)
    return FakeEngine(machine)


def collected() -> tuple[list[str], Run]:
    shown: list[str] = []
    return shown, Run(lambda name, entry: shown.append(f"{name} {entry.text}"))


def test_logs_are_shown_as_one() -> None:
    shown, run = collected()
    run.finish(
        {
            "amd-1": engine("a", "b", "c").log_stream("daemon"),
            "arm-1": engine("x", "y", start=0.5).log_stream("daemon", tail=1),
        }
    )
    assert shown == ["amd-1 a", "amd-1 b", "arm-1 y", "amd-1 c"]
    assert run.failures == set()


def test_a_log_that_breaks_off_is_told_and_the_others_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    shown, run = collected()
    run.finish(
        {
            "amd-1": engine("a", breaks_off=True).log_stream("daemon"),
            "arm-1": engine("x", "y", start=0.5).log_stream("daemon"),
        }
    )
    assert shown == ["amd-1 a", "arm-1 x", "arm-1 y"]
    assert run.failures == {"amd-1"}
    assert capsys.readouterr().err.splitlines() == [
        "amd-1: Docker: the Docker Engine does not answer",
        "    try: is it running on the host?",
    ]


def test_what_is_followed_is_shown_as_it_comes_and_its_end_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    shown, run = collected()
    run.follow(
        {
            "amd-1": engine("a", writes=[line(1, "b"), line(2, "c")]).log_stream("daemon", follow=True),
            "arm-1": engine("x", start=0.5, breaks_off=True).log_stream("daemon", follow=True),
        }
    )
    assert sorted(shown) == ["amd-1 a", "amd-1 b", "amd-1 c", "arm-1 x"]
    assert [entry for entry in shown if entry.startswith("amd-1")] == ["amd-1 a", "amd-1 b", "amd-1 c"]
    assert run.failures == {"arm-1"}
    told = capsys.readouterr().err
    assert "amd-1: its log has ended: the daemon has stopped" in told
    assert "arm-1: Docker: the Docker Engine does not answer" in told


def test_interrupting_what_is_followed_loses_no_line() -> None:
    shown: list[str] = []
    over = threading.Event()

    def silent_afterwards() -> Iterator[Line]:
        yield line(1, "last words")
        over.wait(30)

    class Interrupted(Window):
        def wait(self, now: float) -> float | None:
            if super().wait(now) is not None:
                raise KeyboardInterrupt
            return None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fleet.cli.logs.Window", Interrupted)
        Run(lambda _, entry: shown.append(entry.text)).follow({"amd-1": silent_afterwards()})
    over.set()
    assert shown == ["last words"]


def test_lines_bear_their_nodes_name(capsys: pytest.CaptureFixture[str]) -> None:
    show = _painter(["amd-1", "arm-10"])
    show("amd-1", line(1, "one"))
    show("arm-10", line(1, "two\ttabs"))
    assert capsys.readouterr().out == "amd-1  | one\narm-10 | two\ttabs\n"


def test_a_log_cannot_play_with_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    _painter(["a"])("a", line(1, "\x1b]0;owned\x07\x1b[2Jx\r\x9b1A"))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", capsys.readouterr().out)


def test_a_line_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    _print_json("amd-1", line(0.5, "x\x1b"))
    assert json.loads(capsys.readouterr().out) == {
        "node": "amd-1",
        "time": "2030-05-01T12:00:00.500000+00:00",
        "line": "x\x1b",
    }


def test_a_failure_to_open_is_told_with_its_stage(capsys: pytest.CaptureFixture[str]) -> None:
    _, run = collected()
    run.failed("amd-2", Down(Stage.SSH, "no answer", "is the host up?"))
    assert run.failures == {"amd-2"}
    assert capsys.readouterr().err == "amd-2: SSH: no answer\n    try: is the host up?\n"
