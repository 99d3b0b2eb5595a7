"""Builds that push while their node's daemon is killed, each at a random moment: how many are whole on the other node.

On the lab's amd64 hosts, with a fleet of its own. Prints a line a build; fails if one is not whole.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.dispatch import NAME, NODES, Bench, fleet
from fleet.dispatching.spread import order
from tests.support import pushed

STEPS = 5
LONGEST = 4.5
"""Seconds after which a build is about to end."""


def main() -> None:
    """Kill and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as home, fleet(Path(home)) as bench:
        steps = "; ".join(f"dd if=/dev/urandom of=/file{step} bs=1M count=3" for step in range(2))
        bench.context("steps", *(f"sleep 0.4; {steps}; echo $SALT > /salt{number}" for number in range(STEPS)))
        whole = sum(_killed(bench, chance.choice(NODES), chance.uniform(0, LONGEST)) for _ in range(options.kills))
    print(f"{whole} of {options.kills} whole")
    assert whole == options.kills


def _killed(bench: Bench, node: str, after: float) -> bool:
    """Whether the image of a build is whole whose node was killed after so many seconds."""
    registry, repository, salt = os.environ["LAB_REGISTRY"], "bench/failover", str(time.time())
    affinity = next(key for key in map(str, range(100)) if order(key, dict.fromkeys(NODES, 1))[0] == node)
    argv = (
        *("fleet", "build", "--affinity", affinity, "--platform", "linux/amd64", "--progress", "plain", "--json"),
        *("--build-arg", f"SALT={salt}", "--push", "-t", f"{registry}/{repository}:1", str(bench.home / "steps")),
    )
    began = time.perf_counter()
    with subprocess.Popen(argv, env=bench.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as build:
        time.sleep(after)
        bench.lab.hosts[node].ssh(f"docker kill fleet.{NAME}.{node}")
        out, said = build.communicate()
    took = time.perf_counter() - began
    whole, on = False, "nobody"
    if build.returncode == 0:
        files = pushed.read(registry, repository, "1")["linux/amd64"].files
        whole = all(files[f"salt{number}"].decode().strip() == salt for number in range(STEPS))
        on = json.loads(out)["builds"][0]["node"]
    print(f"{node} killed after {after:.1f} s: {'whole' if whole else said}, on {on}, {took:.1f} s", flush=True)
    bench.mend()
    return whole


if __name__ == "__main__":
    main()
