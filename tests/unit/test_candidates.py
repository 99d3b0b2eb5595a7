"""Whom a build waits for: as few as possible, and the choice is the one that it would make if it had heard them all."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.dispatching.candidates import Candidates
from fleet.dispatching.spread import load
from fleet.model.facts import ApiFacts, Down, Stage
from fleet.model.platforms import Platform
from tests.support.values import WORKER_PLATFORMS, fleet, host, platforms

if TYPE_CHECKING:
    from fleet.dispatching.candidates import Probes

ARCHES = {"amd64": "x86_64", "arm64": "aarch64"}
WANTED = platforms("linux/amd64", "linux/arm64")

Answer = ApiFacts | Down


def answer(arch: str, builds: int, most: int | None) -> Answer:
    if builds < 0:
        return Down(Stage.TCP, "refused")
    reported = platforms(*WORKER_PLATFORMS[ARCHES[arch]])
    return ApiFacts("v0.32.2", "worker", reported, 1.0, active_builds=builds, max_builds=most)


NODES = st.lists(
    st.builds(
        lambda arch, builds, most: (arch, most, answer(arch, builds, most)),
        st.sampled_from([*ARCHES]),
        st.integers(-1, 3),
        st.none() | st.integers(1, 4),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=400)
@given(NODES, st.text(max_size=4), st.sampled_from([WANTED[:1], WANTED]), st.data())
def test_what_is_clear_early_stays_so_when_all_have_answered(
    nodes: list[tuple[str, int | None, Answer]], key: str, wanted: tuple[Platform, ...], data: st.DataObject
) -> None:
    named = {f"{arch}-{number}": (arch, most, said) for number, (arch, most, said) in enumerate(nodes)}
    spec = fleet(*(replace(host(name), max_builds=most) for name, (_, most, _) in named.items()))
    owners = {
        platform: next(name for name, (other, *_) in named.items() if other == arch)
        for arch in {arch for arch, *_ in named.values()}
        for platform in platforms(*WORKER_PLATFORMS[ARCHES[arch]])
    }
    never: Probes = None  # type: ignore[assignment]  # nobody is asked
    candidates = Candidates(spec, never, owners, key, lambda _: None)
    heard = data.draw(st.lists(st.sampled_from([*named]), unique=True))
    busy = data.draw(st.dictionaries(st.sampled_from([*named]), st.integers(1, 2), max_size=2))
    early = {name: named[name][2] for name in heard}
    if candidates._settled(wanted, busy, early):
        all_said = {name: said for name, (*_, said) in named.items()}
        choices = [
            candidates.choose(wanted, judged, load(judged, busy))
            for judged in (candidates._judged(early), candidates._judged(all_said))
        ]
        assert choices[0] == choices[1]
