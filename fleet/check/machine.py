"""What a host's machine, system and disk have to be like: one judgement a topic."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from certs.lifetimes import CLOCK_TOLERANCE
from fleet.check.judgement import NO_ANSWER, listed, ok, problem, unknown, warning
from fleet.health import CLOCK_LIMIT, FULL_LIMIT, emulating, to_spare, wrong_clock
from fleet.model.facts import Down, Stage
from fleet.model.platforms import Platform, runs_natively
from fleet.quantities import size

if TYPE_CHECKING:
    from fleet.check.judgement import Case, Judgement

# ---------------------------------------------------------------------------------------- login and Docker

LEAST_DOCKER = (20, 10)
"""The first Docker that runs containers where the host has cgroups of version 2, as current systems have."""


def login(case: Case) -> Judgement:
    """Whether it can be logged in to."""
    match case.answers.host:
        case None if case.answers.ground is None:
            return unknown(NO_ANSWER, "run it again")
        case Down(stage=Stage.SSH, late=True) as late:
            return unknown(late.reason, late.remedy)
        case Down(stage=Stage.SSH) as down:
            return problem(down.reason, down.remedy)
        case _:
            return ok("it can be logged in to")


def docker(case: Case) -> Judgement:
    """Docker's version and kind, and the rights to it."""
    if isinstance(down := case.answers.host, Down):
        return problem(down.reason, down.remedy)
    if down is None:
        return unknown("Docker has not answered in time", f"on {case.host.name}: systemctl status docker")
    version = case.found.engine
    parts = re.match(r"(\d+)\.(\d+)", version)
    if parts is None:
        return unknown(f"its version, {version or 'which it does not tell'}, is not Docker's", "is it Docker?")
    if (int(parts[1]), int(parts[2])) < LEAST_DOCKER:
        return problem(f"Docker {version} is older than 20.10, the first that knows cgroups v2", "upgrade Docker there")
    if case.info.os != "linux":
        return problem(f"it runs {case.info.os} containers", "switch Docker to Linux containers")
    if "userns" in case.info.security:
        return problem(
            "userns-remap is on, and with it Docker refuses privileged containers, such as BuildKit's",
            "remove userns-remap from /etc/docker/daemon.json there, and restart Docker",
        )
    if "rootless" in case.info.security:
        return warning(
            "Docker runs without root there, which BuildKit's daemon is not made for",
            "let /var/run/docker.sock be that of a Docker that runs as root",
        )
    return ok(f"Docker {version}")


# ------------------------------------------------------------------------------------------------- the machine

SMALL_MEMORY = 1_000_000_000
"""Bytes: one compiler takes as much, and the kernel then ends builds."""


def architecture(case: Case) -> Judgement:
    """`uname -m` against what the inventory wants built there."""
    found = case.found
    if impossible := [platform for platform in case.host.platforms if not runs_natively(found.arch, platform)]:
        return problem(
            f"the inventory wants {listed(impossible)} of it, but uname -m says {found.machine}",
            "correct the host's platforms, or its address",
        )
    # 386 is part of every amd64 CPU; variants, and arm on arm64, depend on the model.
    sure = {Platform("linux", arch).normalised() for arch in (found.arch, "386")}
    if unsure := [platform for platform in case.host.platforms if platform not in sure]:
        return unknown(f"whether this {found.machine} CPU runs {listed(unsure)}", "fleet up, then fleet status tells")
    return ok(f"{found.machine}: {found.arch}")


def emulation(case: Case) -> Judgement:
    """Foreign binfmt handlers."""
    if case.found.emulated and case.host.emulation:
        return ok(f"its kernel emulates {', '.join(case.found.emulated)}, which the inventory allows")
    if case.found.emulated:
        down = emulating(case.host, case.found)
        return warning(down.reason, down.remedy)
    return ok("its kernel emulates nothing")


def cgroups(case: Case) -> Judgement:
    """What Docker can limit."""
    if case.info.cgroups is None:
        return unknown("Docker does not say which version the host has")
    if missing := case.info.unlimited:
        return warning(
            f"Docker cannot limit {', '.join(missing)} there: the kernel keeps the cgroup controllers from it",
            "on the kernel's command line, for memory: cgroup_enable=memory; then reboot",
        )
    return ok(f"version {case.info.cgroups}, with memory, cpu and pids")


def memory(case: Case) -> Judgement:
    """Memory and CPUs, and what the daemon is to have of them."""
    cpus, memory = case.info.cpus, case.info.memory
    if not (cpus and memory):
        return unknown("Docker does not say what the host has")
    said = f"{memory / 1e9:.1f} GB, {cpus} CPU{'s' if cpus > 1 else ''}"
    limits = case.host.limits
    if limits.cpus and limits.cpus > cpus:
        return problem(f"{said}: Docker does not give a container {limits.cpus}", "correct limits.cpus")
    if limits.memory and limits.memory < memory:
        memory, said = limits.memory, f"{said}, of which BuildKit may have {limits.memory / 1e9:.1f} GB"
    if memory < SMALL_MEMORY:
        return warning(f"{said}: the kernel will end builds that compile", "give it more memory, or swap")
    return ok(said)


