"""An amd64 host made of namespaces: its own root, network, processes and cgroups on the machine's kernel."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.lab import network
from tests.lab.hosts import LabHost
from tests.lab.settings import FILES, GATEWAY
from tests.lab.shell import run
from tests.lab.waiting import wait_for

_CGROUPS = Path("/sys/fs/cgroup")
_LAB_GROUP = "fleet-lab"
"""What all hosts are in, in each hierarchy."""
_DISK = "8G"  # sparse: it takes what it holds


@dataclass(frozen=True, slots=True)
class NamespaceHost(LabHost):
    """A host as a PID namespace; all it mounts and starts ends with its first process."""

    @property
    def usual_seconds(self) -> int:
        """As measured on two cores."""
        return 5

    @property
    def _disk(self) -> Path:
        return self.directory / "docker.img"

    def make_disks(self, source: Path) -> None:  # noqa: ARG002 - the overlay finds its lower side at boot
        """An empty overlay, and a disk for /var/lib/docker."""
        for folder in ("upper", "work", "root"):
            (self.directory / folder).mkdir()
        run("mke2fs", "-q", "-t", "ext4", "-m", "0", self._disk, _DISK)

    def boot(self, source: Path) -> None:
        """Start its first process in new namespaces and put a cable into its network."""
        # a mount lives until the kernel has buried the last process of its namespace
        wait_for(lambda: not run("losetup", "-j", self._disk), 20, f"release of {self._disk}")
        groups = self._make_cgroups()
        environment = {
            "LAB_CGROUPS": " ".join(str(group) for group in groups),
            "LAB_ROOT": str(source),
            "LAB_HOST": str(self.directory),
            "LAB_SEED": str(self.write_seed()),
            "LAB_NAME": self.host.name,
            "LAB_ADDRESS": self.host.address,
            "LAB_GATEWAY": GATEWAY,
        }
        scripts = (FILES / "namespace_enter.sh", "sh", FILES / "namespace_init.sh")
        outer = self.service.start(("sh", *scripts), environment)
        wait_for(lambda: bool(self._children(outer)) or self.service.pid() is None, 10, f"start of {self.host.name}")
        if not (first := self._children(outer)):
            return  # it ended at once; whoever waits for its sshd will say so
        for group in groups:
            if (group / "cgroup.controllers").exists():  # version 2: nobody may stay beside the host's own groups
                (group / "init").mkdir(exist_ok=True)
                (group / "init/cgroup.procs").write_text(str(outer))
        network.plug_namespace(self.host, first[0])

    def stop(self) -> None:
        """End it, and remove the cgroups its containers leave empty."""
        LabHost.stop(self)
        for top in self._hierarchies():
            group = top / _LAB_GROUP / self.host.name
            for folder, _, _ in os.walk(group, topdown=False):
                with suppress(OSError):
                    Path(folder).rmdir()

    @classmethod
    def clear(cls) -> None:
        """Remove what all of them have been in; not with the last of them, as another one may just begin."""
        for top in cls._hierarchies():
            with suppress(OSError):
                (top / _LAB_GROUP).rmdir()

    @staticmethod
    def _children(pid: int) -> list[int]:
        try:
            return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except FileNotFoundError:
            return []

    @staticmethod
    def _hierarchies() -> list[Path]:
        """Where cgroups are mounted: once (version 2), or once per controller (version 1)."""
        if (_CGROUPS / "cgroup.controllers").exists():
            return [_CGROUPS]
        mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
        points = [Path(point) for _, point, kind, *_ in mounts if kind == "cgroup"]
        return [point for point in points if point.parent == _CGROUPS and point.name != "systemd"]

    def _make_cgroups(self) -> list[Path]:
        groups = []
        for top in self._hierarchies():
            lab = top / _LAB_GROUP
            group = lab / self.host.name
            for parent, child in ((top, lab), (lab, group)):
                child.mkdir(exist_ok=True)
                _hand_down(parent, child)
            groups.append(group)
        return groups


def _hand_down(parent: Path, child: Path) -> None:
    """Let a new cgroup have what its parent has; neither version does that by itself."""
    if (parent / "cgroup.controllers").exists():
        for controller in (parent / "cgroup.controllers").read_text().split():
            with suppress(OSError):  # what the machine does not hand on, the host does not get
                (parent / "cgroup.subtree_control").write_text(f"+{controller}")
    elif (parent / "cpuset.cpus").exists():
        for setting in ("cpuset.cpus", "cpuset.mems"):  # version 1 starts them empty, which admits nobody
            (child / setting).write_text((parent / setting).read_text())
