"""What every lab host can do, whatever it is made of: be made, answer over SSH, break, heal."""

import hashlib
import io
import json
import signal
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tests.lab import network
from tests.lab.processes import Service
from tests.lab.progress import step
from tests.lab.settings import FILES, GATEWAY, REGISTRY, Home, Host
from tests.lab.shell import LabError, run, write
from tests.lab.waiting import wait_for

Fault = Literal["kill", "freeze", "blackhole", "stop-docker", "stop-daemon", "fill-disk"]
FAULTS: tuple[Fault, ...] = get_args(Fault)

_SSHD = """\
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AuthorizedKeysFile /etc/ssh/lab_authorized_keys
HostKey /etc/ssh/ssh_host_ed25519_key
UsePAM no
UseDNS no
"""
# Nearly all in one go, then block by block: one allocation of everything that is left would fail.
_FILL = """\
cd /var/lib/docker
fallocate -l $(( $(df --output=avail -B1 . | tail -n 1) - 16777216 )) lab-fill || true
dd if=/dev/zero of=lab-fill-rest bs=4096 2> /dev/null || true
"""
_SETTLE = """\
rm -f /var/lib/docker/lab-fill*
lab-docker start
until docker version > /dev/null 2>&1; do sleep 0.2; done
docker ps --quiet --filter status=paused | xargs -r docker unpause
for container in {stopped}; do docker start $container || true; done
"""


def make_keys(home: Home, hosts: tuple[Host, ...]) -> None:
    """The lab's SSH key, a key of each host's own, and known_hosts; all made once and kept."""
    home.keys.mkdir(parents=True, exist_ok=True)
    wanted = [home.ssh_key, *(_host_key(home, host) for host in hosts)]
    for key in wanted:
        if not key.with_suffix(".pub").exists():
            key.unlink(missing_ok=True)
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"lab {key.name}", "-f", key)
    lines = (f"{host.address} {_host_key(home, host).with_suffix('.pub').read_text()}" for host in hosts)
    write(home.known_hosts, "".join(lines))


def _host_key(home: Home, host: Host) -> Path:
    return home.keys / f"host_{host.name}"


