"""The lab as a whole: bring it up, mend it, take it down."""

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar, get_args

from tests.lab import artefacts, images, network, registry
from tests.lab.artefacts import Store
from tests.lab.hosts import LabHost, make_keys
from tests.lab.namespace_host import NamespaceHost
from tests.lab.progress import say, step
from tests.lab.settings import (
    BASE_IMAGE,
    BINFMT_IMAGE,
    BUILDKIT_IMAGE,
    GATEWAY_IMAGE,
    HOSTS,
    LANES,
    REGISTRY,
    TLS_REGISTRY,
    UPGRADE_IMAGE,
    Arch,
    Home,
)
from tests.lab.shell import LabError, run, write
from tests.lab.virtual_machine import VirtualMachine

_PACKAGES = {  # program -> the Debian package it comes in
    "cpio": "cpio",
    "depmod": "kmod",
    "ip": "iproute2",
    "iptables": "iptables",
    "losetup": "mount",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "arch-test": "arch-test",
    "openssl": "openssl",
    "qemu-img": "qemu-utils",
    "qemu-system-aarch64": "qemu-system-arm",
    "skopeo": "skopeo",
    "ssh": "openssh-client",
}
Kind = TypeVar("Kind", bound=LabHost)
_STEPS_AT_ONCE = 12  # most of them wait for others, for the network or for a boot


@dataclass(frozen=True, slots=True)
class Status:
    """How a host or service is; problem is why it is of no use (not asked of a host with a fault)."""

    name: str
    pid: int | None
    faults: tuple[str, ...]
    problem: str | None

    @property
    def healthy(self) -> bool:
        """Neither broken on purpose nor otherwise."""
        return not self.faults and self.problem is None


