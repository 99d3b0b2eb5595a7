"""Daemons over mutual TLS, asked in stages, so that a failure names the stage it happened at."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

from certs.lifetimes import CLOCK_TOLERANCE
from fleet import notes
from fleet.adapters import build_history
from fleet.adapters.buildkit_failures import api_failure, call_failure, plain, refusal, tcp_failure, tls_failure
from fleet.adapters.wire import Fields, encoded, fields, messages, number, text
from fleet.containers.buildkitd import LABEL_ARCH, LABEL_EMULATED, LABEL_MAX_BUILDS
from fleet.errors import HostError, VaultError
from fleet.model.facts import ApiFacts, CertificateFacts, Down, Stage
from fleet.model.platforms import Platform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import grpc

    from fleet.builds import BuildRecord, Step, Written
    from fleet.cache import CacheRecord, Pruning
    from fleet.check.ground import Reach
    from fleet.model.spec import HostSpec
    from fleet.parallel import Stop

HANDSHAKE_TIMEOUT = 0.25
"""Seconds for a handshake after a failed or a successful call: by then its outcome is known."""

NOTE_TIMEOUT = 30.0
"""Seconds for each call that leaves or takes away a note: an emulated host that builds is slow to answer."""

CACHE_TIMEOUT = 20.0
"""Seconds to list a cache: BuildKit measures what it has not yet measured."""

PRUNE_TIMEOUT = 3600.0
"""Seconds to remove what is to go from a disk that may be slow."""

EXPLAIN_TIMEOUT = 3.0
"""Seconds to find out why a call failed."""

KEPT = 30.0
"""Seconds for which a connection is kept: certificate, platforms and size of the cache are no older."""

T = TypeVar("T")

_CONTROL = "/moby.buildkit.v1.Control/"


class BuildkitProber:
    """Asks daemons with one client certificate, given by the paths `cacert`, `cert` and `key`."""

    def __init__(
        self, files: Mapping[str, str], *, certificates: bool = False, caches: bool = True, keep: bool = False
    ) -> None:
        """`certificates`: look at the daemons' certificates, too, at the price of a handshake each.

        `caches`: ask how large they are, which takes the longer the larger they are. `keep`: a daemon is asked again
        over the same connection, and for what changes fast alone, for KEPT seconds.
        """
        self._files = files
        self._caches = caches
        self._certificates = certificates
        self._keep = keep
        self._kept: dict[tuple[str, str | None], _Kept] = {}
        self._read: object = None

    def prepare(self) -> None:
        """Load what probing needs, so that the first probe's clock measures the daemon; raises VaultError."""
        import fleet.adapters.slim_grpc  # noqa: F401 - loaded before the clock runs

        try:
            # A renewal replaces the files while this process runs.
            files = [(file.st_ino, file.st_mtime_ns) for file in map(os.stat, self._files.values())]
            if files != self._read:
                self.close()
                for loaded in ("_context", "_credentials"):
                    self.__dict__.pop(loaded, None)
            _ = self._context, self._credentials
            self._read = files
        except OSError as error:
            raise VaultError(
                f"{self._files['cert']} or its CA cannot be used: {plain(error)}",
                "fleet plan, or where a bundle was joined: fleet join it again",
            ) from error

    def close(self) -> None:
        """End what is kept between probes; it may be used again."""
        for place in list(self._kept):
            if kept := self._kept.pop(place, None):
                kept.channel.close()

    def probe(self, host: HostSpec, *, timeout: float) -> ApiFacts | Down:
        """What the daemon answers within `timeout` seconds, or the stage at which it does not.

        The handshake of our own is made only to see the daemon's certificate, or to learn why gRPC failed.
        """
        self.prepare()
        started = time.monotonic()
        place = (host.endpoint, host.servername)
        if kept := self._kept.pop(place, None):
            if started < kept.until:
                answer = self._ask(host, kept.channel, started, started + timeout, known=kept.facts)
                if isinstance(answer, ApiFacts):
                    return self._keeping(place, kept, answer)
            kept.channel.close()
        channel = self._channel(host)
        # A connection that broke may be made anew at once; one that was silent leaves time to see where.
        answer = self._probe(host, channel, max(_left(started + timeout), timeout / 2))
        # A gateway counts connections: one that is kept would look like a build.
        if self._keep and isinstance(answer, ApiFacts) and not host.servername:
            return self._keeping(place, _Kept(channel, answer, time.monotonic() + KEPT), answer)
        channel.close()
        return answer

    def _keeping(self, place: tuple[str, str | None], kept: _Kept, answer: ApiFacts) -> ApiFacts:
        """Keep the connection, unless the node is drained: who replaces its daemon waits until nobody is connected."""
        if notes.drain(answer):
            kept.channel.close()
        else:
            self._kept[place] = kept
        return answer

    def _probe(self, host: HostSpec, channel: grpc.Channel, timeout: float) -> ApiFacts | Down:
        started = time.monotonic()
        try:
            stream = socket.create_connection((host.address, host.port), timeout)
        except OSError as error:
            return tcp_failure(host, error, timeout)
        took = {Stage.TCP: (time.monotonic() - started) * 1000}
        with stream:
            answer = self._ask(host, channel, started, started + timeout)
            if isinstance(answer, ApiFacts) and not self._certificates:
                return replace(answer, took=took)
            try:
                stream.settimeout(HANDSHAKE_TIMEOUT)
                begun = time.monotonic()
                with self._context.wrap_socket(stream, server_hostname=host.servername or host.address) as tls:
                    if isinstance(answer, ApiFacts):
                        took[Stage.TLS] = (time.monotonic() - begun) * 1000
                        return replace(answer, certificate=_certificate(tls.getpeercert() or {}), took=took)
                    return refusal(host, tls, HANDSHAKE_TIMEOUT) or answer
            except OSError as error:
                if isinstance(answer, ApiFacts):
                    return replace(answer, took=took)
                return tls_failure(host, error, time.monotonic() - started, late=answer.late)

    def reach(self, host: HostSpec, *, timeout: float) -> Reach:
        """How a bare TCP connection to the daemon's port ends, within `timeout` seconds; no certificate is needed."""
        from fleet.check.ground import Reach

        try:
            socket.create_connection((host.address, host.port), timeout).close()
        except TimeoutError:
            return Reach.SILENT
        except ConnectionRefusedError:
            return Reach.REFUSED
        except socket.gaierror:
            return Reach.UNRESOLVED
        except OSError as error:
            return Reach.UNROUTED if error.errno in {errno.EHOSTUNREACH, errno.ENETUNREACH} else Reach.UNKNOWN
        return Reach.OPEN

    def _channel(self, host: HostSpec) -> grpc.Channel:
        import grpc

        named = (("grpc.ssl_target_name_override", host.servername),) if host.servername else ()
        return grpc.secure_channel(host.endpoint, self._credentials, (*_CHANNEL_OPTIONS, *named))

    def _ask(
        self, host: HostSpec, channel: grpc.Channel, started: float, deadline: float, *, known: ApiFacts | None = None
    ) -> ApiFacts | Down:
        """Five calls at once, less those whose answer is `known` and changes slowly or is dear.

        Field numbers: control.proto and worker.proto of moby/buildkit v0.32.2.
        """
        import grpc

        left = _left(deadline)
        slow = () if known else ("ListWorkers", "DiskUsage") if self._caches else ("ListWorkers",)
        info, *more = (
            channel.unary_unary(f"{_CONTROL}{method}").future(b"", timeout=left) for method in ("Info", *slow)
        )
        active, noted = (
            channel.unary_stream(f"{_CONTROL}ListenBuildHistory")(request, timeout=left)
            for request in (build_history.ACTIVE, build_history.NOTES)
        )
        try:
            version = fields(info.result())
            latency = (time.monotonic() - started) * 1000
            facts = known or _worker_facts(messages(fields(more[0].result()), 1))
        except grpc.RpcError as error:
            return api_failure(host, error)
        except ValueError as error:
            return Down(Stage.API, f"{host.endpoint} answers, but not as BuildKit does: {error}", "what has the port?")
        for usage in more[1:]:
            facts = replace(facts, cache_bytes=_or_unknown(partial(_cached_bytes, usage)))
        return replace(
            facts,
            version="".join(text(record, 2) for record in messages(version, 1)),
            latency_ms=latency,
            active_builds=_or_unknown(lambda: sum(1 for _ in active)),
            notes=_or_unknown(lambda: build_history.in_force(noted)),
        )

    def note(self, host: HostSpec, key: str, text: str | None) -> None:
        """Leave a note at the daemon that every client can read, in place of the one of that key; None: take it away.

        It outlives restarts and replacements: it is a pinned record of BuildKit's history, of a build without a
        definition. The newest counts, and an empty one is none: a record whose lease another snapshotter does not know
        cannot be removed. Raises HostError.
        """
        with self._calling(host) as channel:
            from grpc import RpcError

            def call(method: str, request: bytes) -> None:
                channel.unary_unary(f"{_CONTROL}{method}")(request, timeout=NOTE_TIMEOUT)

            listed = channel.unary_stream(f"{_CONTROL}ListenBuildHistory")(build_history.NOTES, timeout=NOTE_TIMEOUT)
            older = [found.ref for found in build_history.notes(listed) if found.key == key]

            def leave(content: str) -> None:
                ref = f"{build_history.NOTE}{key}.{os.urandom(8).hex()}"
                # SolveRequest{Ref = 1, Definition = 2: empty, FrontendAttrs = 7}
                call("Solve", encoded((1, ref), (2, b""), (7, encoded((1, key), (2, content)))))
                call("UpdateBuildHistory", encoded((1, ref), (2, True)))  # Pinned

            if text is not None:
                leave(text)
            stays = False
            for old in older:
                try:
                    call("UpdateBuildHistory", encoded((1, old), (3, True)))  # Delete
                except RpcError:
                    stays = True
            if stays and text is None:
                leave("")

    def cache(self, host: HostSpec) -> tuple[CacheRecord, ...]:
        """What the daemon has cached. Raises HostError."""
        with self._calling(host) as channel:
            answer = channel.unary_unary(f"{_CONTROL}DiskUsage")(b"", timeout=CACHE_TIMEOUT)
            return tuple(_record(found) for found in messages(fields(answer), 1))

    def prune(self, host: HostSpec, wanted: Pruning, freed: Callable[[int], None]) -> None:
        """Remove cache that no build uses; `freed` gets the bytes of each record that is gone. Raises HostError.

        Of BuildKit's three limits it is reservedSpace that an older one understands as well, and alone it means this.
        """
        # PruneRequest{all = 2, keepDuration = 3, in ns, reservedSpace = 4}
        older = wanted.older // timedelta(microseconds=1) * 1000
        request = encoded((2, wanted.everything), (3, older), (4, wanted.keep))
        with self._calling(host) as channel:
            for removed in channel.unary_stream(f"{_CONTROL}Prune")(request, timeout=PRUNE_TIMEOUT):
                freed(number(fields(removed), 4))

    def builds(self, host: HostSpec, *, refs: Sequence[str] | None = None) -> Iterator[BuildRecord]:
        """What runs there now and what ran, of all clients, as far back as BuildKit remembers; in no order.

        `refs`: of these alone. Raises HostError while it is read.
        """
        with self._calling(host) as channel:
            from fleet.adapters.build_streams import remembered

            yield from remembered(host, channel, refs)

    def feed(self, host: HostSpec, stop: Stop) -> Iterator[BuildRecord | None]:
        """The same, and then each build as it begins and as it ends, until `stop`, a drain, or the daemon's end.

        It rides on the connection that is kept, and ends with that. Raises HostError while it is read.
        """
        with self._calling(host, ride=True) as channel:
            from fleet.adapters.build_streams import feed

            yield from feed(host, channel, stop)

    def build(self, host: HostSpec, ref: str, stop: Stop) -> Iterator[BuildRecord | Step | Written]:
        """One build step by step, with what its steps write, to its end or until `stop`; see the port."""
        with self._calling(host) as channel:
            from fleet.adapters.build_streams import build

            yield from build(host, channel, ref, stop)

    @contextmanager
    def _calling(self, host: HostSpec, *, ride: bool = False) -> Iterator[grpc.Channel]:
        """A channel for one call; raises HostError, the stage being where a probe fails now.

        `ride`: over the one that is kept, if there is one; when that is given up, the call is over.
        """
        self.prepare()
        import grpc

        place = (host.endpoint, host.servername)
        kept = self._kept.get(place) if ride else None
        try:
            with nullcontext(kept.channel) if kept else self._channel(host) as channel:
                yield channel
        except (grpc.RpcError, ValueError) as error:
            if kept and self._kept.get(place) is not kept:
                return
            seen = self.probe(host, timeout=EXPLAIN_TIMEOUT)
            why = seen if isinstance(seen, Down) else call_failure(host, error)
            raise HostError(why.stage, why.reason, why.remedy) from error

    @cached_property
    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # An intermediate CA as anchor is nothing special to Go and gRPC.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(self._files["cacert"])
        context.load_cert_chain(self._files["cert"], self._files["key"])
        # Go's servers agree on HTTP/2 or hang up.
        context.set_alpn_protocols(["h2"])
        return context

    @cached_property
    def _credentials(self) -> grpc.ChannelCredentials:
        import grpc

        content = {}
        for name, path in self._files.items():
            with open(path, "rb") as file:
                content[name] = file.read()
        return grpc.ssl_channel_credentials(content["cacert"], content["key"], content["cert"])


