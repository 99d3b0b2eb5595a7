"""Builds over two nodes of one architecture, by `fleet build`, through the gateway, and by stock buildx.

On the lab's amd64 hosts, with a fleet of its own: how builds are spread, what a lost node costs, how often a project
finds its cache, what emulation costs, what fleet adds to a build. Prints a table; --write puts it into README, too.
Machines are noisy, so what is compared runs in turn, and what counts is the ratio or the difference within this run.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import emulated, warmth
from benchmarks.foundation import README
from benchmarks.two_nodes import MOST, NODES, WAYS, Bench, fleet
from fleet.dispatching.spread import order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MARK = "<!-- bench:dispatch -->\n"
AT_ONCE = 8
SECONDS = 5
QUICK = 5
"""Builds of a second or less are measured so many times as often as long ones."""


def main() -> None:
    """Measure and print."""
    parts: Mapping[str, Callable[[Bench, int], Iterator[str]]] = {
        "spread": _spread,
        "lost": _lost,
        "warmth": lambda bench, _: warmth.rows(bench),
        "emulated": emulated.rows,
        "added": _added,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=parts, action="append", help="measure this part")
    parser.add_argument("--write", action="store_true", help="put the table into README")
    options = parser.parse_args()
    if options.write and options.only:
        parser.error("README shows all parts: --write without --only")
    table = "| what | measured | to reach |\n|---|---|---|\n"
    with tempfile.TemporaryDirectory() as home, fleet(Path(home)) as bench:
        bench.context("long", f"RUN echo $SALT; sleep {SECONDS}")
        bench.context("short", "RUN echo $SALT")
        for way in WAYS:
            # As many as make use of both nodes: what a first build there leaves on this machine is there from then on.
            bench.timed(*(bench.anew(way, "short") for _ in range(AT_ONCE)))
        for name, part in parts.items():
            for row in part(bench, options.rounds) if name in (options.only or parts) else ():
                print(row, flush=True)
                table += f"{row}\n"
    if options.write:
        before, _, rest = README.read_text().partition(MARK)
        README.write_text(before + MARK + table + rest[rest.index("<!-- /bench -->") :])


def _spread(bench: Bench, rounds: int) -> Iterator[str]:
    took = _in_turn(rounds, lambda way: bench.timed(*(bench.anew(way, "long") for _ in range(AT_ONCE))))
    what = f"{AT_ONCE} builds of {SECONDS} s at once on two nodes limited to {MOST} each"
    for way, through in (("fleet", "`fleet build`"), ("gateway", "the gateway")):
        ratio = statistics.median(ours / stock for ours, stock in zip(took[way], took["stock"], strict=True))
        ours, stock = statistics.median(took[way]), statistics.median(took["stock"])
        yield (
            f"| {what}, through {through}; stock buildx: {stock:.1f} s | {ours:.1f} s, {ratio:.2f} × | at most 0.55 × |"
        )


def _lost(bench: Bench, rounds: int) -> Iterator[str]:
    node = order(str(bench.home / "short"), dict.fromkeys(NODES, MOST))[0]
    faults: Mapping[str, Callable[[], None]] = {
        "dead (stock fails after 20 s)": partial(bench.on, node, "docker stop -t 1 DAEMON"),
        "black-holed (stock fails after 34 s)": bench.lab.hosts[node].blackhole,
    }
    for what, break_it in faults.items():
        healthy = [bench.timed(bench.anew("fleet", "short")) for _ in range(rounds)]
        break_it()
        broken = [bench.timed(bench.anew("fleet", "short")) for _ in range(rounds)]
        bench.mend()
        added = statistics.median(broken) - statistics.median(healthy)
        yield f"| added when the project's own node is {what} | {added:+.2f} s | at most 1.5 s |"


def _added(bench: Bench, rounds: int) -> Iterator[str]:
    took = _in_turn(rounds * QUICK, lambda way: bench.timed(bench.command(way, "short")))
    stock = statistics.median(took["stock"])
    for way, what, most in (("fleet", "`fleet build`", "0.3 s"), ("gateway", "the gateway", "20 ms")):
        added = statistics.median(ours - theirs for ours, theirs in zip(took[way], took["stock"], strict=True))
        shown = f"{added:+.2f} s" if way == "fleet" else f"{added * 1000:+.0f} ms"
        yield f"| added by {what} to a build that is cached; stock buildx: {stock:.2f} s | {shown} | at most {most} |"


def _in_turn(rounds: int, measure: Callable[[str], float]) -> Mapping[str, list[float]]:
    """Way of building -> seconds, round by round."""
    took: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, seconds in took.items():
            seconds.append(measure(way))
    return took


if __name__ == "__main__":
    main()
