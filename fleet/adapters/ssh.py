"""SSH by paramiko: one connection a host, ~/.ssh/config respected, unknown host keys refused."""

from __future__ import annotations

import base64
import errno
import fnmatch
import logging
import shlex
import socket
import threading
import time
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleet.adapters import host_lock, ssh_config  # before paramiko: it keeps a slow import away

# isort: split
import paramiko
from paramiko.agent import Agent
from paramiko.auth_strategy import AuthStrategy, InMemoryPrivateKey
from paramiko.common import cMSG_CHANNEL_OPEN
from paramiko.hostkeys import HostKeyEntry, InvalidHostKey
from paramiko.pkey import UnknownKeyType
from paramiko.ssh_exception import NoValidConnectionsError

from fleet.errors import EngineError, HostError, Unreachable
from fleet.model.facts import Stage
from fleet.ports import Completed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fleet.adapters.dialling import Dialling
    from fleet.adapters.engine import DockerEngine
    from fleet.adapters.ssh_config import Login
    from fleet.model.spec import HostSpec

DOCKER_SOCKET = "/var/run/docker.sock"
KEEPALIVE = 15
"""Seconds: a daemon may take minutes to stop, and firewalls forget connections that are silent for so long."""

# What goes wrong is raised and told once, by us.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


def connect(host: HostSpec, *, config_file: Path = Path("~/.ssh/config"), dialling: Dialling | None = None) -> SshHost:
    """Log in to `host`; raises Unreachable, each cause in its own words and with its own remedy."""
    path = config_file.expanduser()
    try:
        config = ssh_config.read(path)
    except (OSError, ValueError) as error:
        raise Unreachable(Stage.SSH, f"{path} cannot be read: {error}", f"correct {path}") from error
    clients: list[paramiko.SSHClient] = []
    try:
        for step in ssh_config.resolve(host.address, host.ssh, config):
            clients.append(_log_in(step, via=clients[-1] if clients else None, dialling=dialling))
    except BaseException:
        _close(clients)
        raise
    return SshHost(host, clients)


ENDING = 0.2
"""Seconds that paramiko may need from closing the channels of a lost connection to saying that it is lost."""

LOCK_TIMEOUT = 30.0
"""Seconds to be told whether the host's lock is ours."""


