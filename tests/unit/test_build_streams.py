"""One build step by step, from a daemon of a few lines: one that falls silent is found out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest

from fleet.adapters import build_history, build_streams
from fleet.adapters.wire import encoded
from fleet.builds import BuildRecord, Step, Written
from fleet.parallel import Stop
from tests.support.values import host

RECORD = encoded((1, "r1"), (6, encoded((1, 1))))
ENDED = encoded((1, "r1"), (6, encoded((1, 1))), (7, encoded((1, 2))))
STEP = encoded((1, encoded((1, "a"), (3, "RUN sleep"), (5, encoded((1, 1))))))


class Daemon(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Tells of one step, and then nothing until `go_on`; silent, it answers nobody."""

    def __init__(self, *, silent: bool) -> None:
        self._silent, self.go_on = silent, threading.Event()
        self.asked = 0

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        told = self._status if handler_call_details.method.endswith("/Status") else self._history
        return grpc.unary_stream_rpc_method_handler(told)

    def _status(self, *_: object) -> Iterator[bytes]:
        yield STEP
        self.go_on.wait(10)

    def _history(self, request: bytes, _: grpc.ServicerContext) -> Iterator[bytes]:
        if request == build_history.NOTES:
            self.asked += 1
            if self._silent:
                self.go_on.wait(10)
            elif self.asked > 2:
                self.go_on.set()
        else:
            yield encoded((1, 1), (2, ENDED if self.go_on.is_set() else RECORD))


def read(daemon: Daemon, told: list[BuildRecord | Step | Written]) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[daemon])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            for said in build_streams.build(host("amd-1"), channel, "r1", Stop()):
                told.append(said)  # noqa: PERF402 - what came before an error counts
    finally:
        daemon.go_on.set()
        server.stop(None).wait()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_streams, "ALIVE_EVERY", 0.05)
    monkeypatch.setattr(build_streams, "HISTORY_TIMEOUT", 1.0)


def test_a_build_that_says_nothing_is_read_on_as_long_as_its_node_answers() -> None:
    daemon, told = Daemon(silent=False), list[BuildRecord | Step | Written]()
    read(daemon, told)
    assert daemon.asked > 2
    assert [type(said) for said in told] == [BuildRecord, Step, BuildRecord]


def test_a_node_that_falls_silent_while_a_build_is_read_is_an_error() -> None:
    told = list[BuildRecord | Step | Written]()
    with pytest.raises(grpc.RpcError) as caught:
        read(Daemon(silent=True), told)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert [type(said) for said in told] == [BuildRecord, Step]
