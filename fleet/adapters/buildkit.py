"""Daemons over mutual TLS, asked in stages, so that a failure names the stage it happened at."""

from __future__ import annotations

import os
import socket
import ssl
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fleet.adapters.wire import Fields, fields, messages, number, text
from fleet.buildkitd import LABEL_ARCH, LABEL_EMULATED
from fleet.errors import VaultError
from fleet.model import ApiFacts, CertificateFacts, Down, Platform, Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    import grpc

    from fleet.model import HostSpec

# grpcio prints TLS failures to stderr by itself; they are reported by us, once, as a reason.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# Importing grpc imports its asyncio twin, unused here, and more than half of the 80 ms are for that.
sys.modules.setdefault("grpc.aio", ModuleType("grpc.aio"))

HANDSHAKE_TIMEOUT = 0.25
"""Seconds for a handshake after a failed or a successful call: by then its outcome is known."""

_CONTROL = "/moby.buildkit.v1.Control/"

_ACTIVE_ONLY = b"\x08\x01\x18\x01"
"""BuildHistoryRequest{ActiveOnly = 1: true, EarlyExit = 3: true}: one event a running build, then the end."""


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
                f"{self._files['cert']} or its CA cannot be used: {_plain(error)}", "fleet plan"
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

    def _ask(self, host: HostSpec, started: float, deadline: float) -> ApiFacts | Down:
        """Four calls at once. Field numbers: control.proto and worker.proto of moby/buildkit v0.32.2."""
        import grpc

        with grpc.secure_channel(host.endpoint, self._credentials, _CHANNEL_OPTIONS) as channel:
            left = _left(deadline)
            info, workers, usage = (
                channel.unary_unary(f"{_CONTROL}{method}").future(b"", timeout=left)
                for method in ("Info", "ListWorkers", "DiskUsage")
            )
            active = channel.unary_stream(f"{_CONTROL}ListenBuildHistory")(_ACTIVE_ONLY, timeout=left)
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
            return ApiFacts(
                version="".join(text(record, 2) for record in messages(version, 1)),
                worker=text(worker, 1),
                platforms=_platforms(messages(worker, 3)),
                latency_ms=latency,
                arch=labels.get(LABEL_ARCH),
                emulated=tuple(filter(None, labels.get(LABEL_EMULATED, "").split(","))),
                active_builds=_or_unknown(lambda: sum(1 for _ in active)),
                cache_bytes=_or_unknown(lambda: sum(number(r, 4) for r in messages(fields(usage.result()), 1))),
            )

    @cached_property
    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
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
)


def _or_unknown(read: Any) -> int | None:
    """Secondary figures never make a node that builds look down: a late or refused one is unknown."""
    import grpc

    try:
        return int(read())
    except (grpc.RpcError, ValueError):
        return None


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


def _plain(error: OSError) -> str:
    reason = getattr(error, "reason", None)
    return str(reason).lower().replace("_", " ") if reason else (error.strerror or str(error))