class SshHost:
    """A host behind one SSH connection (and those of its jump hosts)."""

    def __init__(self, host: HostSpec, clients: list[paramiko.SSHClient]) -> None:
        self._host = host
        self._clients = clients
        self._guard = threading.Lock()
        self._proof: Future[None] | None = None

    def run(self, argv: Sequence[str], *, timeout: float = 30.0) -> Completed:
        """Run a command to its end; `timeout` in seconds bounds each wait for output."""
        try:
            with self._transport.open_session(timeout=timeout) as channel:
                channel.settimeout(timeout)
                # Not an end of file of ours: of a command that ends at once it may come after the channel's own end,
                # for which sshd ends the whole connection.
                channel.exec_command(f"{shlex.join(argv)} < /dev/null")
                stdout = channel.makefile("rb").read()
                stderr = channel.makefile_stderr("rb").read()
                status = channel.recv_exit_status()
                # None was sent: of a command that a signal ended, too.
                if status < 0 and _is_lost(channel):
                    raise EOFError
        except TimeoutError as error:
            raise HostError(Stage.SSH, f"{argv[0]} did not end within {timeout:.0f} s") from error
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise _lost(error) from error
        return Completed(status, stdout.decode(errors="replace"), stderr.decode(errors="replace"))

    def hold(self, name: str, holder: str) -> str | None:
        """Take the host's lock of that name until the connection ends; None: it is ours, else who has it."""
        try:
            channel = self._transport.open_session(timeout=LOCK_TIMEOUT)
            channel.settimeout(LOCK_TIMEOUT)
            channel.exec_command(shlex.join(("sh", "-c", host_lock.SCRIPT, "sh", name, holder)))
            answer = channel.makefile("r")
            match answer.readline().strip():
                case "held":
                    threading.Thread(target=_live, args=(channel,), daemon=True).start()
                    return None
                case "taken":
                    return host_lock.readable(answer.readline())
            said = channel.makefile_stderr("rb").read().decode(errors="replace").strip().splitlines()
            if not said and _is_lost(channel):
                raise EOFError
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise _lost(error) from error
        raise HostError(
            Stage.SSH,
            f"the host cannot be locked: {said[-1] if said else 'no answer'}",
            "it needs flock (util-linux), and a /tmp that can be written",
        )

    def engine(self) -> DockerEngine:
        """Docker on this host, over the same connection."""
        return self._engine

    @cached_property
    def _engine(self) -> DockerEngine:
        # The Docker SDK is slow to import, and the login does not need it.
        from fleet.adapters.engine import DockerEngine

        return DockerEngine(self._open_docker)

    def _open_docker(self) -> _Stream:
        """A byte stream to the Engine: sshd forwards the socket itself, else the docker client relays it."""
        try:
            if not self._host.ssh.sudo:
                with suppress(paramiko.ChannelException):
                    return _Stream(self._transport.open_channel(_Transport.STREAMLOCAL))
            docker = ("sudo", "-n", "docker") if self._host.ssh.sudo else ("docker",)
            self._prove(docker)
            channel = self._transport.open_session()
            channel.exec_command(shlex.join((*docker, "system", "dial-stdio")))
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise _lost(error) from error
        return _Stream(channel)

    def _prove(self, docker: Sequence[str]) -> None:
        """The relay says nothing when it fails: ask something that does, once for all who need one at this moment."""
        with self._guard:
            if begins := self._proof is None:
                self._proof = Future()
            proof = self._proof
        if begins:
            try:
                self._ask_relay(docker)
                proof.set_result(None)
            except BaseException as error:
                proof.set_exception(error)
            finally:
                self._proof = None
        proof.result()

    def _ask_relay(self, docker: Sequence[str]) -> None:
        done = self.run((*docker, "version", "--format", "{{.Server.Version}}"))
        if done.status != 0:
            said = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise EngineError(
                Stage.DOCKER,
                f"{shlex.join(docker)} does not work on the host: {said}",
                "there it needs the docker client, and the user NOPASSWD for it in sudoers"
                if self._host.ssh.sudo
                else "let sshd forward it (AllowStreamLocalForwarding yes), or install the docker client there",
            )

    @property
    def _transport(self) -> paramiko.Transport:
        transport = self._clients[-1].get_transport()
        if transport is None or not transport.is_active():
            raise _lost(transport.saved_exception if transport else None)
        return transport

    def close(self) -> None:
        """End the connection and all that rides on it."""
        _close(self._clients)


def _live(channel: paramiko.Channel) -> None:
    """Tell the host that the holder is alive: a connection may die without a word."""
    with suppress(paramiko.SSHException, OSError, EOFError):
        while not channel.closed:
            channel.sendall(b".\n")
            time.sleep(host_lock.HEARTBEAT)


