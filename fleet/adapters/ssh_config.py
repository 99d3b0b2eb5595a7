"""How to log in to a host: the inventory over ~/.ssh/config over OpenSSH's defaults."""

from __future__ import annotations

import getpass
import glob
import importlib
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from fleet.errors import Unreachable
from fleet.model.facts import Stage
from fleet.model.spec import SshSpec

# paramiko takes invoke, whose import is as slow as a login, for the `Match exec` lines that few a ~/.ssh/config has.
_INVOKE = "invoke"
_blocked = sys.modules.setdefault(_INVOKE, None)  # type: ignore[arg-type]  # None makes the import fail, as documented
import paramiko  # noqa: E402 - after the above

if _blocked is None:
    del sys.modules[_INVOKE]

DEFAULT_PORT = 22
CONNECT_TIMEOUT = 10.0
"""Seconds for TCP, banner and login each, unless ~/.ssh/config has a ConnectTimeout."""

DEFAULT_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
GLOBAL_KNOWN_HOSTS = "/etc/ssh/ssh_known_hosts"
_INCLUDE_DEPTH = 16


@dataclass(frozen=True, slots=True)
class Login:
    """Where and how to log in; `keys` are paths of private (or, for keys of an agent, public) key files."""

    host: str
    port: int
    user: str
    keys: tuple[str, ...]
    agent_keys_too: bool
    """Whether keys of the agent that are not among `keys` are offered as well."""
    known_hosts: tuple[str, ...]
    proxy_command: str | None
    timeout: float

    @property
    def known_as(self) -> str:
        """The name that known_hosts files use for it."""
        return self.host if self.port == DEFAULT_PORT else f"[{self.host}]:{self.port}"


def resolve(address: str, wanted: SshSpec, config: str) -> tuple[Login, ...]:
    """The logins on the way to a host, jump hosts first, the host itself last; raises Unreachable.

    `config` is the text of ~/.ssh/config, as `read` gives it.
    """
    if re.search(r"^\s*match\b.*\bexec\b", config, re.IGNORECASE | re.MULTILINE):
        paramiko.config.invoke = importlib.import_module(_INVOKE)  # type: ignore[attr-defined]  # not in the stubs
    try:
        return _resolve(address, wanted, config, ())
    except (paramiko.ConfigParseError, ValueError) as error:
        raise Unreachable(Stage.SSH, f"~/.ssh/config cannot be used: {error}", f"try: ssh -G {address}") from error


def read(path: Path) -> str:
    """The text of an ssh configuration with its Include lines carried out; empty when there is none."""
    return _read(path, 0) if path.is_file() else ""


def _resolve(address: str, wanted: SshSpec, config: str, seen: tuple[str, ...]) -> tuple[Login, ...]:
    if address in seen:
        raise Unreachable(
            Stage.SSH,
            f"its jump hosts lead in a circle: {' → '.join((*seen, address))}",
            "correct ProxyJump in ~/.ssh/config; `ProxyJump none` ends a chain",
        )
    # OpenSSH takes the first value that it meets, so what the inventory says comes first.
    said = [f"{key} {value}" for key, value in (("User", wanted.user), ("Port", wanted.port)) if value]
    found = paramiko.SSHConfig.from_text("\n".join(("Host *", *said, "Host *", config))).lookup(address)
    jump = found.get("proxyjump", "none")
    way: tuple[Login, ...] = ()
    for hop in () if jump.lower() == "none" else jump.split(","):
        steps = _resolve(*_hop(hop.strip()), config, (*seen, address))
        # As with OpenSSH, only the first hop of a chain is reached over jump hosts of its own.
        way = (*way, steps[-1]) if way else steps
    keys = (wanted.identity_file,) if wanted.identity_file else found.get("identityfile", DEFAULT_KEYS)
    files = (wanted.known_hosts_file,) if wanted.known_hosts_file else _known_hosts(found.get("userknownhostsfile"))
    login = Login(
        host=found.get("hostname", address),
        port=int(found.get("port", DEFAULT_PORT)),
        user=found.get("user") or getpass.getuser(),
        keys=tuple(str(Path(key).expanduser()) for key in keys),
        agent_keys_too=found.get("identitiesonly", "no").lower() != "yes",
        known_hosts=tuple(str(Path(file).expanduser()) for file in files),
        proxy_command=None if way else found.get("proxycommand"),
        timeout=float(found.get("connecttimeout", CONNECT_TIMEOUT)),
    )
    return (*way, login)


def _hop(text: str) -> tuple[str, SshSpec]:
    """`[ssh://][USER@]HOST[:PORT]`, an IPv6 address with a port in brackets."""
    user, _, place = text.removeprefix("ssh://").rpartition("@")
    parts = re.fullmatch(r"(?:\[([^\]]+)\]|([^:]+))(?::(\d+))?", place)
    host, port = (parts[1] or parts[2], parts[3]) if parts else (place, None)
    return host, SshSpec(user=user or None, port=int(port) if port else None)


def _known_hosts(configured: str | None) -> tuple[str, ...]:
    files = shlex.split(configured) if configured else ["~/.ssh/known_hosts"]
    return (*(file for file in files if file.lower() != "none"), GLOBAL_KNOWN_HOSTS)


def _read(path: Path, depth: int) -> str:
    lines, scope = [], "Host *"
    for line in path.read_text().splitlines():
        included = re.match(r"\s*include[\s=]+(.+)", line, re.IGNORECASE)
        if not included:
            scope = line if re.match(r"\s*(host|match)\b", line, re.IGNORECASE) else scope
            lines.append(line)
        elif depth < _INCLUDE_DEPTH:
            for pattern in shlex.split(included[1], comments=True):
                files = glob.glob(str(Path("~/.ssh").expanduser() / Path(pattern).expanduser()))  # noqa: PTH207 - a pattern
                lines += [_read(Path(file), depth + 1) for file in sorted(files)]
            # What follows belongs to the block that the Include stands in.
            lines.append(scope)
    return "\n".join(lines)
