"""What a host stands on: the question that `fleet check` asks it in one shell script, and its answer."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from fleet.containers.buildkitd import merged
from fleet.model.spec import Delivery

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fleet.model.spec import FleetSpec, HostSpec


class Reach(StrEnum):
    """How a TCP connection ended."""

    OPEN = "open"
    REFUSED = "refused"
    SILENT = "silent"
    UNROUTED = "unrouted"
    UNRESOLVED = "unresolved"
    UNKNOWN = "unknown"
    """It could not be tried, or not be understood."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What a Docker Engine says of itself and its host; sizes in bytes, None: it does not say."""

    id: str
    """Kept on the host's disk: a copied machine has the same."""
    os: str
    root: str
    driver: str
    """Of images: overlay2, overlayfs, vfs …"""
    cgroups: str | None
    """Version 1 or 2."""
    unlimited: tuple[str, ...]
    """What Docker cannot limit there for want of a cgroup controller: memory, cpu, pids."""
    cpus: int | None
    memory: int | None
    security: frozenset[str]
    """Names of security options, such as seccomp, rootless, userns."""
    mtu: int | None
    """Of the bridge on which containers are."""
    proxied: bool
    """Whether it reaches registries through a proxy."""
    published: Mapping[int, str]
    """TCP port of the host -> running container that has it."""


@dataclass(frozen=True, slots=True)
class Port:
    """Whether something on the host listens on a TCP port of it."""

    taken: bool
    by: str | None = None
    """The program that does; None also when this login may not see it."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What a host's shell answers; None: the host does not tell."""

    machine_id: str | None = None
    boot_id: str | None = None
    """Another one after each boot."""
    file_system: str | None = None
    """Beneath Docker's root, in the kernel's word."""
    inodes: int | None = None
    free_inodes: int | None = None
    nic: str | None = None
    """The network interface of the default route."""
    nic_mtu: int | None = None
    ports: Mapping[int, Port] = field(default_factory=dict)
    """Of those that were asked for; one that is not there: the host does not tell."""
    nameservers: tuple[str, ...] | None = None
    reach: Mapping[str, Reach] = field(default_factory=dict)
    """HOST:PORT of a registry -> how a connection to it from the host ended."""


# ------------------------------------------------------------------------------------------------ registries

_HUB = "registry-1.docker.io"
"""The machine behind the name docker.io."""


def registries(spec: FleetSpec, host: HostSpec) -> tuple[str, ...]:
    """`HOST:PORT` of the registries that a host is to use: the image's, mirrors, and others without mirrors."""
    images = [spec.buildkit.image]
    images += [spec.gateway.image] if spec.gateway and host.name in spec.gateway.hosts else []
    configured = merged(spec.buildkit.config, host.config).get("registry") or {}
    others = (mirror for name, entry in configured.items() for mirror in entry.get("mirrors") or (name,))
    plain = {name for name, entry in configured.items() if entry.get("http")}
    pulled = map(_registry, images) if host.delivery is Delivery.REGISTRY else ()
    return tuple(dict.fromkeys(_endpoint(name, plain) for name in (*pulled, *others)))


def _registry(image: str) -> str:
    first, slash, _ = image.partition("/")
    return first if slash and (first == "localhost" or set(first) & {".", ":"}) else "docker.io"


def _endpoint(registry: str, plain: Iterable[str]) -> str:
    registry = registry.partition("/")[0]
    if registry in {"docker.io", "index.docker.io"}:
        return f"{_HUB}:443"
    return registry if ":" in registry else f"{registry}:{80 if registry in plain else 443}"


# --------------------------------------------------------------------------------------------------- question