def clock(case: Case) -> Judgement:
    """Against the other hosts', else this machine's."""
    skew = case.found.clock_skew - (case.common_skew or 0)
    wrong = wrong_clock(case.host, case.found, case.common_skew)
    # When all hosts are off alike, it is this machine's clock, and told of this machine.
    if wrong is None or (case.common_skew is not None and abs(skew) <= CLOCK_LIMIT):
        return ok(f"off by {abs(skew):.0f} s")
    return clock_judgement(case.found.clock_skew, wrong)


def clock_judgement(skew: float, wrong: Down) -> Judgement:
    """How bad a clock is that is off by `skew` seconds against this machine's, which issues certificates."""
    serious = abs(skew) > CLOCK_TOLERANCE.total_seconds()
    return (problem if serious else warning)(wrong.reason, wrong.remedy)


# ----------------------------------------------------------------------------------------------------- storage

FEW_INODES, NO_INODES = 0.05, 0.01
"""Shares of all that a file system has."""

_OVERLAYS_ON = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "bcachefs"})
"""File systems that overlayfs can write to; Docker itself has tried xfs for ftype=1 if its driver is overlay2."""

_COPIES = "BuildKit copies whole layers, which is slow and fills the disk"
_MOVE = "put Docker's data-root on ext4 or xfs (/etc/docker/daemon.json)"

_POOR = {
    "overlay": f"is an overlay itself, on which another cannot be: {_COPIES}",
    "ecryptfs": f"is eCryptfs, on which overlays cannot be: {_COPIES}",
    "zfs": f"is ZFS, on which overlays can be only since OpenZFS 2.2: with an older one {_COPIES}",
    "tmpfs": "is in memory: caches take it from the builds, and are gone after a reboot",
}

_REMOTE = re.compile(r"nfs4?|cifs|smb3|smbfs|9p|virtiofs|ceph|glusterfs|fuse.*|vfat|exfat|ntfs3?")
"""On another machine, or without what Linux file systems have."""


def storage(case: Case) -> Judgement:
    """What matters is the file system of BuildKit's volume; Docker's driver tells whether overlays work on it."""
    root, driver, kind = case.info.root, case.info.driver, case.ground.file_system
    if kind is None:
        return unknown(f"the host does not tell on which file system {root} is")
    if _REMOTE.fullmatch(kind):
        return problem(f"{root} is on {kind}, which overlays cannot be written to", _MOVE)
    if kind in _POOR:
        return warning(f"{root} {_POOR[kind]}", _MOVE)
    if driver == "vfs":
        made = " (of xfs, one made with ftype=1)" if kind == "xfs" else ""
        return warning(f"Docker stores images by copying (vfs): if overlays do not work there, {_COPIES}", _MOVE + made)
    if kind not in _OVERLAYS_ON:
        return unknown(f"whether overlays work on {kind}, on which {root} is", _MOVE)
    if kind == "xfs" and driver not in {"overlay2", "overlayfs"}:
        return unknown(f"whether {root} was made with ftype=1 (xfs), without which {_COPIES}", f"xfs_info {root} there")
    return ok(f"{driver} on {kind}")


def disk(case: Case) -> Judgement:
    """Bytes free beneath Docker's root: what `fleet status` calls too few is at least a warning."""
    free, disk = case.found.free_bytes, case.found.disk_bytes
    if free is None or disk is None:
        return unknown("the host does not tell how much is free")
    said = f"{size(free)} of {size(disk)} free where Docker keeps its data"
    remedy = f"fleet prune {case.host.name}; fleet ssh {case.host.name} docker system df; or a larger disk"
    if free < to_spare(disk, FULL_LIMIT):
        return problem(f"{said}: too little for BuildKit and one build", remedy)
    return warning(f"{said}: one larger build may fill it", remedy) if free < to_spare(disk) else ok(said)


def inodes(case: Case) -> Judgement:
    """Inodes free beneath Docker's root."""
    every, free = case.ground.inodes, case.ground.free_inodes
    if case.ground.file_system in {"btrfs", "zfs"}:
        return ok(f"{case.ground.file_system} does not run out of them")
    if not every or free is None:
        return unknown("the host does not tell how many are free")
    said = f"{free} of {every} inodes free where Docker keeps its data"
    remedy = f"fleet prune {case.host.name}; fleet ssh {case.host.name} docker system df; or a file system with more"
    if free < every * NO_INODES:
        return problem(said, remedy)
    return warning(said, remedy) if free < every * FEW_INODES else ok(said)
