"""SSH by paramiko: one connection a host, ~/.ssh/config respected, unknown host keys refused."""

from __future__ import annotations

import getpass
import importlib
import logging
import re
import shlex
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

# paramiko takes invoke, whose import is as slow as a login, for the `Match exec` lines that few a ~/.ssh/config has.
_INVOKE = "invoke"
_blocked = sys.modules.setdefault(_INVOKE, None)  # type: ignore[arg-type]  # None makes the import fail, as documented
import paramiko  # noqa: E402 - after the above
from paramiko.common import cMSG_CHANNEL_OPEN  # noqa: E402
from paramiko.config import SSH_PORT  # noqa: E402
from paramiko.ssh_exception import NoValidConnectionsError  # noqa: E402

from fleet.errors import HostError, Unreachable  # noqa: E402
from fleet.model import SshSpec, Stage  # noqa: E402
from fleet.ports import Completed  # noqa: E402

if _blocked is None:
    del sys.modules[_INVOKE]

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fleet.adapters.engine import DockerEngine
    from fleet.model import HostSpec

DOCKER_SOCKET = "/var/run/docker.sock"
CONNECT_TIMEOUT = 10.0
"""Seconds for TCP, banner and login each, unless ~/.ssh/config has a ConnectTimeout."""

# What goes wrong is raised and told once, by us.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class Login:
    """Where and how to log in, inventory and ~/.ssh/config merged."""

    host: str
    port: int
    user: str
    keys: tuple[str, ...]
    known_hosts: tuple[str, ...]
    agent: bool
    jump: tuple[Login, ...]
    proxy_command: str | None
    timeout: float

    @property
    def known_as(self) -> str:
        """The name that known_hosts files use for it."""
        return self.host if self.port == SSH_PORT else f"[{self.host}]:{self.port}"


def resolve(address: str, wanted: SshSpec, config: paramiko.SSHConfig) -> Login:
    """Merge: the inventory over the user's ssh configuration over OpenSSH's defaults."""
    found = config.lookup(address)
    jump = found.get("proxyjump", "none")
    hops = () if jump.lower() == "none" else tuple(_hop(part.strip(), config) for part in jump.split(","))
    files = wanted.known_hosts_file or found.get("userknownhostsfile") or "~/.ssh/known_hosts"
    keys = [wanted.identity_file] if wanted.identity_file else found.get("identityfile", ())
    return Login(
        host=found.get("hostname", address),
        port=wanted.port or int(found.get("port", SSH_PORT)),
        user=wanted.user or found.get("user") or getpass.getuser(),
        keys=tuple(str(Path(key).expanduser()) for key in keys),
        known_hosts=tuple(str(Path(file).expanduser()) for file in files.split()),
        agent=found.get("identitiesonly", "no").lower() != "yes",
        jump=hops,
        proxy_command=None if hops else found.get("proxycommand"),
        timeout=float(found.get("connecttimeout", CONNECT_TIMEOUT)),
    )


def _read_config(path: Path) -> paramiko.SSHConfig:
    if not path.is_file():
        return paramiko.SSHConfig()
    text = path.read_text()
    if re.search(r"^\s*match\b.*\bexec\b", text, re.IGNORECASE | re.MULTILINE):
        paramiko.config.invoke = importlib.import_module(_INVOKE)  # type: ignore[attr-defined]  # not in the stubs
    return paramiko.SSHConfig.from_text(text)


def _hop(text: str, config: paramiko.SSHConfig) -> Login:
    user, _, place = text.rpartition("@")
    host, _, port = place.partition(":")
    return resolve(host, SshSpec(user=user or None, port=int(port) if port else None), config)


def connect(host: HostSpec, *, config_file: Path = Path("~/.ssh/config")) -> SshHost:
    """Log in to `host`; raises Unreachable, each cause in its own words and with its own remedy."""
    path = config_file.expanduser()
    try:
        login = resolve(host.address, host.ssh, _read_config(path))
    except (paramiko.ConfigParseError, OSError, ValueError) as error:
        raise Unreachable(Stage.SSH, f"{path} cannot be read: {error}", f"correct {path}") from error
    clients: list[paramiko.SSHClient] = []
    try:
        for step in (*login.jump, login):
            clients.append(_log_in(step, via=clients[-1] if clients else None))
    except BaseException:
        _close(clients)
        raise
    return SshHost(host, clients)