# sh as POSIX has it: hosts may have BusyBox alone. No tool is relied on: what is missing goes unanswered.
# A connection is tried by what there is: /dev/tcp is bash's, nc the BusyBox way; each in the background, 3 s a step.
# /proc/net/route names the default route 00000000; state 0A of /proc/net/tcp is LISTEN.
# The eighth and later words of df are its second line, the header has seven; the last one mounted there is on top.
_SCRIPT = r"""
export LC_ALL=C
set -f
root=$1 ports=$2
shift 2
have() { command -v "$1" > /dev/null 2>&1; }
reach() {
  name=${1%:*}
  case $name in *[!0-9.]*)
    if have timeout && have getent; then
      timeout 3 getent hosts "$name" > /dev/null 2>&1 || { echo "reach $1 getent $?"; return; }
    fi
  esac
  if have timeout && have bash; then
    said=$(timeout 3 bash -c 'exec 3<> "/dev/tcp/$0/$1"' "$name" "${1##*:}" 2>&1)
    echo "reach $1 bash $?" $said
  elif have timeout && have nc; then
    said=$(timeout 3 nc -w 3 "$name" "${1##*:}" 2>&1 > /dev/null < /dev/null)
    echo "reach $1 nc $?" $said
  fi
}
for registry; do reach "$registry" & done
{ read -r id < /etc/machine-id; } 2> /dev/null && echo "machine-id $id"
{ read -r id < /proc/sys/kernel/random/boot_id; } 2> /dev/null && echo "boot-id $id"
if [ -r /etc/resolv.conf ]; then
  echo resolv
  while read -r key value _ || [ -n "$key" ]; do
    [ "$key" = nameserver ] && echo "nameserver $value"
  done < /etc/resolv.conf
fi
set -- $(df -Pi "$root" 2> /dev/null)
point=${13}
echo "inodes $9 ${11}"
have grep && grep -F " $point " /proc/mounts | while read -r _ at type _; do
  [ "$at" = "$point" ] && echo "file-system $type"
done
nic=
while read -r name to _; do [ "$to" = 00000000 ] && nic=$name && break; done < /proc/net/route
{ read -r mtu < "/sys/class/net/$nic/mtu"; } 2> /dev/null && echo "nic $nic $mtu"
files=
for file in tcp tcp6; do [ -r /proc/net/$file ] && files="$files /proc/net/$file"; done
if [ -n "$files" ] && have grep; then
  for port in $ports; do
    grep -qE ": [0-9A-F]+:$(printf %04X "$port") [0-9A-F]+:0000 0A" $files
    case $? in
      0) echo "port $port taken" $(have ss && ss -Hltnp "sport = :$port" 2> /dev/null);;
      1) echo "port $port free";;
    esac
  done
fi
wait
"""


def question(root: str, ports: Iterable[int], registries: Iterable[str]) -> tuple[str, ...]:
    """The command whose output `answer` reads: `root` is Docker's, `ports` fleet's own, registries are HOST:PORT."""
    return ("sh", "-c", _SCRIPT, "check", root, " ".join(map(str, ports)), *registries)


def answer(said: str) -> Ground:
    """What the script printed, as facts."""
    lines = [line.partition(" ")[::2] for line in said.splitlines()]
    fields = dict(lines)
    inodes, free = (_number(word) for word in [*fields.get("inodes", "").split(), "", ""][:2])
    nic, _, mtu = fields.get("nic", "").partition(" ")
    return Ground(
        machine_id=fields.get("machine-id") or None,
        boot_id=fields.get("boot-id") or None,
        file_system=fields.get("file-system") or None,
        inodes=inodes,
        free_inodes=free,
        nic=nic or None,
        nic_mtu=_number(mtu),
        ports=dict(_port(value) for key, value in lines if key == "port"),
        nameservers=tuple(value for key, value in lines if key == "nameserver") if "resolv" in fields else None,
        reach=dict(_reached(value) for key, value in lines if key == "reach"),
    )


def _number(word: str) -> int | None:
    return int(word) if word.isdigit() else None


def _port(line: str) -> tuple[int, Port]:
    number, state, *_ = line.split()
    program = re.search(r'users:\(\("([^"]+)",pid=(\d+)', line)
    return int(number), Port(state == "taken", f"{program[1]} (process {program[2]})" if program else None)


_LATE = {"124", "143"}
"""Exit status of a program that `timeout` ended: coreutils', BusyBox's."""

_SAID = {
    "Connection refused": Reach.REFUSED,
    "No route to host": Reach.UNROUTED,
    "Network is unreachable": Reach.UNROUTED,
    "timed out": Reach.SILENT,
}


def _reached(line: str) -> tuple[str, Reach]:
    """One registry: how the tool that tried it ended, and what it said."""
    endpoint, tool, status, *words = line.split()
    said = " ".join(words)
    match tool, status:
        case ("getent", "2") | ("getent", ("124" | "143")):
            return endpoint, Reach.UNRESOLVED
        case (("bash" | "nc"), "0"):
            return endpoint, Reach.OPEN
        # nc may also wait for the other end to say something.
        case "bash", late if late in _LATE:
            return endpoint, Reach.SILENT
        case (("bash" | "nc"), _):
            return endpoint, next((reach for words, reach in _SAID.items() if words in said), Reach.UNKNOWN)
        case _:
            return endpoint, Reach.UNKNOWN