class _Stream:
    """A channel on which the end of the connection is not taken for the end of what the other side has to say."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def makefile(self, *mode: str | int) -> paramiko.ChannelFile:
        """As for a socket."""
        return _File(self, *mode)  # type: ignore[arg-type]  # it takes what receives

    def settimeout(self, timeout: float | None, /) -> None:
        """As for a socket."""
        self._channel.settimeout(timeout)

    def close(self) -> None:
        """As for a socket."""
        # What was lost needs no goodbye, and the reason is told by whoever was sending or receiving.
        with suppress(paramiko.SSHException, OSError, EOFError):
            self._channel.close()

    def sendall(self, data: bytes) -> None:
        """As for a socket; raises HostError when the connection is lost."""
        with _told():
            self._channel.sendall(data)

    def recv(self, count: int) -> bytes:
        """As for a socket; raises HostError when the connection is lost."""
        with _told():
            received = self._channel.recv(count)
            if not received and not self._channel.eof_received and _is_lost(self._channel):
                raise EOFError
        return received


def _is_lost(channel: paramiko.Channel) -> bool:
    """Whether a channel that was closed without an end of file was closed because the connection ended."""
    transport = channel.transport
    if transport is not None:
        # Its thread closes the channels just before it ends itself.
        transport.join(ENDING)
    return transport is None or not transport.is_active()


class _File(paramiko.ChannelFile):
    def __del__(self) -> None:
        """Nothing is written to it, and what paramiko flushes may be gone before it is."""


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except EOFError as error:
        raise _lost(error) from error


class _Transport(paramiko.Transport):
    """Sends at once, and adds OpenSSH's forwarding of Unix sockets, which paramiko lacks.

    That is in OpenSSH's PROTOCOL file, section 2.4.
    """

    STREAMLOCAL = "direct-streamlocal@openssh.com"
    _OPENING = cMSG_CHANNEL_OPEN + paramiko.Message().add_string(STREAMLOCAL).asbytes()

    def __init__(self, sock: Any, **settings: Any) -> None:
        if isinstance(sock, socket.socket):
            # Several channels are opened at once: else each waits until the one before has been acknowledged.
            with suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().__init__(sock, **settings)

    def _send_user_message(self, data: paramiko.Message) -> None:
        if data.asbytes().startswith(self._OPENING):
            data.add_string(DOCKER_SOCKET)
            data.add_string("")
            data.add_int(0)
        super()._send_user_message(data)  # type: ignore[misc]  # private: not in the stubs


class _Keys(AuthStrategy):
    """The keys in OpenSSH's order: key files that can be read, then the agent's."""

    def __init__(self, login: Login) -> None:
        super().__init__(ssh_config=None)  # type: ignore[arg-type]  # what it would be for is decided already
        self._login = login
        self.sealed: list[str] = []
        self.offered: list[str] = []
        self.broken: list[str] = []

    def get_sources(self) -> Iterator[InMemoryPrivateKey]:
        """Each key to try; notes what was offered and what is sealed with a passphrase."""
        for path in self._login.keys:
            if (key := self._load(path)) is not None:
                self.offered.append(path)
                yield InMemoryPrivateKey(self._login.user, key)
        named = set(self._public_keys())
        agent = Agent()
        try:
            for key in agent.get_keys():
                if self._login.agent_keys_too or key.asbytes() in named:
                    self.offered.append(f"agent: {key.comment or key.get_name()}")
                    yield InMemoryPrivateKey(self._login.user, key)
        finally:
            agent.close()

    def _load(self, path: str) -> paramiko.PKey | None:
        try:
            return paramiko.PKey.from_path(path)
        except (paramiko.PasswordRequiredException, TypeError):
            # cryptography says TypeError when a key needs a passphrase.
            self.sealed.append(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self.broken.append(f"{path}: {error.strerror}")
        except (ValueError, paramiko.SSHException, UnknownKeyType):
            self.broken.append(f"{path} is not a private key")
        return None

    def _public_keys(self) -> Iterator[bytes]:
        for path in self._login.keys:
            file = Path(path if path.endswith(".pub") else f"{path}.pub")
            with suppress(OSError, ValueError, IndexError):
                yield paramiko.Message(base64.b64decode(file.read_text().split()[1])).asbytes()


class _RefuseUnknown(paramiko.MissingHostKeyPolicy):
    def __init__(self, login: Login, *, jumped: bool) -> None:
        self._login = login
        self._jumped = jumped

    def missing_host_key(self, _client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        file = shlex.quote(self._login.known_hosts[0])
        scan = f"ssh-keyscan -p {self._login.port} {self._login.host} >> {file}"
        accept = f"ssh -o StrictHostKeyChecking=ask {self._login.host}, which also asks"
        raise Unreachable(
            Stage.SSH,
            f"the host key of {hostname} is not known ({key.get_name()} {key.fingerprint})",
            f"compare the fingerprint with the host's own, then: {accept if self._jumped else scan}",
        )


def _log_in(login: Login, *, via: paramiko.SSHClient | None, dialling: Dialling | None) -> paramiko.SSHClient:
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(_RefuseUnknown(login, jumped=via is not None))
    keys = _Keys(login)
    try:
        for known in _known_keys(login):
            client.get_host_keys().add(login.known_as, known.get_name(), known)
        client.connect(
            login.host,
            port=login.port,
            username=login.user,
            sock=_tunnel(login, via) or (dialling.take(login.host, login.port) if dialling else None),
            timeout=login.timeout,
            banner_timeout=login.timeout,
            auth_timeout=login.timeout,
            channel_timeout=login.timeout,
            auth_strategy=keys,
            transport_factory=_Transport,
        )
    except BaseException as error:
        client.close()
        if isinstance(error, Unreachable) or not isinstance(error, Exception):
            raise
        raise _why(error, login, keys) from error
    if transport := client.get_transport():
        transport.set_keepalive(KEEPALIVE)
    return client


def _known_keys(login: Login) -> Iterator[paramiko.PKey]:
    """The keys that known_hosts files have for this host, less revoked ones; certificate authorities are not read."""
    known, revoked = [], set()
    for file in filter(Path.is_file, map(Path, login.known_hosts)):
        for line in file.read_text(errors="replace").splitlines():
            marker, _, rest = line.partition(" ") if line.startswith("@") else ("", "", line)
            names = rest.partition(" ")[0].split(",")
            if marker not in {"", "@revoked"} or not any(_is_named(login.known_as, name) for name in names):
                continue
            with suppress(InvalidHostKey, paramiko.SSHException, ValueError):
                if (entry := HostKeyEntry.from_line(rest)) and entry.key:
                    revoked.add(entry.key) if marker else known.append(entry.key)
    return (key for key in known if key not in revoked)


def _is_named(host: str, name: str) -> bool:
    if name.startswith("|1|"):
        with suppress(ValueError, IndexError):
            return paramiko.HostKeys.hash_host(host, name) == name
        return False
    return fnmatch.fnmatchcase(host, name.replace("[", "[[]"))


_UNROUTED = {errno.EHOSTUNREACH, errno.ENETUNREACH}


def _why(error: Exception, login: Login, keys: _Keys) -> Unreachable:
    """One cause, one message, one remedy."""
    place = f"{login.host}:{login.port}"
    match error:
        case paramiko.BadHostKeyException():
            return Unreachable(
                Stage.SSH,
                f"the host key of {login.known_as} has changed: it is now {error.key.get_name()} "
                f"{error.key.fingerprint}",
                f"if the host was reinstalled: ssh-keygen -R '{login.known_as}' "
                f"-f {shlex.quote(login.known_hosts[0])}, then add the new key",
            )
        case paramiko.AuthenticationException() if keys.sealed and not keys.offered:
            return Unreachable(
                Stage.SSH,
                f"the key {', '.join(keys.sealed)} is sealed with a passphrase, and no agent has it",
                f"ssh-add {keys.sealed[0]}",
            )
        case paramiko.AuthenticationException() if keys.broken and not keys.offered:
            return Unreachable(
                Stage.SSH, f"no key could be read: {', '.join(keys.broken)}", "correct ssh.identity_file"
            )
        case paramiko.AuthenticationException():
            return Unreachable(
                Stage.SSH,
                f"{login.host} refused to log {login.user} in (offered: {', '.join(keys.offered) or 'no key'})",
                f"add the public key to ~{login.user}/.ssh/authorized_keys there, "
                "or set ssh.user or ssh.identity_file in the inventory",
            )
        case socket.gaierror():
            return Unreachable(
                Stage.SSH, f"{login.host} is not a name that can be resolved", "correct the host's address"
            )
        case TimeoutError():
            return Unreachable(
                Stage.SSH,
                f"no answer from {place} within {login.timeout:.0f} s",
                "is the host up, and is the port open in its firewall?",
            )
        case NoValidConnectionsError() if _UNROUTED & {
            getattr(cause, "errno", None) for cause in error.errors.values()
        }:
            return Unreachable(
                Stage.SSH, f"there is no route to {login.host}", "is the host up, and is its address right?"
            )
        case NoValidConnectionsError():
            return Unreachable(
                Stage.SSH, f"{place} refused the connection", "is sshd running there? is ssh.port right?"
            )
        case _:
            return Unreachable(
                Stage.SSH,
                f"{place}: {error or type(error).__name__}",
                f"ssh -v -p {login.port} {login.user}@{login.host}",
            )


def _tunnel(login: Login, via: paramiko.SSHClient | None) -> paramiko.Channel | paramiko.ProxyCommand | None:
    if via is not None:
        transport = via.get_transport()
        if transport is None:
            raise _lost(None)
        return transport.open_channel("direct-tcpip", (login.host, login.port), ("", 0), timeout=login.timeout)
    return paramiko.ProxyCommand(login.proxy_command) if login.proxy_command else None


def _close(clients: Sequence[paramiko.SSHClient]) -> None:
    for client in reversed(clients):
        client.close()


def _lost(error: BaseException | None) -> HostError:
    said = f" ({error})" if str(error or "") else ""
    return HostError(Stage.SSH, f"the connection was lost{said}", "run the command again")
