"""The same Dockerfile on one machine, natively and emulated by its kernel's binfmt handler."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from benchmarks.two_nodes import NODES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.two_nodes import Bench

PLATFORMS = ("linux/amd64", "linux/arm64")
"""Of which the machine is the first."""

STEPS = (
    # Without it the QEMU of Debian 12 spends most of its time on pointer authentication.
    "ENV QEMU_CPU=max,pauth-impdef=on",
    "RUN i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done",
    "RUN seq 1000000 | gzip | sha256sum",
    "RUN for n in $(seq 100); do echo $n | tr 1 2; done",
)


def rows(bench: Bench, rounds: int) -> Iterator[str]:
    """Of the table."""
    bench.context("work", *STEPS)
    host = NODES[0]
    image = ("--image", bench.env["LAB_BINFMT_IMAGE"])
    bench.json("emulation", "install", host, "arm64", *image)
    try:
        bench.json("restart", host)
        took = {platform: [_seconds(bench, platform) for _ in range(rounds)] for platform in PLATFORMS}
    finally:
        bench.json("emulation", "remove", host, "arm64", *image)
        bench.json("restart", host)
    native, emulated = (statistics.median(took[platform]) for platform in PLATFORMS)
    yield (
        "| a loop, compression and small programs, emulated, against native on the same machine "
        f"({native:.1f} s) | {emulated:.1f} s, {emulated / native:.1f} × | |"
    )


def _seconds(bench: Bench, platform: str) -> float:
    argv = bench.command("fleet", "work", "--no-cache", "--allow-emulation", platform=platform)
    [build] = bench.json(*argv[1:])["builds"]
    assert build["native"] is (platform == PLATFORMS[0])
    return float(build["seconds"])
