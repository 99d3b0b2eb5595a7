"""Daemons over mutual TLS, asked in stages, so that a failure names the stage it happened at."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from certs.lifetimes import CLOCK_TOLERANCE
from fleet.adapters.wire import Fields, encoded, fields, messages, number, text
from fleet.buildkitd import LABEL_ARCH, LABEL_EMULATED, LABEL_MAX_BUILDS
from fleet.cache import CacheRecord
from fleet.check.ground import Reach
from fleet.errors import HostError, VaultError
from fleet.model import ApiFacts, CertificateFacts, Down, Platform, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import grpc

    from fleet.cache import Pruning
    from fleet.model import HostSpec

# grpcio prints TLS failures to stderr by itself; they are reported by us, once, as a reason.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# Importing grpc imports its asyncio twin, unused here, and more than half of the 80 ms are for that.
sys.modules.setdefault("grpc.aio", ModuleType("grpc.aio"))

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

T = TypeVar("T")

_CONTROL = "/moby.buildkit.v1.Control/"

_ACTIVE_ONLY = encoded((1, True), (3, True))
"""BuildHistoryRequest{ActiveOnly = 1, EarlyExit = 3}: one event a running build, then the end."""

_NOTE = "fleet."
"""With what the refs of notes begin: notes are records of builds that build nothing, kept in the daemon's history."""

_NOTES = encoded((3, True), (4, "ref~=^fleet[.]"))
"""BuildHistoryRequest{EarlyExit = 3, Filter = 4}: the notes alone."""


class BuildkitProber:
    """Asks daemons with one client certificate, given by the paths `cacert`, `cert` and `key`."""

    def __init__(self, files: Mapping[str, str], *, certificates: bool = False) -> None:
        """`certificates`: look at the daemons' certificates, too, at the price of a handshake each."""
        self._files = files
        self._certificates = certificates
        self._read: object = None

    def prepare(self) -> None:
        """Load what probing needs, so that the first probe's clock measures the daemon; raises VaultError."""
        import grpc  # noqa: F401

        try:
            # A renewal replaces the files while this process runs.
            files = [(file.st_ino, file.st_mtime_ns) for file in map(os.stat, self._files.values())]
            if files != self._read:
                for loaded in ("_context", "_credentials"):
                    self.__dict__.pop(loaded, None)
            _ = self._context, self._credentials
            self._read = files
        except OSError as error:
            raise VaultError(
                f"{self._files['cert']} or its CA cannot be used: {_plain(error)}",
                "fleet plan, or where a bundle was joined: fleet join it again",
            ) from error

    def probe(self, host: HostSpec, *, timeout: float) -> ApiFacts | Down:
        """What the daemon answers within `timeout` seconds, or the stage at which it does not.

        The handshake of our own is made only to see the daemon's certificate, or to learn why gRPC failed.
        """
        self.prepare()
        started = time.monotonic()
        try:
            stream = socket.create_connection((host.address, host.port), timeout)
        except OSError as error:
            return _tcp_failure(host, error, timeout)
        with stream:
            answer = self._ask(host, started, started + timeout)
            if isinstance(answer, ApiFacts) and not self._certificates:
                return answer
            try:
                stream.settimeout(HANDSHAKE_TIMEOUT)
                with self._context.wrap_socket(stream, server_hostname=host.address) as tls:
                    if isinstance(answer, ApiFacts):
                        return replace(answer, certificate=_certificate(tls.getpeercert() or {}))
                    return _refusal(host, tls) or answer
            except OSError as error:
                if isinstance(answer, ApiFacts):
                    return answer
                return _tls_failure(host, error, time.monotonic() - started, late=answer.late)

    def reach(self, host: HostSpec, *, timeout: float) -> Reach:
        """How a bare TCP connection to the daemon's port ends, within `timeout` seconds; no certificate is needed."""
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

    def _ask(self, host: HostSpec, started: float, deadline: float) -> ApiFacts | Down:
        """Five calls at once. Field numbers: control.proto and worker.proto of moby/buildkit v0.32.2."""
        import grpc

        with grpc.secure_channel(host.endpoint, self._credentials, _CHANNEL_OPTIONS) as channel:
            left = _left(deadline)
            info, workers, usage = (
                channel.unary_unary(f"{_CONTROL}{method}").future(b"", timeout=left)
                for method in ("Info", "ListWorkers", "DiskUsage")
            )
            active, notes = (
                channel.unary_stream(f"{_CONTROL}ListenBuildHistory")(request, timeout=left)
                for request in (_ACTIVE_ONLY, _NOTES)
            )
            try:
                version = fields(info.result())
                latency = (time.monotonic() - started) * 1000
                records = messages(fields(workers.result()), 1)
            except grpc.RpcError as error:
                return _api_failure(host, error)
            except ValueError as error:
                return Down(
                    Stage.API, f"{host.endpoint} answers, but not as BuildKit does: {error}", "what has the port?"
                )
            worker: Fields = records[0] if records else {}
            labels = {text(entry, 1): text(entry, 2) for entry in messages(worker, 2)}
            most = labels.get(LABEL_MAX_BUILDS, "")
            return ApiFacts(
                version="".join(text(record, 2) for record in messages(version, 1)),
                worker=text(worker, 1),
                platforms=_platforms(messages(worker, 3)),
                latency_ms=latency,
                arch=labels.get(LABEL_ARCH),
                emulated=tuple(filter(None, labels.get(LABEL_EMULATED, "").split(","))),
                max_builds=int(most) if most.isdecimal() else None,
                active_builds=_or_unknown(lambda: sum(1 for _ in active)),
                cache_bytes=_or_unknown(lambda: sum(number(r, 4) for r in messages(fields(usage.result()), 1))),
                notes=_or_unknown(lambda: {note.key: note.text for note in _read_notes(notes)}),
            )

    def note(self, host: HostSpec, key: str, text: str | None) -> None:
        """Leave a note at the daemon that every client can read, in place of the one of that key; None: take it away.

        It outlives restarts and replacements: it is a pinned record of BuildKit's history, of a build without a
        definition. Raises HostError.
        """
        ref = f"{_NOTE}{key}.{os.urandom(8).hex()}"
        with self._calling(host) as channel:

            def call(method: str, request: bytes) -> None:
                channel.unary_unary(f"{_CONTROL}{method}")(request, timeout=NOTE_TIMEOUT)

            listed = channel.unary_stream(f"{_CONTROL}ListenBuildHistory")(_NOTES, timeout=NOTE_TIMEOUT)
            older = [found.ref for found in _read_notes(listed) if found.key == key]
            if text is not None:
                attribute = encoded((1, key), (2, text))
                # SolveRequest{Ref = 1, Definition = 2: empty, FrontendAttrs = 7}
                call("Solve", encoded((1, ref), (2, b""), (7, attribute)))
                call("UpdateBuildHistory", encoded((1, ref), (2, True)))  # Pinned
            for old in older:
                call("UpdateBuildHistory", encoded((1, old), (3, True)))  # Delete

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

    @contextmanager
    def _calling(self, host: HostSpec) -> Iterator[grpc.Channel]:
        """A channel for one call; raises HostError, the stage being where a probe fails now."""
        import grpc

        self.prepare()
        try:
            with grpc.secure_channel(host.endpoint, self._credentials, _CHANNEL_OPTIONS) as channel:
                yield channel
        except (grpc.RpcError, ValueError) as error:
            seen = self.probe(host, timeout=EXPLAIN_TIMEOUT)
            why = seen if isinstance(seen, Down) else _call_failure(host, error)
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


