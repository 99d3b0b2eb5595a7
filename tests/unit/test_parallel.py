"""Many things at once: all results in order, none waited for longer than asked, failures raised."""

from __future__ import annotations

import queue
import signal
import threading
import time
from contextlib import suppress
from functools import partial

import pytest

from fleet.parallel import WIDTH, Gathering, Rounds, Stop, gather


def test_results_come_in_the_order_of_the_tasks() -> None:
    later = threading.Event()

    def first() -> int:
        later.wait(10)
        return 1

    def second() -> int:
        later.set()
        return 2

    assert list(gather({"first": first, "second": second}).items()) == [("first", 1), ("second", 2)]


def test_nothing_to_do_is_done() -> None:
    assert gather({}) == {}


def test_more_tasks_than_threads_all_run() -> None:
    assert gather({n: partial(pow, n, 2) for n in range(3 * WIDTH)}) == {n: n * n for n in range(3 * WIDTH)}


def test_what_is_late_is_left_out() -> None:
    never = threading.Event()
    try:
        assert gather({"late": lambda: never.wait(30), "soon": lambda: True}, timeout=0.2) == {"soon": True}
    finally:
        never.set()


def test_none_is_a_result() -> None:
    assert gather({"a": lambda: None}) == {"a": None}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_of_a_task_is_raised_here(error: type[BaseException]) -> None:
    def fail() -> int:
        raise error("no")

    with pytest.raises(error, match="no"):
        gather({"good": lambda: 1, "bad": fail})


def test_an_interrupt_is_heeded_whichever_thread_the_kernel_gives_it_to() -> None:
    over = threading.Event()

    def strike() -> None:
        time.sleep(0.2)  # until it is waited for
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        over.wait(10)

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        gather({"struck": strike})
    over.set()
    assert time.monotonic() - began < 5


def test_what_is_late_can_be_asked_for_again() -> None:
    later = threading.Event()
    under_way = Gathering({"late": lambda: later.wait(20), "soon": lambda: 1})
    assert under_way.results(timeout=0.2) == {"soon": 1}
    later.set()
    assert list(under_way.results().items()) == [("late", True), ("soon", 1)]
    assert under_way.results(timeout=0) == {"late": True, "soon": 1}


def test_what_is_enough_is_not_added_to() -> None:
    never = threading.Event()
    under_way = Gathering({"late": lambda: never.wait(20), "soon": lambda: 1})
    try:
        assert under_way.results(enough=lambda so_far: "soon" in so_far) == {"soon": 1}
    finally:
        never.set()
    assert under_way.results(enough=lambda _: False) == {"late": True, "soon": 1}


def test_a_failure_is_told_while_others_are_late_and_each_time() -> None:
    never = threading.Event()

    def fail() -> bool:
        raise ValueError("no")

    under_way = Gathering({"late": lambda: never.wait(20), "bad": fail})
    try:
        for patience in (10, 0.5):
            with pytest.raises(ValueError, match="no"):
                under_way.results(timeout=patience)
    finally:
        never.set()
    with pytest.raises(ValueError, match="no"):
        under_way.results()


def test_the_others_can_be_waited_for_after_a_failure() -> None:
    ended = threading.Event()

    def late() -> bool:
        time.sleep(0.5)
        ended.set()
        return True

    def fail() -> bool:
        raise ValueError("no")

    under_way = Gathering({"late": late, "bad": fail})
    for over in (False, True):
        with pytest.raises(ValueError, match="no"):
            under_way.results(timeout=20)
        assert ended.is_set() is over


def test_what_is_done_again_and_again_goes_by_its_own_clock() -> None:
    never, often = threading.Event(), threading.Semaphore(0)

    def slow() -> float:
        never.wait(30)
        return 0.0

    def quick() -> float:
        often.release()
        return 0.001

    rounds = Rounds({"slow": slow, "quick": quick})
    try:
        assert all(often.acquire(timeout=10) for _ in range(20))
    finally:
        never.set()
        rounds.end(patience=10)
    while often.acquire(blocking=False):
        pass
    assert not often.acquire(timeout=0.05)


def test_what_is_in_a_hurry_is_due_at_once_and_nothing_else() -> None:
    done: queue.SimpleQueue[str] = queue.SimpleQueue()

    def task(name: str) -> float:
        done.put(name)
        return 3600.0

    rounds = Rounds({name: partial(task, name) for name in ("a", "b")})
    try:
        assert {done.get(timeout=10), done.get(timeout=10)} == {"a", "b"}
        # What is still under way is not due before it has ended.
        again: list[str] = []
        while not again:
            rounds.hurry(["b", "unknown"])
            with suppress(queue.Empty):
                again.append(done.get(timeout=0.05))
        assert again == ["b"]
    finally:
        rounds.end(patience=10)


def test_an_end_leaves_no_thread_and_waits_no_longer_than_asked() -> None:
    before, never = set(threading.enumerate()), threading.Event()

    def hangs() -> float:
        never.wait(30)
        return 0.0

    rounds = Rounds({"hangs": hangs})
    began = time.monotonic()
    rounds.end(patience=0.1)
    assert time.monotonic() - began < 5
    never.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
    assert set(threading.enumerate()) == before


def test_nothing_to_do_again_is_done() -> None:
    Rounds({}).end(patience=1)


# ------------------------------------------------------------------------------------------------------ stop


def test_what_is_waited_for_ends_when_it_is_to_stop() -> None:
    stop, ended = Stop(), threading.Event()
    with stop.ends(ended.set):
        assert not ended.is_set()
        threading.Thread(target=stop.set).start()
        assert ended.wait(10)
    assert stop.is_set()


def test_what_begins_to_wait_too_late_ends_at_once() -> None:
    stop, ends = Stop(), list[int]()
    stop.set()
    with stop.ends(lambda: ends.append(1)):
        assert ends == [1]


def test_what_has_ended_by_itself_is_left_alone() -> None:
    stop, ends = Stop(), list[int]()
    with stop.ends(lambda: ends.append(1)):
        pass
    stop.set()
    assert ends == []
