"""Which of several nodes builds a project: laws of the spread, and the words that explain it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.dispatching.spread import OVERLOAD, Choice, Full, choose, order, weight
from fleet.model.health import Health, NodeHealth
from fleet.model.platforms import Platform
from tests.support.values import platforms

AMD, ARM = platforms("linux/amd64", "linux/arm64")


def node(name: str, *able: Platform, most: int | None = None, health: Health = Health.READY) -> NodeHealth:
    return NodeHealth(
        name=name,
        address=f"{name}.example",
        arch=able[0].arch if able else None,
        platforms=able,
        owns=(),
        health=health,
        reason=None,
        remedy=None,
        buildkit="0.32.2",
        active_builds=None,
        certificate=None,
        cache_bytes=None,
        free_bytes=None,
        latency_ms=None,
        max_builds=most,
    )


A, B = node("amd-1", AMD), node("amd-2", AMD)
KEYS = st.text(max_size=20)

NODES = st.lists(
    st.builds(
        lambda number, able, most, health: node(f"node-{number}", *able, most=most, health=health),
        st.integers(0, 99),
        st.lists(st.sampled_from([AMD, ARM]), unique=True),
        st.none() | st.integers(1, 8),
        st.sampled_from([*Health]),
    ),
    unique_by=lambda made: made.name,
    max_size=6,
)


def loads(nodes: list[NodeHealth]) -> st.SearchStrategy[dict[str, int]]:
    return st.fixed_dictionaries({}, optional={made.name: st.integers(0, 12) for made in nodes})


@st.composite
def crowds(draw: st.DrawFn) -> tuple[list[NodeHealth], dict[str, int]]:
    nodes = draw(NODES)
    return nodes, draw(loads(nodes))


def able(nodes: list[NodeHealth]) -> list[NodeHealth]:
    """A model of its own of who may build linux/amd64."""
    return [one for one in nodes if one.health in {Health.READY, Health.DEGRADED} and AMD in one.platforms]


@given(crowds(), KEYS)
def test_only_an_able_node_with_room_within_its_share_is_chosen(
    crowd: tuple[list[NodeHealth], dict[str, int]], key: str
) -> None:
    nodes, load = crowd
    if not able(nodes):
        with pytest.raises(ValueError, match="no node may build linux/amd64"):
            choose(AMD, nodes, load, key)
        return
    has = {one.name: load.get(one.name, 0) for one in able(nodes)}
    free = {one.name: one for one in able(nodes) if has[one.name] < (one.max_builds or math.inf)}
    chosen = choose(AMD, nodes, load, key)
    if not free:
        assert chosen == Full(AMD, tuple(has))
        return
    assert isinstance(chosen, Choice)
    assert chosen.node in free
    weights = {name: weight(one.max_builds) for name, one in free.items()}
    share = weights[chosen.node] / sum(weights.values())
    assert has[chosen.node] < math.ceil(OVERLOAD * (sum(has[name] for name in free) + 1) * share)


@given(crowds(), KEYS, st.randoms(use_true_random=False))
def test_the_choice_does_not_depend_on_the_order_of_the_nodes(
    crowd: tuple[list[NodeHealth], dict[str, int]], key: str, chance: Random
) -> None:
    nodes, load = crowd
    if able(nodes) and not isinstance(chosen := choose(AMD, nodes, load, key), Full):
        shuffled = list(nodes)
        chance.shuffle(shuffled)
        assert choose(AMD, shuffled, load, key) == chosen


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.integers(1, 9), min_size=2, max_size=6), KEYS, st.data())
def test_a_node_that_leaves_or_comes_moves_its_own_projects_only(
    weights: dict[str, int], key: str, data: st.DataObject
) -> None:
    leaving = data.draw(st.sampled_from(sorted(weights)))
    left = {name: weight for name, weight in weights.items() if name != leaving}
    assert order(key, left) == tuple(name for name in order(key, weights) if name != leaving)


def test_projects_are_spread_by_weight_and_platforms_of_a_project_stay_together() -> None:
    nodes = [node("small", AMD, ARM, most=2), node("large", AMD, ARM, most=6)]
    taken = [choose(AMD, nodes, {}, f"project {number}") for number in range(2000)]
    share = sum(isinstance(one, Choice) and one.node == "large" for one in taken) / len(taken)
    assert 0.72 < share < 0.78
    assert taken == [choose(ARM, nodes, {}, f"project {number}") for number in range(2000)]


FIRST, SECOND = order("project", {"amd-1": 4, "amd-2": 4})


@pytest.mark.parametrize(
    ("load", "chosen", "why"),
    [
        pytest.param({}, FIRST, "its turn: here this project's cache is warm", id="idle"),
        pytest.param({SECOND: 9}, FIRST, "its turn: here this project's cache is warm", id="the other is busy"),
        pytest.param({FIRST: 2}, SECOND, f"next in turn: {FIRST} is busy (2)", id="busy beyond its share"),
        pytest.param({FIRST: 2, SECOND: 2}, FIRST, "its turn: here this project's cache is warm", id="both are"),
    ],
)
def test_a_busy_node_is_passed_over(load: Mapping[str, int], chosen: str, why: str) -> None:
    assert choose(AMD, [A, B], load, "project") == Choice(chosen, why)


def test_a_full_node_is_passed_over_and_when_all_are_it_is_said() -> None:
    nodes = [replace(A, max_builds=1), replace(B, max_builds=1)]
    assert choose(AMD, nodes, {FIRST: 1}, "project") == Choice(SECOND, f"next in turn: {FIRST} is full (1)")
    assert choose(AMD, nodes, {FIRST: 1, SECOND: 1}, "project") == Full(AMD, ("amd-1", "amd-2"))
    assert choose(AMD, [A], {}, "project") == Choice("amd-1", "its turn: no other node runs it")
