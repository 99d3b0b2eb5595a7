"""What takes long to make: root file systems, Go programs and the arm64 disk, each keyed by what it is made from."""

import hashlib
import lzma
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.lab.progress import step
from tests.lab.settings import BUILDKIT_VERSION, BUILDX_VERSION, DOCKER_VERSION, FILES, TOOLS, Arch, Home
from tests.lab.shell import run

SUITE = "trixie"  # its Docker Engine starts privileged containers without CAP_SYS_RESOURCE; Debian 12's does not
_HOST_PACKAGES = (
    "busybox-static,ca-certificates,docker-cli,docker.io,iproute2,iptables,openssh-server,passwd,procps,sudo,tini"
)
_MACHINE_PACKAGES = f"{_HOST_PACKAGES},?essential,kmod,libpam-modules,linux-image-arm64,login,mount"
_KEEP_UNUSED = 14 * 24 * 3600  # seconds: another checkout may still be on the older version


@dataclass(frozen=True, slots=True)
class Store:
    """Directories made once, named after what they were made from."""

    home: Home

    def log(self, name: str) -> Path:
        """Where the tools that make an artefact write."""
        return self.home.logs / f"make-{name}.log"

    def keep(self, name: str, made_from: str, seconds: int, make: Callable[[Path], None]) -> Path:
        """The artefact's directory, made unless it is there; an interrupted making leaves nothing that counts."""
        path = self.home.cache / f"{name}-{hashlib.sha256(made_from.encode()).hexdigest()[:12]}"
        if not path.exists():
            draft = self.home.cache / f".{name}.{os.getpid()}"
            draft.mkdir(parents=True)
            with step(f"make {name}", seconds):
                make(draft)
            draft.rename(path)
        os.utime(path)
        return path

    def remove_drafts(self) -> None:
        """Remove what an interrupted run left half made."""
        for path in self.home.cache.glob(".*"):
            run("rm", "-rf", "--one-file-system", path)

    def prune(self) -> None:
        """Forget what nobody has asked for in two weeks; after `up`, which asks for all that is in use."""
        for path in self.home.cache.iterdir():
            if time.time() - path.stat().st_mtime > _KEEP_UNUSED:
                run("rm", "-rf", "--one-file-system", path)


def root(store: Store, arch: Arch) -> Path:
    """A Debian root file system with sshd and the Docker Engine."""
    return _root_amd64(store) if arch == "amd64" else _root_arm64(store)


def _root_amd64(store: Store) -> Path:
    def make(draft: Path) -> None:
        include = f"--include={_HOST_PACKAGES}"
        run("mmdebstrap", "--mode=root", "--variant=minbase", include, SUITE, draft, log=store.log("root-amd64"))
        for key in (draft / "etc/ssh").glob("ssh_host_*"):
            key.unlink()  # each host has its own

    return store.keep("root-amd64", f"{SUITE} {_HOST_PACKAGES}", 60, make)


def _root_arm64(store: Store) -> Path:
    """Unpacked but not configured, because no arm64 code runs here; configure-extracted does the rest."""
    script = FILES / "configure-extracted"

    def make(draft: Path) -> None:
        log = store.log("root-arm64")
        options = ("--mode=root", "--variant=extract", "--arch=arm64", f"--include={_MACHINE_PACKAGES}")
        run("mmdebstrap", *options, SUITE, draft, log=log)
        run("sh", script, draft, log=log)

    return store.keep("root-arm64", f"{SUITE} {_MACHINE_PACKAGES} {script.read_text()}", 30, make)


@dataclass(frozen=True, slots=True)
class _Program:
    """A Go program of the tools module."""

    name: str
    package: str
    version_variable: str
    tags: str = ""


_BUILDKIT_TAGS = "osusergo netgo static_build seccomp"
_BUILDKIT = f"github.com/moby/buildkit/version.Version={BUILDKIT_VERSION}"
_BUILDKITD = _Program("buildkitd", "github.com/moby/buildkit/cmd/buildkitd", _BUILDKIT, _BUILDKIT_TAGS)
_BUILDCTL = _Program("buildctl", "github.com/moby/buildkit/cmd/buildctl", _BUILDKIT, _BUILDKIT_TAGS)
_BUILDX = _Program(
    "docker-buildx",
    "github.com/docker/buildx/cmd/buildx",
    f"github.com/docker/buildx/version.Version={BUILDX_VERSION}",
)
_DOCKER = _Program(
    "docker",
    "github.com/docker/cli/cmd/docker",
    f"github.com/docker/cli/cli/version.Version={DOCKER_VERSION}",
)


def clients(store: Store) -> Path:
    """docker, docker-buildx and buildctl for this machine."""
    return _programs(store, "clients", "amd64", (_DOCKER, _BUILDX, _BUILDCTL), 240)


def daemons(store: Store, arch: Arch) -> Path:
    """buildkitd and buildctl for the buildkit image."""
    return _programs(store, f"buildkit-{arch}", arch, (_BUILDKITD, _BUILDCTL), 150)