@dataclass(frozen=True, slots=True)
class _Kept:
    """A connection to a daemon, what it said at first, and until when that holds (time.monotonic)."""

    channel: grpc.Channel
    facts: ApiFacts
    until: float


def _cached_bytes(usage: grpc.Future) -> int:
    return sum(number(record, 4) for record in messages(fields(usage.result()), 1))


def _worker_facts(records: list[Fields]) -> ApiFacts:
    worker: Fields = records[0] if records else {}
    labels = {text(entry, 1): text(entry, 2) for entry in messages(worker, 2)}
    most = labels.get(LABEL_MAX_BUILDS, "")
    return ApiFacts(
        version="",
        worker=text(worker, 1),
        platforms=_platforms(messages(worker, 3)),
        latency_ms=0.0,
        arch=labels.get(LABEL_ARCH),
        emulated=tuple(filter(None, labels.get(LABEL_EMULATED, "").split(","))),
        max_builds=int(most) if most.isdecimal() else None,
    )


_CHANNEL_OPTIONS = (
    # The nodes are named by the inventory; a proxy of the environment must not come between.
    ("grpc.enable_http_proxy", 0),
    # Channels to one address would share a connection, and with it the fate of an earlier probe.
    ("grpc.use_local_subchannel_pool", 1),
    # A large cache is more than 4 MiB to list, a few hundred bytes a record.
    ("grpc.max_receive_message_length", 1 << 28),
)


