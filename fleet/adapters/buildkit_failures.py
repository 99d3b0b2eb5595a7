"""Why a daemon cannot be used: each stage's failure in words, with the next thing to try."""

from __future__ import annotations

import errno
import socket
import ssl
from typing import TYPE_CHECKING

from fleet.model.facts import Down, Stage

if TYPE_CHECKING:
    import grpc

    from fleet.model.spec import HostSpec


def tcp_failure(host: HostSpec, error: OSError, waited: float) -> Down:
    """No connection after so many seconds."""
    if isinstance(error, TimeoutError):
        return Down(
            Stage.TCP,
            f"no answer from {host.endpoint} within {waited:.1f} s",
            f"is the host up, and port {host.port} open in its firewall?",
            silent=True,
        )
    if isinstance(error, ConnectionRefusedError):
        return Down(Stage.TCP, f"{host.endpoint} refused the connection", f"docker ps on {host.name}; fleet plan")
    if isinstance(error, socket.gaierror):
        return Down(Stage.TCP, f"{host.address} cannot be resolved", "correct the host's address")
    unrouted = error.errno in {errno.EHOSTUNREACH, errno.ENETUNREACH}
    return Down(Stage.TCP, f"{host.endpoint}: {error.strerror or error}", "is the address right?", silent=unrouted)


def tls_failure(host: HostSpec, error: OSError, waited: float, *, late: bool) -> Down:
    """Connected, but no handshake in so many seconds; `late`: it may be alive."""
    if isinstance(error, TimeoutError):
        return Down(
            Stage.TLS,
            f"{host.endpoint} accepts connections but has not shaken hands within {waited:.1f} s",
            f"the daemon is frozen or overloaded: docker logs on {host.name}",
            late=late,
            silent=True,
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return Down(
            Stage.TLS,
            f"the certificate of {host.endpoint} is not accepted: {error.verify_message}",
            f"is the clock of {host.name} right, and is it this fleet's daemon that has the port?",
        )
    return Down(Stage.TLS, f"{host.endpoint}: {plain(error)}", f"is it BuildKit? docker ps on {host.name}")


def refusal(host: HostSpec, tls: ssl.SSLSocket, timeout: float) -> Down | None:
    """In TLS 1.3 a refused client learns it only after the handshake, from the alert that waits to be read."""
    tls.settimeout(timeout)
    try:
        tls.recv(1)
    except TimeoutError:
        return None
    except OSError as refusal:
        return Down(
            Stage.TLS,
            f"{host.endpoint} refused this client's certificate: {plain(refusal)}",
            f"is the clock of {host.name} right, and is this the vault that made the daemon (FLEET_HOME)?",
        )
    return None


def api_failure(host: HostSpec, error: grpc.RpcError) -> Down:
    """A handshake, but no answer to a call."""
    code = getattr(error, "code", lambda: None)()
    word = code.name.lower().replace("_", " ") if code else "no answer"
    return Down(
        Stage.API,
        f"{host.endpoint} shakes hands but does not answer ({word})",
        f"is it overloaded? is it BuildKit? see docker logs on {host.name}",
        late=word == "deadline exceeded",
        silent=word == "deadline exceeded",
    )


def call_failure(host: HostSpec, error: Exception) -> Down:
    """It answers, and refuses this one call."""
    said = getattr(error, "details", lambda: str(error))()
    return Down(Stage.API, f"{host.endpoint} answers, but fails at this: {said}", f"docker logs on {host.name}")


def plain(error: OSError) -> str:
    """The words of a system or of OpenSSL, as a person writes them."""
    reason = getattr(error, "reason", None)
    return str(reason).lower().replace("_", " ") if reason else (error.strerror or str(error))