class SshHost:
    """A host behind one SSH connection (and those of its jump hosts)."""

    def __init__(self, host: HostSpec, clients: list[paramiko.SSHClient]) -> None:
        self._host = host
        self._clients = clients

    def run(self, argv: Sequence[str], *, timeout: float = 30.0) -> Completed:
        """Run a command to its end; `timeout` in seconds bounds each wait for output."""
        command = ("sudo", "-n", "--", *argv) if self._host.ssh.sudo else tuple(argv)
        try:
            with self._transport.open_session(timeout=timeout) as channel:
                channel.settimeout(timeout)
                channel.exec_command(shlex.join(command))
                channel.shutdown_write()
                stdout = channel.makefile("rb").read()
                stderr = channel.makefile_stderr("rb").read()
                status = channel.recv_exit_status()
        except TimeoutError as error:
            raise HostError(Stage.SSH, f"{argv[0]} did not end within {timeout:.0f} s") from error
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise _lost(error) from error
        return Completed(status, stdout.decode(errors="replace"), stderr.decode(errors="replace"))

    def engine(self) -> DockerEngine:
        """Docker on this host, over the same connection."""
        return self._engine

    @cached_property
    def _engine(self) -> DockerEngine:
        # The Docker SDK is slow to import, and the login does not need it.
        from fleet.adapters.engine import DockerEngine

        return DockerEngine(self._open_docker)

    def _open_docker(self) -> paramiko.Channel:
        """A byte stream to the Engine: sshd forwards the socket itself, else the docker client relays it."""
        try:
            if not self._host.ssh.sudo:
                with suppress(paramiko.ChannelException):
                    return self._transport.open_channel(_Transport.STREAMLOCAL)
            channel = self._transport.open_session()
            relay = ("docker", "system", "dial-stdio")
            channel.exec_command(shlex.join(("sudo", "-n", "--", *relay) if self._host.ssh.sudo else relay))
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise _lost(error) from error
        return channel

    @property
    def _transport(self) -> paramiko.Transport:
        transport = self._clients[-1].get_transport()
        if transport is None or not transport.is_active():
            raise _lost(None)
        return transport

    def close(self) -> None:
        """End the connection and all that rides on it."""
        _close(self._clients)


class _Transport(paramiko.Transport):
    """Adds OpenSSH's forwarding of Unix sockets, which paramiko lacks (PROTOCOL file of OpenSSH, section 2.4)."""

    STREAMLOCAL = "direct-streamlocal@openssh.com"
    _OPENING = cMSG_CHANNEL_OPEN + paramiko.Message().add_string(STREAMLOCAL).asbytes()

    def _send_user_message(self, data: paramiko.Message) -> None:
        if data.asbytes().startswith(self._OPENING):
            data.add_string(DOCKER_SOCKET)
            data.add_string("")
            data.add_int(0)
        super()._send_user_message(data)  # type: ignore[misc]  # private: not in the stubs


class _RefuseUnknown(paramiko.MissingHostKeyPolicy):
    def __init__(self, login: Login) -> None:
        self._login = login

    def missing_host_key(self, _client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        file = self._login.known_hosts[0]
        raise Unreachable(
            Stage.SSH,
            f"the host key of {hostname} is not known ({key.get_name()} {key.fingerprint})",
            f"compare the fingerprint with the host's own, then: "
            f"ssh-keyscan -p {self._login.port} {self._login.host} >> {file}",
        )


def _log_in(login: Login, *, via: paramiko.SSHClient | None) -> paramiko.SSHClient:
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(_RefuseUnknown(login))
    place = f"{login.host}:{login.port}"
    try:
        for file in login.known_hosts:
            if Path(file).is_file():
                client.load_system_host_keys(file)
        client.connect(
            login.host,
            port=login.port,
            username=login.user,
            key_filename=list(login.keys),  # type: ignore[arg-type]  # a list is documented
            sock=_tunnel(login, via),
            timeout=login.timeout,
            banner_timeout=login.timeout,
            auth_timeout=login.timeout,
            channel_timeout=login.timeout,
            allow_agent=login.agent,
            look_for_keys=not login.keys,
            transport_factory=_Transport,  # type: ignore[arg-type]  # called with (sock, disabled_algorithms=…)
        )
    except paramiko.BadHostKeyException as error:
        client.close()
        raise Unreachable(
            Stage.SSH,
            f"the host key of {login.known_as} has changed: it is now {error.key.get_name()} {error.key.fingerprint}",
            f"if the host was reinstalled: ssh-keygen -R '{login.known_as}' -f {login.known_hosts[0]}, "
            "then add the new key",
        ) from error
    except paramiko.PasswordRequiredException as error:
        client.close()
        raise Unreachable(
            Stage.SSH, f"the key {' '.join(login.keys)} is sealed with a passphrase", "ssh-add it to your agent"
        ) from error
    except paramiko.AuthenticationException as error:
        client.close()
        offered = ", ".join((*login.keys, *(["the agent's keys"] if login.agent else [])))
        raise Unreachable(
            Stage.SSH,
            f"{login.host} refused to log {login.user} in (offered: {offered})",
            f"add the public key to ~{login.user}/.ssh/authorized_keys there, "
            "or set ssh.user or ssh.identity_file in the inventory",
        ) from error
    except socket.gaierror as error:
        client.close()
        raise Unreachable(
            Stage.SSH, f"{login.host} is not a name that can be resolved", "correct the host's address"
        ) from error
    except TimeoutError as error:
        client.close()
        raise Unreachable(
            Stage.SSH,
            f"no answer from {place} within {login.timeout:.0f} s",
            "is the host up, and is the port open in its firewall?",
        ) from error
    except NoValidConnectionsError as error:
        client.close()
        raise Unreachable(
            Stage.SSH, f"{place} refused the connection", "is sshd running there? is ssh.port right?"
        ) from error
    except (paramiko.SSHException, OSError, EOFError, ValueError) as error:
        client.close()
        raise Unreachable(
            Stage.SSH, f"{place}: {error or type(error).__name__}", f"try: ssh -v -p {login.port} {login.host}"
        ) from error
    except Unreachable:
        client.close()
        raise
    return client


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
    return HostError(Stage.SSH, f"the connection was lost{f' ({error})' if error else ''}", "run the command again")