@dataclass(frozen=True, slots=True)
class LabHost(ABC):
    """A host; its state is on disk, so any process can take it up."""

    host: Host
    home: Home

    @abstractmethod
    def make_disks(self, source: Path) -> None:
        """Make the host's fresh disks in its directory out of this artefact."""

    @abstractmethod
    def boot(self, source: Path) -> None:
        """Start the host's process and connect its network."""

    @property
    @abstractmethod
    def usual_seconds(self) -> int:
        """How long a boot takes until Docker answers, the machine being idle."""

    @property
    def patience(self) -> int:
        """How long a boot may take on a busy machine, in seconds."""
        return 10 * self.usual_seconds

    @property
    def directory(self) -> Path:
        """Its disks."""
        return self.home.hosts / self.host.name

    @property
    def service(self) -> Service:
        """The process whose end is the host's end."""
        return Service(self.home.run / f"{self.host.name}.json", self.home.logs / f"{self.host.name}.log")

    @property
    def exists(self) -> bool:
        """Whether it has been made since the last `down`."""
        return self._made_from.exists()

    @property
    def _made_from(self) -> Path:
        return self.directory / "made-from.json"

    def seed(self) -> Mapping[str, tuple[str, int]]:
        """The files that make a root file system this host: path -> content and mode."""
        key = _host_key(self.home, self.host)
        hosts = f"127.0.0.1 localhost\n{self.host.address} {self.host.name}\n"
        docker = {"insecure-registries": [REGISTRY]}
        identity = f"LAB_NAME={self.host.name}\nLAB_ADDRESS={self.host.address}\nLAB_GATEWAY={GATEWAY}\n"
        return {
            "etc/hostname": (f"{self.host.name}\n", 0o644),
            "etc/hosts": (hosts, 0o644),
            "etc/lab-host": (identity, 0o644),
            "etc/docker/daemon.json": (json.dumps(docker), 0o644),
            "etc/ssh/lab_authorized_keys": (self.home.ssh_key.with_suffix(".pub").read_text(), 0o644),
            "etc/ssh/ssh_host_ed25519_key": (key.read_text(), 0o600),
            "etc/ssh/ssh_host_ed25519_key.pub": (key.with_suffix(".pub").read_text(), 0o644),
            "etc/ssh/sshd_config.d/lab.conf": (_SSHD, 0o644),
            "etc/sudoers.d/lab": ("sudoer ALL=(ALL) NOPASSWD: ALL\n", 0o440),
            "usr/local/sbin/lab-docker": ((FILES / "lab-docker").read_text(), 0o755),
            "usr/local/sbin/lab-services": ((FILES / "lab-services").read_text(), 0o755),
        }

    def write_seed(self) -> Path:
        """The seed as an archive, which the host unpacks over its root while it boots."""
        target = self.home.run / f"{self.host.name}-seed.tar"
        with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as tar:
            for name, (content, mode) in self.seed().items():
                member = tarfile.TarInfo(name)
                member.mode, member.size = mode, len(content.encode())
                tar.addfile(member, io.BytesIO(content.encode()))
        return target

    def ensure(self, source: Path) -> None:
        """Bring it up or mend it; made afresh when its source or seed changed, left alone when healthy."""
        text = json.dumps({"source": str(source), "seed": hashlib.sha256(repr(self.seed()).encode()).hexdigest()})
        same = self.exists and self._made_from.read_text(encoding="utf-8") == text
        if same and not self.faults() and self.problem() is None:
            return
        with step(f"host {self.host.name}", self.usual_seconds):
            if not same:
                self.remove()
                self.directory.mkdir(parents=True)
                self.make_disks(source)
                write(self._made_from, text)
            self.heal()

    def remove(self) -> None:
        """Stop it and delete all it had; idempotent."""
        self.stop()
        self._faults.unlink(missing_ok=True)
        if self.directory.exists():
            run("rm", "-rf", "--one-file-system", self.directory)

    def stop(self) -> None:
        """End the host at once, as a power cut does; idempotent."""
        self.service.stop(signal.SIGKILL)
        network.unplug(self.host)

    def ssh(self, command: str, *, user: str = "root", timeout: float = 120) -> str:
        """Run a shell command on the host and return what it printed; LabError when it fails."""
        options = ("-F", "none", "-i", self.home.ssh_key, "-o", f"UserKnownHostsFile={self.home.known_hosts}")
        quiet = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "-o", "LogLevel=ERROR")
        # Debian 12's default, against computers of the future, takes longer than all else of a login.
        exchange = ("-o", "KexAlgorithms=curve25519-sha256")
        return run("ssh", *options, *quiet, *exchange, f"{user}@{self.host.address}", command, timeout=timeout)

    def problem(self) -> str | None:
        """Why the host is of no use, or None when sshd and Docker answer."""
        if self.service.pid() is None:
            return "not running"
        try:
            self.ssh("docker version --format {{.Server.Version}}", timeout=15)
        except LabError as error:
            return str(error).splitlines()[-1]
        return None

    @property
    def _faults(self) -> Path:
        return self.home.run / f"faults-{self.host.name}.json"

    def faults(self) -> dict[str, list[str]]:
        """The faults in force, each with the containers it stopped."""
        try:
            found: dict[str, list[str]] = json.loads(self._faults.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return found

    def inflict(self, fault: Fault) -> None:
        """Bring the fault about; it lasts until heal."""
        if self.service.pid() is None:
            raise LabError(f"{self.host.name} is not running: `python -m tests.lab heal {self.host.name}` first")
        containers = self._daemons() if fault == "stop-daemon" else []
        write(self._faults, json.dumps(self.faults() | {fault: containers}))
        match fault:
            case "kill":
                self.service.stop(signal.SIGKILL)
            case "freeze":
                self.ssh("docker ps --quiet --filter status=running | xargs -r docker pause")
            case "blackhole":
                network.blackhole(self.host)
            case "stop-docker":
                self.ssh("lab-docker stop")
            case "stop-daemon":
                # a container ended by `docker kill` stays down: its restart policy counts that as a wish
                self.ssh(f"docker kill {' '.join(containers)}")
            case "fill-disk":
                self.ssh(_FILL)

    def _daemons(self) -> list[str]:
        listed = self.ssh("docker ps --no-trunc --format '{{.ID}} {{.Command}}'").splitlines()
        found = [line.split()[0] for line in listed if "buildkitd" in line]
        if not found:
            raise LabError(f"no buildkitd container runs on {self.host.name}")
        return found

    def kill(self) -> None:
        """The host dies at once, as in a power cut."""
        self.inflict("kill")

    def freeze(self) -> None:
        """Its containers stop answering while their connections stay open."""
        self.inflict("freeze")

    def blackhole(self) -> None:
        """All packets from and to it vanish."""
        self.inflict("blackhole")

    def stop_docker(self) -> None:
        """The Docker Engine ends and its containers with it."""
        self.inflict("stop-docker")

    def stop_daemon(self) -> None:
        """SIGKILL for the buildkitd containers, which stay down."""
        self.inflict("stop-daemon")

    def fill_disk(self) -> None:
        """Not a byte is left on the file system of /var/lib/docker."""
        self.inflict("fill-disk")

    def heal(self) -> None:
        """Undo every fault, and bring a dead host back with the disks it had."""
        if not self.exists:
            raise LabError(f"{self.host.name} has not been made: `python -m tests.lab up {self.host.name}`")
        if self.service.pid() is not None and network.exists(self.host.link):
            network.restore(self.host)
            try:
                self.settle(patience=3 * self.usual_seconds)
            except LabError:  # it runs and does not answer: a power cycle is what remains
                self._reboot()
        else:
            self._reboot()
        self._faults.unlink(missing_ok=True)

    def _reboot(self) -> None:
        self.stop()
        self.boot(Path(json.loads(self._made_from.read_text(encoding="utf-8"))["source"]))
        self.settle(self.patience)

    def settle(self, patience: float) -> None:
        """Return once sshd and Docker answer and no fault is left inside; LabError after patience seconds."""
        wait_for(self._sshd_answers, patience, f"sshd of {self.host.name}")
        stopped = " ".join(self.faults().get("stop-daemon", ()))
        self.ssh(_SETTLE.format(stopped=stopped), timeout=patience)

    def _sshd_answers(self) -> bool:
        if self.service.pid() is None:
            raise LabError(f"{self.host.name} ended by itself: see {self.service.log}")
        try:
            self.ssh("true", timeout=15)
        except LabError:
            return False
        return True