def _or_unknown(read: Callable[[], T]) -> T | None:
    """Secondary figures never make a node that builds look down: a late or refused one is unknown."""
    import grpc

    try:
        return read()
    except (grpc.RpcError, ValueError):
        return None


def _record(found: Fields) -> CacheRecord:
    """UsageRecord{InUse = 3, Size = 4, LastUsedAt = 7, RecordType = 10, Shared = 11}."""
    from fleet.cache import CacheRecord

    used = next(iter(messages(found, 7)), None)
    return CacheRecord(
        size=number(found, 4),
        in_use=bool(number(found, 3)),
        shared=bool(number(found, 11)),
        kind=text(found, 10),
        last_used=datetime.fromtimestamp(number(used, 1), UTC) if used else None,
    )


def _platforms(reported: list[Fields]) -> tuple[Platform, ...]:
    return tuple(
        Platform("linux", text(entry, 1), text(entry, 3)).normalised()
        for entry in reported
        if text(entry, 2) == "linux"
    )


def _certificate(peer: Mapping[str, Any]) -> CertificateFacts:
    return CertificateFacts(
        serial=str(peer.get("serialNumber", "")).lower().lstrip("0"),
        expires=datetime.fromtimestamp(ssl.cert_time_to_seconds(str(peer["notAfter"])), UTC),
        names=tuple(value for _, value in peer.get("subjectAltName", ())),
        issued=datetime.fromtimestamp(ssl.cert_time_to_seconds(str(peer["notBefore"])), UTC) + CLOCK_TOLERANCE,
        subject=next((value for part in peer.get("subject", ()) for key, value in part if key == "commonName"), ""),
    )


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.05)
