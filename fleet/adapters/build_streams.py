"""Builds over one connection to a daemon: all that it remembers, each as it begins and ends, and one step by step."""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import grpc

from fleet import notes
from fleet.adapters import build_history
from fleet.builds import Account, Outcome
from fleet.errors import HostError
from fleet.model.facts import Stage
from fleet.parallel import gather

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fleet.builds import BuildRecord, Step, Written
    from fleet.model.spec import HostSpec
    from fleet.parallel import Stop

HISTORY_TIMEOUT = 10.0
"""Seconds to list the builds that a daemon remembers."""

STEPS_TIMEOUT = 0.3
"""Seconds to hear what a running build has done so far."""

FEED_TIMEOUT = 30.0
"""Seconds after which a feed is asked for anew: so long a node may be silent unnoticed."""

ALIVE_TIMEOUT = 3.0
"""Seconds in which a daemon has to answer before it is listened to: one that is silent is found out by it."""

ALIVE_EVERY = 10.0
"""Seconds after which a daemon is asked whether it answers, while nothing else tells that it has fallen silent."""

_CONTROL = "/moby.buildkit.v1.Control/"


def remembered(host: HostSpec, channel: grpc.Channel, refs: Sequence[str] | None) -> Iterator[BuildRecord]:
    """Every build that there is or was, or of these alone those that are known; raises RpcError."""
    wanted = (build_history.ALL,) if refs is None else map(build_history.only, refs)
    events = (event for request in wanted for event in _history(channel, request, HISTORY_TIMEOUT))
    found = tuple(build_history.records(host.name, events))
    so_far = gather({r.ref: partial(_so_far, channel, r) for r in found if r.outcome is Outcome.RUNNING})
    yield from (so_far.get(record.ref, record) for record in found)


def feed(host: HostSpec, channel: grpc.Channel, stop: Stop) -> Iterator[BuildRecord | None]:
    """None once the node has answered, the same, and then each as it begins and as it ends, until the node is drained.

    A stream does not notice that its node has fallen silent: so it ends, and goes on if the node still answers. Each
    begins with all that there was. Raises RpcError.
    """
    told: dict[str, Outcome] = {}
    drained = _drained(channel)
    yield None
    while not stop.is_set():
        if drained:
            yield from remembered(host, channel, None)
            return
        try:
            for event in _answers(_history(channel, build_history.FEED, FEED_TIMEOUT), stop):
                if build_history.about_drain(event) and _drained(channel):
                    return
                for record in build_history.records(host.name, [event]):
                    if told.get(record.ref) is not record.outcome:
                        told[record.ref] = record.outcome
                        yield record
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
        else:
            return
        drained = _drained(channel)


def build(host: HostSpec, channel: grpc.Channel, ref: str, stop: Stop) -> Iterator[BuildRecord | Step | Written]:
    """Its record, its steps as they change and what they write, and its record once more when it has ended.

    Raises RpcError, also once the daemon has fallen silent, and HostError when it does not know the build.
    """
    known = list(_history(channel, build_history.only(ref), HISTORY_TIMEOUT))
    record = next(build_history.records(host.name, known), None)
    if record is None:
        raise HostError(Stage.API, f"{host.name} does not remember a build {ref}", "fleet builds")
    yield record
    status = build_history.Status(build_history.concealer(known))
    call = _status(channel, ref)
    with _broken_off_when_silent(channel, call):
        for message in _answers(call, stop):
            yield from status.read(message)
    yield from status.rest()
    if record.outcome is Outcome.RUNNING:
        # What came of it is known a moment after the last that is told of it.
        events = _answers(_history(channel, build_history.only(ref, follow=True), HISTORY_TIMEOUT), stop)
        yield from islice((ended for ended in build_history.records(host.name, events) if ended.completed), 1)


@contextmanager
def _broken_off_when_silent(channel: grpc.Channel, call: grpc.Call) -> Iterator[None]:
    """A build may say nothing for hours, and a stream does not notice that its node is gone: it is asked beside it.

    Raises RpcError: of the call, or of the question that was not answered.
    """
    over, silent = threading.Event(), list[grpc.RpcError]()

    def ask() -> None:
        while not over.wait(ALIVE_EVERY):
            try:
                list(_history(channel, build_history.NOTES, HISTORY_TIMEOUT))
            except grpc.RpcError as error:
                silent.append(error)
                call.cancel()
                return
            except ValueError:
                return  # the channel is closed

    threading.Thread(target=ask, daemon=True).start()
    try:
        yield
    except grpc.RpcError as error:
        raise (silent[0] if silent else error) from error
    finally:
        over.set()


def _so_far(channel: grpc.Channel, record: BuildRecord) -> BuildRecord:
    """A running build with what its steps have come to; their stream first tells all that was, and then goes on."""
    account, status = Account(record, most=0), build_history.Status(str)
    with suppress(grpc.RpcError, ValueError):
        for message in _status(channel, record.ref, STEPS_TIMEOUT):
            for told in status.read(message):
                account.add(told)
    return replace(record, steps=account.counts)


def _drained(channel: grpc.Channel) -> bool:
    return notes.DRAIN in build_history.in_force(_history(channel, build_history.NOTES, ALIVE_TIMEOUT))


def _history(channel: grpc.Channel, request: bytes, timeout: float) -> grpc.Call:
    return channel.unary_stream(f"{_CONTROL}ListenBuildHistory")(request, timeout=timeout)


def _status(channel: grpc.Channel, ref: str, timeout: float | None = None) -> grpc.Call:
    return channel.unary_stream(f"{_CONTROL}Status")(build_history.status_request(ref), timeout=timeout)


def _answers(call: grpc.Call, stop: Stop) -> Iterator[bytes]:
    """What is answered, until it is to stop, even where nothing is; raises RpcError."""
    with stop.ends(call.cancel):
        try:
            yield from call
        except grpc.RpcError:
            if not stop.is_set():
                raise
        finally:
            call.cancel()