@dataclass(frozen=True, slots=True)
class _Note:
    ref: str
    key: str
    text: str


def _read_notes(events: Iterable[bytes]) -> list[_Note]:
    """Notes in the order in which they were left: BuildHistoryEvent{Record = 2{Ref, Attrs = 3, CreatedAt = 6}}."""
    dated = []
    for event in events:
        for record in messages(fields(event), 2):
            created = next(iter(messages(record, 6)), {})
            for attribute in messages(record, 3):
                note = _Note(text(record, 1), text(attribute, 1), text(attribute, 2))
                if note.ref.startswith(f"{_NOTE}{note.key}."):
                    dated.append(((number(created, 1), number(created, 2)), note))
    return [note for _, note in sorted(dated, key=lambda pair: pair[0])]


def _record(found: Fields) -> CacheRecord:
    """UsageRecord{InUse = 3, Size = 4, LastUsedAt = 7, RecordType = 10, Shared = 11}."""
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


def _tcp_failure(host: HostSpec, error: OSError, waited: float) -> Down:
    if isinstance(error, TimeoutError):
        return Down(
            Stage.TCP,
            f"no answer from {host.endpoint} within {waited:.1f} s",
            f"is the host up, and port {host.port} open in its firewall?",
        )
    if isinstance(error, ConnectionRefusedError):
        return Down(Stage.TCP, f"{host.endpoint} refused the connection", f"docker ps on {host.name}; fleet plan")
    if isinstance(error, socket.gaierror):
        return Down(Stage.TCP, f"{host.address} cannot be resolved", "correct the host's address")
    return Down(Stage.TCP, f"{host.endpoint}: {error.strerror or error}", "is the address right?")


def _tls_failure(host: HostSpec, error: OSError, waited: float, *, late: bool) -> Down:
    if isinstance(error, TimeoutError):
        return Down(
            Stage.TLS,
            f"{host.endpoint} accepts connections but has not shaken hands within {waited:.1f} s",
            f"the daemon is frozen or overloaded: docker logs on {host.name}",
            late=late,
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return Down(
            Stage.TLS,
            f"the certificate of {host.endpoint} is not accepted: {error.verify_message}",
            f"is the clock of {host.name} right, and is it this fleet's daemon that has the port?",
        )
    return Down(Stage.TLS, f"{host.endpoint}: {_plain(error)}", f"is it BuildKit? docker ps on {host.name}")


def _refusal(host: HostSpec, tls: ssl.SSLSocket) -> Down | None:
    """In TLS 1.3 a refused client learns it only after the handshake, from the alert that waits to be read."""
    tls.settimeout(HANDSHAKE_TIMEOUT)
    try:
        tls.recv(1)
    except TimeoutError:
        return None
    except OSError as refusal:
        return Down(
            Stage.TLS,
            f"{host.endpoint} refused this client's certificate: {_plain(refusal)}",
            f"is the clock of {host.name} right, and is this the vault that made the daemon (FLEET_HOME)?",
        )
    return None


def _api_failure(host: HostSpec, error: grpc.RpcError) -> Down:
    code = getattr(error, "code", lambda: None)()
    word = code.name.lower().replace("_", " ") if code else "no answer"
    return Down(
        Stage.API,
        f"{host.endpoint} shakes hands but does not answer ({word})",
        f"is it overloaded? is it BuildKit? see docker logs on {host.name}",
        late=word == "deadline exceeded",
    )


def _call_failure(host: HostSpec, error: Exception) -> Down:
    said = getattr(error, "details", lambda: str(error))()
    return Down(Stage.API, f"{host.endpoint} answers, but fails at this: {said}", f"docker logs on {host.name}")


def _plain(error: OSError) -> str:
    reason = getattr(error, "reason", None)
    return str(reason).lower().replace("_", " ") if reason else (error.strerror or str(error))