@dataclass(frozen=True, slots=True)
class Lab:
    """One lab a machine, shared by every checkout."""

    home: Home
    checkout: Path
    lane: int = 0
    """Which of LANES goes by the names of the first one: tests that run side by side say the same of other hosts."""

    @classmethod
    def current(cls, lane: int = 0) -> Self:
        """The machine's lab, as seen from this checkout."""
        return cls(Home.default(), Path(__file__).resolve().parents[2], lane)

    @property
    def hosts(self) -> dict[str, LabHost]:
        """Every host there can be, by name; those beyond the standard ones exist once named in `up`."""
        kinds: dict[Arch, type[LabHost]] = {"amd64": NamespaceHost, "arm64": VirtualMachine}
        hosts = {host.name: kinds[host.arch](host, self.home) for host in HOSTS}
        return hosts | {name: hosts[own] for name, own in zip(LANES[0], LANES[self.lane], strict=True)}

    def up(self, names: Sequence[str] = ()) -> None:
        """Bring up these hosts (else the standard ones) and the registries; mend what is broken, leave the rest."""
        chosen = [self.hosts[name] for name in names] or [self.hosts[host.name] for host in HOSTS if host.standard]
        with self.locked():
            _need_packages()
            for folder in (self.home.cache, self.home.hosts, self.home.run, self.home.logs, self.home.registry):
                folder.mkdir(parents=True, exist_ok=True)
            make_keys(self.home, HOSTS)
            network.up()
            self._write_pointers()
            store = Store(self.home)
            store.remove_drafts()
            _Ascent(self.home, store, chosen).climb()
            store.prune()

    def down(self, *, purge: bool = False) -> None:
        """End every process and remove the hosts; with purge what registries, fleet and buildx keep, too."""
        with self.locked():
            with ThreadPoolExecutor() as pool:
                list(pool.map(LabHost.remove, self.hosts.values()))
            NamespaceHost.clear()
            for each in registry.registries(self.home):
                each.service.stop()
            network.down()
            kept = (self.home.registry, self.home.fleet, self.home.buildx)
            for folder in (self.home.run, self.home.hosts, *(kept if purge else ())):
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One change of the lab at a time; a second one waits, and says so."""
        if os.geteuid() != 0:
            raise LabError("the lab makes namespaces, mounts and network links: run it as root")
        self.home.path.mkdir(parents=True, exist_ok=True)
        with (self.home.path / "lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("another process is changing the lab: waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def status(self) -> list[Status]:
        """Every service and host, those that were never named left out."""

        def of_host(host: LabHost) -> Status:
            faults = tuple(host.faults())
            return Status(host.host.name, host.service.pid(), faults, None if faults else host.problem())

        services = [
            Status("network", None, (), None if network.healthy() else "no bridge"),
            *(
                Status(each.name, each.service.pid(), (), None if each.healthy else "not answering")
                for each in registry.registries(self.home)
            ),
        ]
        hosts = [host for host in self.hosts.values() if host.host.standard or host.exists]
        with ThreadPoolExecutor() as pool:
            return [*services, *pool.map(of_host, hosts)]

    def env(self) -> dict[str, str]:
        """The variables for whoever uses the lab."""
        bins = (str(self.home.bin), str(self.checkout / ".venv/bin"), os.environ.get("PATH", ""))
        return {
            "FLEET_INVENTORY": str(self.checkout / ".lab/inventory.yaml"),
            "FLEET_HOME": str(self.home.fleet),
            "BUILDX_CONFIG": str(self.home.buildx),
            "DOCKER_CONFIG": str(self.home.docker),
            "LAB_HOME": str(self.home.path),
            "LAB_REGISTRY": REGISTRY,
            "LAB_BASE_IMAGE": f"{REGISTRY}/{BASE_IMAGE}",
            "LAB_BUILDKIT_IMAGE": f"{REGISTRY}/{BUILDKIT_IMAGE}",
            "LAB_UPGRADE_IMAGE": f"{REGISTRY}/{UPGRADE_IMAGE}",
            "LAB_GATEWAY_IMAGE": f"{REGISTRY}/{GATEWAY_IMAGE}",
            "LAB_BINFMT_IMAGE": f"{REGISTRY}/{BINFMT_IMAGE}",
            "LAB_TLS_REGISTRY": TLS_REGISTRY,
            "LAB_TLS_REGISTRY_CA": str(self.home.keys / "tls/ca.pem"),
            "PATH": ":".join(bins),
        }

    def _write_pointers(self) -> None:
        folder = self.checkout / ".lab"
        exports = {**self.env(), "PATH": f"{self.home.bin}:{self.checkout / '.venv/bin'}:$PATH"}
        lines = [f'export {name}="{value}"' for name, value in exports.items()]
        write(folder / "env", "\n".join(["# source this; written by `python -m tests.lab up`", *lines, ""]))
        write(folder / "inventory.yaml", self._inventory())
        hosts = [
            {"name": host.name, "address": host.address, "arch": host.arch, "user": "build", "standard": host.standard}
            for host in HOSTS
        ]
        keys = {"identity_file": str(self.home.ssh_key), "known_hosts_file": str(self.home.known_hosts)}
        write(self.home.path / "lab.json", json.dumps({"hosts": hosts, **keys, "env": self.env()}, indent=2))

    def _inventory(self) -> str:
        hosts = "".join(f"  {host.name}: {{address: {host.address}}}\n" for host in HOSTS if host.standard)
        return f"""\
fleet: lab
buildkit:
  image: {REGISTRY}/{BUILDKIT_IMAGE}
  config: {{registry: {{"{REGISTRY}": {{http: true}}}}}}
