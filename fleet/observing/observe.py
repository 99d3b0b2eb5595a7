"""Gather facts: every host over its one SSH connection and every daemon over mTLS, all at once."""

from __future__ import annotations

import hashlib
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Self

from fleet.containers import buildkitd
from fleet.containers.daemon import aside
from fleet.containers.proxy import DIRECTORY as PROXY_DIRECTORY
from fleet.containers.proxy import gates
from fleet.errors import BuilderError, HostError
from fleet.model.facts import ApiFacts, Down, Facts, HostFacts, Image, NodeFacts, ProxyFacts, Stage
from fleet.model.platforms import machine_arch
from fleet.model.spec import GATEWAY, Connection, Delivery, object_name, pull_mark
from fleet.parallel import Gathering, gather

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from fleet.model.facts import Offer
    from fleet.model.spec import FleetSpec, HostSpec
    from fleet.ports import Builder, Host, Survey, World

PROBE_TIMEOUT = 3.0
"""Seconds that a daemon has to answer when there is no hurry."""


DOCKER_ROOT = "/var/lib/docker"
"""Where Docker keeps everything unless it is told otherwise."""

LEAST_TIME = 0.5
"""Seconds that everybody has to answer, however late it is."""

PROBE_SHARE = 0.7
"""Of the time until a deadline: a probe has to say why it failed before nobody listens any more."""


class Connections:
    """One connection a host, opened when first needed, kept until the end and closed together."""

    def __init__(self, connect: Callable[[HostSpec], Host]) -> None:
        self._connect = connect
        self._open: dict[str, Host] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()
        self._given_up: dict[str, HostError] = {}

    def get(self, host: HostSpec) -> Host:
        """The connection to `host`; raises Unreachable."""
        with self._lock(host):
            return self._get(host)

    def _lock(self, host: HostSpec) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(host.name, threading.Lock())

    def _get(self, host: HostSpec) -> Host:
        if error := self._given_up.get(host.name):
            raise error
        if host.name not in self._open:
            self._open[host.name] = self._connect(host)
        return self._open[host.name]

    def open(self, hosts: Iterable[HostSpec]) -> None:
        """Begin to log in to these; whoever asks for one of them gets what comes of it, be it the error."""
        Gathering({host.name: partial(self._open_or_give_up, host) for host in hosts})

    def _open_or_give_up(self, host: HostSpec) -> None:
        with self._lock(host):
            try:
                engine = self._get(host).engine()
            except HostError as error:
                self.give_up(host, error)
                return
        # A way to Docker is opened beside what is done first. Why it fails is told to whoever needs it.
        with suppress(HostError):
            engine.version()

    def drop(self, host: HostSpec) -> None:
        """Whoever asks for this host next logs in anew."""
        if lost := self._open.pop(host.name, None):
            _close(lost)

    def give_up(self, host: HostSpec, error: HostError) -> None:
        """Have nothing more to do with this host: whoever asks for its connection gets the error."""
        self._given_up[host.name] = error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for host in list(self._open.values()):
            _close(host)


def _close(host: Host) -> None:
    with suppress(OSError, EOFError):
        host.close()


