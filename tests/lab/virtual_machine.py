"""The arm64 host: a virtual machine under software emulation, because only a real aarch64 proves native routing."""

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.lab import network
from tests.lab.artefacts import Store
from tests.lab.hosts import LabHost
from tests.lab.settings import FILES, REGISTRY
from tests.lab.shell import run
from tests.lab.waiting import wait_for

# What protects a machine from its programs costs an emulated one a quarter of its speed, and one processor does as much
# as two that are emulated, for less.
_MACHINE = ("-M", "virt,gic-version=3", "-cpu", "max,pauth=off,sve=off", "-accel", "tcg", "-smp", "1", "-m", "2048")
_KERNEL = "console=ttyAMA0 quiet panic=-1 nokaslr mitigations=off"
_PRIORITY = -10
"""Whatever waits for it waits longest, so it goes before other processes."""
# the console goes to the log; a kernel panic ends qemu
_BEHAVIOUR = ("-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot")


@dataclass(frozen=True, slots=True)
class VirtualMachine(LabHost):
    """A host under qemu, its network card on a tap of the lab's bridge."""

    @property
    def usual_seconds(self) -> int:
        """As measured on two cores."""
        return 35

    def make_disks(self, source: Path) -> None:
        """An overlay over the baked disk, which stays as it is."""
        backing = ("-F", "raw", "-b", source / "disk.raw")
        run("qemu-img", "create", "-q", "-f", "qcow2", *backing, self.directory / "disk.qcow2")

    def boot(self, source: Path) -> None:
        """Start qemu on the host's disk."""
        self._launch(source, self.directory / "disk.qcow2", "qcow2")

    def bake(self, store: Store, boot_files: Path, image: str, digest: str) -> Path:
        """A disk that has been booted once, with the image already in its Docker: that saves a minute every time."""

        def make(draft: Path) -> None:
            self.remove()
            for name in ("vmlinuz", "initramfs"):
                shutil.copy(boot_files / name, draft)
            disk = draft / "disk.raw"
            run("cp", "--sparse=always", boot_files / "disk.raw", disk)
            try:
                self._launch(draft, disk, "raw")
                self.settle(self.patience)
                self.ssh(f"docker pull --quiet {REGISTRY}/{image}", timeout=300)
                self.ssh("lab-docker stop; rm -f /var/log/docker.log; sync; mount -o remount,ro /", timeout=120)
                self.ssh("(sleep 1; echo o > /proc/sysrq-trigger) < /dev/null > /dev/null 2>&1 &")
                wait_for(lambda: self.service.pid() is None, 30, f"power-off of {self.host.name}")
            finally:
                self.stop()

        return store.keep("disk-arm64", f"{boot_files.name} {image} {digest} {self.seed()}", 60, make)

    def seed(self) -> dict[str, tuple[str, int]]:
        """The common seed, and the init of a machine."""
        init = (FILES / "machine_init.sh").read_text()
        return {**LabHost.seed(self), "usr/local/sbin/machine-init": (init, 0o755)}

    def _launch(self, source: Path, disk: Path, form: str) -> None:
        seed = self.write_seed()
        network.plug_machine(self.host)
        boot = ("-kernel", source / "vmlinuz", "-initrd", source / "initramfs")
        options = ("-append", _KERNEL)
        # virtio-mmio numbers its devices from the last to the first: the disk, named last, is /dev/vda
        drives = (
            *("-drive", f"if=none,id=seed,format=raw,readonly=on,file={seed}"),
            *("-device", "virtio-blk-device,drive=seed"),
            # The machine dies alone, not this one: nothing need be on the disk.
            *("-drive", f"if=none,id=disk,format={form},cache=unsafe,file={disk}"),
            *("-device", "virtio-blk-device,drive=disk"),
        )
        card = ("-netdev", f"tap,id=net,ifname={self.host.link},script=no,downscript=no")
        device = ("-device", f"virtio-net-device,netdev=net,mac={self.host.mac}")
        pid = self.service.start(
            ("qemu-system-aarch64", *_MACHINE, *_BEHAVIOUR, *boot, *options, *drives, *card, *device)
        )
        # It has a session of its own, and Linux shares the processors between sessions first.
        with suppress(OSError):  # a kernel without such groups, or a root that may not do everything
            os.setpriority(os.PRIO_PROCESS, pid, _PRIORITY)
            Path(f"/proc/{pid}/autogroup").write_text(str(_PRIORITY))