def _programs(store: Store, name: str, arch: Arch, programs: tuple[_Program, ...], seconds: int) -> Path:
    def make(draft: Path) -> None:
        # Memory is cheaper here than time: GOGC=off
        env = {"CGO_ENABLED": "0", "GOGC": "off", "GOOS": "linux", "GOARCH": arch, "GOFLAGS": "-mod=readonly"}
        for program in programs:
            flags = ("-trimpath", "-tags", program.tags, "-ldflags", f"-s -w -X {program.version_variable}")
            # Whatever goes on beside it is over sooner.
            build = ("nice", "-n", "19", "go", "build", *flags, "-o", draft / program.name, program.package)
            run(*build, cwd=TOOLS, env=env, log=store.log(name))

    modules = "".join((TOOLS / file).read_text() for file in ("go.mod", "go.sum"))
    return store.keep(name, f"{arch} {programs} {modules}", seconds, make)


def registry(store: Store) -> Path:
    """Debian's docker-registry, unpacked and not installed: its own service would take our port."""
    return store.keep("registry", "docker-registry", 5, lambda draft: _unpack(store, "docker-registry", draft))


def emulator(store: Store) -> Path:
    """QEMU that runs programs for arm64, static; not installed: that would be for the whole machine."""
    program = "usr/bin/qemu-aarch64-static"

    def make(draft: Path) -> None:
        unpacked = draft / "unpacked"
        unpacked.mkdir()
        _unpack(store, "qemu-user-static", unpacked)
        (unpacked / program).rename(draft / "qemu-aarch64")
        shutil.rmtree(unpacked)

    return store.keep("emulator", f"qemu-user-static {program}", 10, make) / "qemu-aarch64"


def _unpack(store: Store, package: str, draft: Path) -> None:
    """The files of a Debian package of this machine's own release."""
    log = store.log(package)
    run("apt-get", "update", log=log)
    run("apt-get", "download", package, cwd=draft, log=log)
    (archive,) = draft.glob("*.deb")
    run("dpkg-deb", "--extract", archive, draft, log=log)
    archive.unlink()


def haproxy(store: Store) -> Path:
    """Debian's HAProxy with the libraries it needs, unpacked."""

    def make(draft: Path) -> None:
        options = ("--mode=root", "--variant=extract", "--include=haproxy")
        run("mmdebstrap", *options, SUITE, draft, log=store.log("haproxy"))
        for name in ("lib", "lib64"):
            (draft / name).symlink_to(f"usr/{name}")

    return store.keep("haproxy", f"{SUITE} haproxy", 10, make)


def boot_files(store: Store, root_arm64: Path) -> Path:
    """Kernel, initramfs and the first disk of the virtual machine."""
    script = FILES / "initramfs_init.sh"

    def make(draft: Path) -> None:
        (kernel,) = (root_arm64 / "boot").glob("vmlinuz-*")
        shutil.copy(kernel, draft / "vmlinuz")
        _initramfs(draft / "initramfs", root_arm64, kernel.name.removeprefix("vmlinuz-"), script, store.log("boot"))
        disk = draft / "disk.raw"
        run("mke2fs", "-q", "-t", "ext4", "-m", "0", "-d", root_arm64, disk, "12G", log=store.log("boot"))

    return store.keep("boot-arm64", f"{root_arm64.name} {script.read_text()}", 5, make)


_MODULES = ("crc32c_generic", "libcrc32c", "virtio_mmio", "virtio_blk", "virtio_net", "ext4", "overlay")


def _initramfs(target: Path, root_arm64: Path, release: str, script: Path, log: Path) -> None:
    """busybox, and the modules without which the kernel finds neither disk nor network, in loading order."""
    modules = root_arm64 / "lib/modules" / release
    needs: dict[str, list[str]] = {}  # module -> files to load, itself last
    for line in (modules / "modules.dep").read_text(encoding="utf-8").splitlines():
        file, _, dependencies = line.partition(":")
        needs[Path(file).name.partition(".")[0].replace("-", "_")] = [*reversed(dependencies.split()), file]
    # in loading order and each once; a module not listed is built into this kernel
    order = dict.fromkeys(file for name in _MODULES for file in needs.get(name, ()))

    tree = target.with_suffix(".tree")
    for folder in ("bin", "dev", "proc", "sys", "new", "modules"):
        (tree / folder).mkdir(parents=True)
    shutil.copy(root_arm64 / "usr/bin/busybox", tree / "bin/busybox")
    shutil.copy(script, tree / "init")
    (tree / "init").chmod(0o755)
    for number, file in enumerate(order):
        content = (modules / file).read_bytes()
        name = Path(file).name.removesuffix(".xz")
        (tree / "modules" / f"{number:02}-{name}").write_bytes(
            lzma.decompress(content) if file.endswith(".xz") else content
        )
    paths = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    run("cpio", "--quiet", "-o", "-H", "newc", "-F", target, cwd=tree, stdin=paths, log=log)
    shutil.rmtree(tree)