class Observation:
    """Facts being gathered: begun when it is made, collected by `facts`, so that there is time for something else."""

    def __init__(
        self,
        spec: FleetSpec,
        world: World,
        connections: Connections,
        *,
        only: Collection[str] = (),
        deadline: float | None = None,
        enough: float | None = None,
        known: Mapping[str, ApiFacts] = MappingProxyType({}),
    ) -> None:
        """Begin to ask everybody.

        `only`: the hosts to log in to, all when empty; the daemons of the others are still asked. `deadline`: the
        moment of time.monotonic() at which what has not answered is left unknown; None waits for each connection's own
        time limit. `enough`: the moment from which hosts are waited for no more, once every daemon, and
        every gateway, has answered. `known`: what daemons have said a moment ago, who are not asked.
        """
        if deadline is not None:
            # On a machine that is busy itself the time may be over already; nobody is down for that.
            deadline = max(deadline, time.monotonic() + LEAST_TIME)
        self._spec, self._world, self._deadline, self._enough, self._known = spec, world, deadline, enough, known
        may_probe = world.vault.has_client()
        if deadline is not None and may_probe:
            # Health hangs on the probes: they must not wait for the imports of the logins.
            world.prober.prepare()
        probe_timeout = PROBE_TIMEOUT if deadline is None else _left(deadline) * PROBE_SHARE
        logins = {
            host.name: partial(observe_host, spec, host, connections, closely=deadline is None)
            for host in spec.hosts
            if (not only or host.name in only) and host.connection is not Connection.NONE
        }
        probes = {
            host.name: partial(world.prober.probe, host, timeout=probe_timeout)
            for host in spec.hosts
            if may_probe and host.name not in known
        }
        ways = gates(spec) if may_probe else {}
        through = {key: partial(world.prober.probe, gate, timeout=probe_timeout) for key, gate in ways.items()}
        if deadline is None:
            # Without a hurry the logins first: they take longest, and what is imported meanwhile costs nothing.
            self._logins, self._probes, self._gates = Gathering(logins), Gathering(probes), Gathering(through)
        else:
            self._probes, self._gates, self._logins = Gathering(probes), Gathering(through), Gathering(logins)

    def facts(self) -> Facts:
        """Everything that is known now; raises VaultError and BuilderError, never for a host."""
        builder = self._world.builder.read(self._spec.name)
        vault = self._world.vault.read()
        if self._deadline is None and not builder.registered:
            # A builder that stands was made with a buildx that is fit; a first one should not fail at the very end.
            builder = replace(builder, unusable=_unusable(self._world.builder))
        deadline = self._deadline
        said = {**self._known, **self._probes.results(timeout=None if deadline is None else _left(deadline))}
        passed = self._gates.results(timeout=None if deadline is None else _left(deadline))
        answers = (*(said.get(host.name) for host in self._spec.hosts), *passed.values())
        if self._enough and all(isinstance(answer, ApiFacts) for answer in answers):
            deadline = self._enough
        found = self._logins.results(timeout=None if deadline is None else _left(deadline))
        return Facts(
            nodes={
                host.name: NodeFacts(host=found.get(host.name), api=said.get(host.name)) for host in self._spec.hosts
            },
            builder=builder,
            vault=vault,
            offers={} if self._deadline else self._offers(found),
            files=files(self._spec, self._world),
            gates=passed,
        )

    def _offers(self, found: Mapping[str, HostFacts | Down]) -> Mapping[tuple[str, str], Offer | Down]:
        """What could be sent to those that lack it; a registry takes its time, so only where there is no hurry."""
        spec, world = self._spec, self._world
        lacking = {
            (image, there.arch)
            for host in spec.hosts
            if host.delivery is Delivery.STREAM and isinstance(there := found.get(host.name), HostFacts)
            for image, state in _images(spec, host, there)
            if state is Image.ABSENT
        }
        return gather({key: partial(offered, world, *key) for key in sorted(lacking)})


def _images(spec: FleetSpec, host: HostSpec, found: HostFacts) -> Iterator[tuple[str, Image]]:
    """What is wanted there, and whether it is there."""
    yield spec.buildkit.image, found.image
    if spec.gateway and host.name in spec.gateway.hosts:
        yield spec.gateway.image, found.proxy.image


def files(spec: FleetSpec, world: World) -> dict[str, str | Down]:
    """The files of this machine that daemons are to have: see `Facts.files`."""
    configs = (buildkitd.merged(spec.buildkit.config, host.config) for host in spec.hosts)
    sources = {source for config in configs for source in buildkitd.placed(config)[1].values()}
    found: dict[str, str | Down] = {}
    for source in sorted(sources):
        try:
            found[source] = hashlib.sha256(world.read_file(source)).hexdigest()
        except OSError as error:
            found[source] = Down(Stage.CONTAINER, f"{source}: {error.strerror}", "correct buildkit.config.registry")
    return found


