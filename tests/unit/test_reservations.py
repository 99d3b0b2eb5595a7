"""What this machine's builds have on which node: known to all its processes at once, and gone with them."""

from __future__ import annotations

import multiprocessing
import multiprocessing.queues
import multiprocessing.synchronize
import os
import signal
from pathlib import Path

import pytest

from fleet.adapters.reservations import Reservations


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "reserved"


def test_what_is_reserved_is_counted_by_all_until_it_is_released(folder: Path) -> None:
    one, other = Reservations(folder), Reservations(folder)
    assert one.counts() == {}
    with one.choosing() as counts:
        assert counts == {}
        one.reserve(["amd-1", "arm-1"])
    with other.choosing() as counts:
        assert counts == {"amd-1": 1, "arm-1": 1}
        other.reserve(["amd-1"])
    assert one.counts() == {"amd-1": 2, "arm-1": 1}
    with one.choosing():
        one.reserve(["amd-2"])
    assert other.counts() == {"amd-1": 1, "amd-2": 1}
    one.release()
    other.release()
    assert one.counts() == {}
    assert [path.name for path in folder.iterdir()] == [".choosing"]


def hold(folder: Path, ready: multiprocessing.synchronize.Event) -> None:
    mine = Reservations(folder)
    with mine.choosing():
        mine.reserve(["amd-1"])
    ready.set()
    signal.pause()


def test_a_process_that_is_killed_holds_nothing(folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold, args=(folder, ready))
    process.start()
    assert ready.wait(60)
    mine = Reservations(folder)
    assert mine.counts() == {"amd-1": 1}
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert mine.counts() == {}
    with mine.choosing() as counts:
        assert counts == {}
    assert [path.name for path in folder.iterdir()] == [".choosing"]


def choose(folder: Path, most: int, done: multiprocessing.queues.Queue[bool]) -> None:
    mine = Reservations(folder)
    with mine.choosing() as counts:
        free = counts.get("amd-1", 0) < most
        if free:
            mine.reserve(["amd-1"])
    done.put(free)
    signal.pause()


def test_many_at_once_never_reserve_more_than_there_is(folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    done: multiprocessing.queues.Queue[bool] = context.Queue()
    processes = [context.Process(target=choose, args=(folder, 3, done)) for _ in range(8)]
    for process in processes:
        process.start()
    try:
        assert sum(done.get(timeout=60) for _ in processes) == 3
    finally:
        for process in processes:
            process.kill()
            process.join()