ssh: {{user: build, identity_file: {self.home.ssh_key}, known_hosts_file: {self.home.known_hosts}}}
hosts:
{hosts}"""


@dataclass(frozen=True, slots=True)
class _Ascent:
    """The steps of `up`, each begun as soon as what it needs is there."""

    home: Home
    store: Store
    hosts: Sequence[LabHost]

    def climb(self) -> None:
        """Take all steps; the first failure is raised once those under way have ended.

        A step waits only for steps submitted before it, so the waiting ones never starve those they wait for.
        """
        pool = ThreadPoolExecutor(_STEPS_AT_ONCE)
        try:
            for step_taken in self._submit(pool):
                step_taken.result()
        finally:
            # an impatient person is not kept waiting; what is half made does not count
            pool.shutdown(wait=not isinstance(sys.exception(), KeyboardInterrupt), cancel_futures=True)

    def _submit(self, pool: ThreadPoolExecutor) -> list[Future[Any]]:
        registries = pool.submit(self._registries)
        clients = pool.submit(self._clients)
        roots: dict[Arch, Future[Path]] = {}
        for arch in get_args(Arch):
            roots[arch] = pool.submit(artefacts.root, self.store, arch)
        hosts = [pool.submit(self._namespace_host, host, roots["amd64"]) for host in self._of(NamespaceHost)]
        pushed = pool.submit(self._images, registries, clients, roots)
        hosts += [pool.submit(self._virtual_machine, host, roots["arm64"], pushed) for host in self._of(VirtualMachine)]
        return [registries, clients, *roots.values(), pushed, *hosts]

    def _of(self, kind: type[Kind]) -> list[Kind]:
        return [host for host in self.hosts if isinstance(host, kind)]

    def _registries(self) -> None:
        programs = artefacts.registry(self.store)
        for each in registry.registries(self.home):
            each.start(programs)

    def _clients(self) -> None:
        """Link the tools to where PATH and DOCKER_CONFIG of the lab's env point."""
        programs = artefacts.clients(self.store)
        plugins = self.home.docker / "cli-plugins"
        for folder, name in ((self.home.bin, "docker"), (self.home.bin, "buildctl"), (plugins, "docker-buildx")):
            folder.mkdir(parents=True, exist_ok=True)
            draft = folder / f".{name}.draft"
            draft.unlink(missing_ok=True)
            draft.symlink_to(programs / name)
            draft.replace(folder / name)

    def _images(
        self, registries: Future[None], clients: Future[None], roots: dict[Arch, Future[Path]]
    ) -> images.Layout:
        """Fill the registry; returns the buildkit image."""

        def root(arch: Arch) -> Path:
            return roots[arch].result()

        base = images.base(self.store, root)
        clients.result()  # its builds and the next ones would only take each other's processor time
        buildkit = images.buildkit(self.store, lambda arch: artefacts.daemons(self.store, arch), root)
        registries.result()
        registry.push(base, BASE_IMAGE)
        registry.push(buildkit, BUILDKIT_IMAGE)
        registry.push(images.gateway(self.store, artefacts.haproxy(self.store)), GATEWAY_IMAGE)
        registry.push(images.binfmt(self.store, root("amd64"), artefacts.emulator(self.store)), BINFMT_IMAGE)
        registry.push(images.upgrade(self.store, buildkit), UPGRADE_IMAGE)
        return buildkit

    def _namespace_host(self, host: NamespaceHost, root: Future[Path]) -> None:
        host.ensure(root.result())

    def _virtual_machine(self, host: VirtualMachine, root: Future[Path], buildkit: Future[images.Layout]) -> None:
        boot_files = artefacts.boot_files(self.store, root.result())
        host.ensure(host.bake(self.store, boot_files, BUILDKIT_IMAGE, buildkit.result().digest))


def _need_packages() -> None:
    """Install what is missing of the Debian packages the lab uses."""
    if shutil.which("go") is None:
        raise LabError(
            "go is missing: the lab builds buildkitd, buildx and docker with it (see tests/lab/tools/go.mod)"
        )
    missing = sorted({package for program, package in _PACKAGES.items() if shutil.which(program) is None})
    if missing:
        if shutil.which("apt-get") is None:
            raise LabError(f"missing, and no apt-get here to install them: {' '.join(missing)}")
        log = Home.default().logs / "apt.log"
        with step(f"packages {' '.join(missing)}", 20):
            run("apt-get", "update", log=log)
            install = ("apt-get", "install", "--yes", "--no-install-recommends", *missing)
            run(*install, env={"DEBIAN_FRONTEND": "noninteractive"}, log=log)