def offered(world: World, image: str, arch: str) -> Offer | Down:
    """What this machine could send of the image, or why it cannot."""
    try:
        return world.registry.offer(image, arch)
    except HostError as error:
        return Down(error.stage, error.message, error.remedy)


def _unusable(builder: Builder) -> Down | None:
    try:
        builder.check()
    except BuilderError as error:
        return Down(Stage.BUILDER, error.message, error.remedy)
    return None


def observe(
    spec: FleetSpec,
    world: World,
    connections: Connections,
    *,
    only: Collection[str] = (),
    deadline: float | None = None,
    enough: float | None = None,
    known: Mapping[str, ApiFacts] = MappingProxyType({}),
) -> Facts:
    """Ask everybody and wait for the answers: see `Observation`."""
    return Observation(spec, world, connections, only=only, deadline=deadline, enough=enough, known=known).facts()


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.0)


def _since(begun: float) -> float:
    return (time.monotonic() - begun) * 1000


def observe_host(
    spec: FleetSpec, host: HostSpec, connections: Connections, *, closely: bool = False
) -> HostFacts | Down:
    """What one host and its Docker Engine say: one command, and three requests beside it, over one connection.

    `closely`: look into the containers, too, which is two more requests at the same time.
    """
    try:
        connection = connections.get(host)
        asking = Gathering({host.name: partial(_ask_engine, spec, host, connection, closely=closely)})
        begun = time.monotonic()
        report = _report(spec, host, connection)
        took = {Stage.SSH: _since(begun)}
        if isinstance(report, Down):
            return report
        version, took[Stage.DOCKER], survey, image, proxy_image = asking.results()[host.name]
        root = survey.root or DOCKER_ROOT
        disk = report.disk if root == DOCKER_ROOT else _read_df(connection.run(("df", "-Pk", root)).stdout)
    except HostError as error:
        return Down(error.stage, error.message, error.remedy)
    name, proxy = object_name(spec.name, host.name), object_name(spec.name, GATEWAY)
    return HostFacts(
        machine=report.machine,
        engine=version,
        clock_skew=report.clock_skew,
        free_bytes=disk.free,
        disk_bytes=disk.size,
        emulated=report.emulated,
        daemons=survey.daemons,
        image=image,
        volumes=survey.volumes,
        foreign=tuple(sorted({name, aside(name)} & survey.foreign)),
        history=report.history,
        proxy=ProxyFacts(survey.proxies, proxy_image, tuple(sorted({proxy, aside(proxy)} & survey.foreign))),
        took=took,
    )


def _ask_engine(
    spec: FleetSpec, host: HostSpec, connection: Host, *, closely: bool
) -> tuple[str, float, Survey, Image, Image]:
    engine = connection.engine()

    def state(image: str) -> Image:
        return engine.image(image, pull_mark(spec.name, image))

    gateway = spec.gateway.image if spec.gateway and host.name in spec.gateway.hosts else None
    wanted = dict.fromkeys(filter(None, (spec.buildkit.image, gateway)))
    images = Gathering({image: partial(state, image) for image in wanted})
    looked_into = {object_name(spec.name, host.name): buildkitd.DIRECTORY}
    looked_into |= {object_name(spec.name, GATEWAY): PROXY_DIRECTORY} if gateway else {}
    begun = time.monotonic()
    survey = engine.survey(spec.name, looked_into if closely else {})
    took = _since(begun)
    found = images.results()
    return engine.version(), took, survey, found[spec.buildkit.image], found[gateway] if gateway else Image.ABSENT


@dataclass(frozen=True, slots=True)
class _Disk:
    """Bytes of a file system, None: unknown."""

    size: int | None
    free: int | None


def _read_df(printed: str) -> _Disk:
    """What `df -Pk` says: the ninth and the eleventh word, the header has seven."""
    size, _, free = (*printed.split()[8:11], "", "", "")[:3]
    return _Disk(*(int(blocks) * 1024 if blocks.isdigit() else None for blocks in (size, free)))


# A shell and one small program, the rest are its builtins: a process that starts costs a loaded host dearly.
# /proc/sys/kernel/arch is what `uname -m` prints, since Linux 6.1.
# `btime` of /proc/stat is the clock less the uptime.
_SCRIPT = r"""
read -r machine < /proc/sys/kernel/arch 2>/dev/null || machine=$(uname -m)
echo machine $machine
read -r up _ < /proc/uptime
while read -r key now _; do [ $key = btime ] && echo clock $((now + ${up%.*})) && break; done < /proc/stat
echo df $(df -Pk /var/lib/docker 2>/dev/null)
if [ ! -e /var/run/docker.sock ]; then echo docker absent
elif [ ! -w /var/run/docker.sock ]; then echo docker denied
else echo docker ok; fi
cd /proc/sys/fs/binfmt_misc 2>/dev/null && for file in *; do
  case $file in register|status|'*') continue;; esac
  on= magic=
  while read -r key value _; do
    case $key in enabled) on=1;; magic) magic=$value;; esac
  done < "$file"
  [ -n "$on" ] && echo binfmt $magic
done
[ -e ~/.local/state/fleet/"$1".jsonl ] && echo history
exit 0
"""


@dataclass(frozen=True, slots=True)
class _Report:
    machine: str
    clock_skew: float
    disk: _Disk
    emulated: tuple[str, ...]
    history: bool


def _report(spec: FleetSpec, host: HostSpec, connection: Host) -> _Report | Down:
    started = time.time()
    done = connection.run(("sh", "-c", _SCRIPT, "sh", spec.name))
    middle = (started + time.time()) / 2
    lines = [line.partition(" ")[::2] for line in done.stdout.splitlines()]
    fields = dict(lines)
    if "machine" not in fields:
        said = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return Down(Stage.SSH, f"the host has no working shell: {said}", "log in by hand and see")
    match fields.get("docker"):
        case "absent":
            return Down(
                Stage.DOCKER, "there is no Docker Engine (no /var/run/docker.sock)", "install and start Docker there"
            )
        # Behind sudo it is the Engine's answer that counts.
        case "denied" if not host.ssh.sudo:
            local = host.connection is Connection.LOCAL
            add = f"sudo usermod -aG docker {host.ssh.user or 'USER'}, and log in anew"
            return Down(
                Stage.DOCKER,
                "the user may not use Docker",
                add if local else f"on {host.name}: {add}; or set ssh.sudo: true",
            )
    emulated = {arch for key, magic in lines if key == "binfmt" and (arch := binfmt_arch(magic))}
    return _Report(
        machine=fields["machine"],
        clock_skew=float(fields.get("clock", middle)) - middle,
        disk=_read_df(fields.get("df", "")),
        emulated=tuple(sorted(emulated - {machine_arch(fields["machine"])})),
        history="history" in fields,
    )


# e_machine of an ELF header: elf.h.
_ELF_MACHINES = {
    3: "386",
    21: "ppc64le",
    22: "s390x",
    40: "arm",
    62: "amd64",
    183: "arm64",
    243: "riscv64",
    258: "loong64",
}


def binfmt_arch(magic: str) -> str | None:
    """The architecture whose programs a binfmt handler with this magic (hex) catches; None: not an ELF handler."""
    try:
        header = bytes.fromhex(magic)
    except ValueError:
        return None
    if len(header) < 20 or header[:4] != b"\x7fELF":
        return None
    order: Literal["big", "little"] = "big" if header[5] == 2 else "little"
    return _ELF_MACHINES.get(int.from_bytes(header[18:20], order))
