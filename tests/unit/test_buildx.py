"""docker buildx: what is typed, what is read, and that any builder can be turned into any other."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fleet.buildx import (
    AppendNode,
    CreateBuilder,
    LeaveNode,
    RemoveBuilder,
    Step,
    after,
    arguments,
    check_version,
    finish,
    led,
    parse_instance,
    parse_version,
    same,
    settled,
    steps,
    to_front,
)
from fleet.errors import BuilderError
from fleet.model.facts import BuilderNode
from fleet.model.platforms import Platform
from tests.support.values import OPTIONS, node, platforms

# ---------------------------------------------------------------------------------------------- arguments

ARGUMENTS: dict[str, tuple[Step, str]] = {
    "create with a pin": (
        CreateBuilder(node("amd-1", "linux/amd64")),
        (
            "create --driver remote --timeout 1ns --name acme --node amd-1 --platform linux/amd64 "
            "--driver-opt cacert=/vault/ca.pem,cert=/vault/client.pem,key=/vault/client.pem tcp://amd-1.example:1234"
        ),
    ),
    "create with several pins": (
        CreateBuilder(node("amd-1", "linux/amd64", "linux/amd64/v2", "linux/386")),
        (
            "create --driver remote --timeout 1ns --name acme --node amd-1 "
            "--platform linux/amd64,linux/amd64/v2,linux/386 "
            "--driver-opt cacert=/vault/ca.pem,cert=/vault/client.pem,key=/vault/client.pem tcp://amd-1.example:1234"
        ),
    ),
    "append without a pin": (
        AppendNode(node("amd-2", endpoint="tcp://[fd00::2]:1234")),
        (
            "create --driver remote --timeout 1ns --name acme --node amd-2 "
            "--driver-opt cacert=/vault/ca.pem,cert=/vault/client.pem,key=/vault/client.pem --append tcp://[fd00::2]:1234"
        ),
    ),
    "leave": (LeaveNode("amd-2"), "create --name acme --leave --node amd-2"),
    "remove": (RemoveBuilder(), "rm acme"),
}


@pytest.mark.parametrize(("step", "typed"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_what_is_typed_after_docker_buildx(step: Step, typed: str) -> None:
    assert arguments("acme", step) == tuple(typed.split())


@given(
    st.dictionaries(
        st.sampled_from(["cacert", "cert", "key", "servername"]),
        st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=12),
        min_size=1,
    )
)
def test_options_survive_the_csv_that_buildx_reads(options: dict[str, str]) -> None:
    typed = arguments("acme", CreateBuilder(node("a", options=options)))
    field = typed[typed.index("--driver-opt") + 1]
    [row] = csv.reader(io.StringIO(field), strict=True)
    assert dict(entry.split("=", 1) for entry in row) == options


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (CreateBuilder(node("a", "linux/arm64")), "create the builder with a for linux/arm64"),
        (AppendNode(node("a", "linux/amd64", "linux/386")), "register a for linux/amd64, linux/386"),
        (AppendNode(node("a")), "register a to stand by"),
        (LeaveNode("a"), "take a out of the builder (a daemon on its host is not touched)"),
        (RemoveBuilder(), "remove the builder from this machine"),
    ],
)
def test_steps_read_as_sentences(step: Step, text: str) -> None:
    assert str(step) == text


# -------------------------------------------------------------------------------------------------- steps

A, B = node("a", "linux/amd64"), node("b", "linux/arm64")
B_STANDBY = node("b")
B_MOVED = node("b", "linux/arm64", endpoint="tcp://b.example:99")
B_RENEWED = node("b", "linux/arm64", options=OPTIONS | {"servername": "x"})
C_AT_B = node("c", "linux/arm64", endpoint=B.endpoint)

Nodes = tuple[BuilderNode, ...]
STEPS: dict[str, tuple[Nodes, Nodes, tuple[Step, ...]]] = {
    "a new builder": ((), (A, B), (CreateBuilder(A), AppendNode(B))),
    "nothing to do": ((A, B), (A, B), ()),
    "nothing to do in another order": ((A, B), (B, A), ()),
    "a further node": ((A,), (A, B), (AppendNode(B),)),
    "a node gone": ((A, B), (A,), (LeaveNode("b"),)),
    "a node moved": ((A, B), (A, B_MOVED), (AppendNode(B_MOVED),)),
    "other options": ((A, B), (A, B_RENEWED), (AppendNode(B_RENEWED),)),
    "a pin given": ((A, B_STANDBY), (A, B), (AppendNode(B),)),
    "a pin taken away": ((A, B), (A, B_STANDBY), (LeaveNode("b"), AppendNode(B_STANDBY))),
    "a pin handed over": (
        (A, B_STANDBY),
        (node("a"), node("b", "linux/amd64")),
        (AppendNode(node("b", "linux/amd64")),),
    ),
    "a node renamed": ((A, B), (A, C_AT_B), (LeaveNode("b"), AppendNode(C_AT_B))),
    "the only node renamed": (
        (B,),
        (C_AT_B,),
        (RemoveBuilder(), CreateBuilder(C_AT_B)),
    ),
    "all nodes replaced": ((A,), (B,), (AppendNode(B), LeaveNode("a"))),
    "the last pin taken away": ((B,), (B_STANDBY,), (RemoveBuilder(), CreateBuilder(B_STANDBY))),
    "endpoints swapped": (
        (A, B),
        (node("a", "linux/amd64", endpoint=B.endpoint), node("b", "linux/arm64", endpoint=A.endpoint)),
        (
            RemoveBuilder(),
            CreateBuilder(node("a", "linux/amd64", endpoint=B.endpoint)),
            AppendNode(node("b", "linux/arm64", endpoint=A.endpoint)),
        ),
    ),
}


@pytest.mark.parametrize(("current", "wanted", "decided"), STEPS.values(), ids=STEPS)
def test_the_fewest_steps(current: Nodes, wanted: Nodes, decided: tuple[Step, ...]) -> None:
    assert steps(current, wanted) == decided


PLATFORMS = platforms("linux/amd64", "linux/amd64/v2", "linux/386", "linux/arm64", "linux/arm/v7")
names = st.sampled_from("abcd")
endpoints = st.sampled_from([f"tcp://{letter}.example:1" for letter in "abcde"])
options = st.sampled_from([OPTIONS, OPTIONS | {"servername": "other"}])


@st.composite
def wanted_nodes(draw: st.DrawFn) -> list[BuilderNode]:
    """Nodes of unique names and endpoints whose pins do not overlap."""
    chosen = draw(st.lists(names, unique=True, min_size=1))
    places = draw(st.lists(endpoints, unique=True, min_size=len(chosen), max_size=len(chosen)))
    owner = {platform: draw(st.sampled_from([*chosen, None])) for platform in PLATFORMS}
    return [
        BuilderNode(name, place, tuple(p for p in PLATFORMS if owner[p] == name), draw(options))
        for name, place in zip(chosen, places, strict=True)
    ]


any_node = st.builds(
    BuilderNode, names, endpoints, st.lists(st.sampled_from(PLATFORMS), unique=True).map(tuple), options
)
any_step: st.SearchStrategy[Step] = st.one_of(
    st.builds(CreateBuilder, any_node),
    st.builds(AppendNode, any_node),
    st.builds(LeaveNode, names),
    st.builds(RemoveBuilder),
)


@st.composite
def reachable_nodes(draw: st.DrawFn) -> Nodes:
    """What any sequence of steps can leave behind; buildx refuses some of them."""
    nodes: Nodes = ()
    for step in draw(st.lists(any_step, max_size=8)):
        try:
            nodes = after(nodes, [step])
        except ValueError:
            continue
    return nodes


@given(reachable_nodes(), wanted_nodes())
def test_any_builder_becomes_any_other(current: Nodes, wanted: list[BuilderNode]) -> None:
    reached = {entry.name: entry for entry in after(current, steps(current, wanted))}
    assert reached.keys() == {entry.name for entry in wanted}
    assert all(same(reached[entry.name], entry) for entry in wanted)


@given(reachable_nodes(), wanted_nodes())
def test_a_builder_as_it_is_wanted_is_left_alone(current: Nodes, wanted: list[BuilderNode]) -> None:
    assert steps(after(current, steps(current, wanted)), wanted) == ()


@given(reachable_nodes(), wanted_nodes(), st.data())
def test_steps_that_stopped_half_way_are_gone_on_with(
    current: Nodes, wanted: list[BuilderNode], data: st.DataObject
) -> None:
    decided = steps(current, wanted)
    half = after(current, decided[: data.draw(st.integers(0, len(decided)))])
    reached = after(half, steps(half, wanted))
    assert len(reached) == len(wanted)
    assert all(any(same(entry, one) for entry in reached) for one in wanted)


@given(reachable_nodes().filter(bool), st.data())
def test_any_node_can_be_the_first(nodes: Nodes, data: st.DataObject) -> None:
    """Everything else stays as it is, and the builder is there all the while."""
    chosen = data.draw(st.sampled_from(nodes))
    taken = to_front(nodes, chosen.name)
    reached = after(nodes, taken)
    assert reached[0] == chosen
    assert sorted(entry.name for entry in reached) == sorted(entry.name for entry in nodes)
    assert all(entry in reached for entry in nodes)
    assert not any(isinstance(step, (RemoveBuilder, CreateBuilder)) for step in taken)


def pins(nodes: Nodes) -> set[Platform]:
    return {platform for entry in nodes for platform in entry.platforms}


@given(reachable_nodes().filter(bool), st.data())
def test_while_another_becomes_the_first_nothing_loses_its_owner(nodes: Nodes, data: st.DataObject) -> None:
    """And what was cut short is finished: the owners are the same ones, under the same name and endpoint."""
    taken = to_front(nodes, data.draw(st.sampled_from(nodes)).name)
    for done in range(len(taken) + 1):
        half = after(nodes, taken[:done])
        assert pins(half) == pins(nodes)
        owners = {entry.name: entry for entry in settled(half) if entry.platforms}
        assert owners == {entry.name: entry for entry in nodes if entry.platforms}
        assert {entry.name for entry in settled(half)} <= {entry.name for entry in nodes}
        steps_left = finish(half)
        assert all(pins(after(half, steps_left[:count])) == pins(nodes) for count in range(len(steps_left)))


def test_who_stands_in_for_a_node_is_at_the_same_place() -> None:
    first, *_ = to_front((A, B_STANDBY), "b")
    assert first == AppendNode(node("moving.a", "linux/amd64", endpoint="tcp://a.example:01234"))


@given(reachable_nodes(), wanted_nodes(), st.data())
def test_no_step_takes_a_platform_from_everybody_that_is_wanted_and_was_there(
    current: Nodes, wanted: list[BuilderNode], data: st.DataObject
) -> None:
    """Unless an endpoint goes from one name to another, or the builder has to be made anew."""
    homes = {entry.endpoint: entry.name for entry in current}
    assume(all(homes.get(entry.endpoint, entry.name) == entry.name for entry in wanted))
    first = data.draw(st.sampled_from(wanted))
    decided = led(current, wanted, first)
    assert after(current, decided)[0].name == first.name
    assume(RemoveBuilder() not in decided)
    lasting = pins(current) & {platform for entry in wanted for platform in entry.platforms}
    for done in range(len(decided) + 1):
        assert lasting <= pins(after(current, decided[:done]))


@given(reachable_nodes())
def test_no_platform_ever_has_two_owners(nodes: Nodes) -> None:
    pins = [platform for entry in nodes for platform in entry.platforms]
    assert len(pins) == len(set(pins))
    assert len({entry.endpoint for entry in nodes}) == len(nodes)


REFUSED: dict[str, tuple[Nodes, Step]] = {
    "creating what exists": ((A,), CreateBuilder(B)),
    "appending to nothing": ((), AppendNode(A)),
    "the last node leaving": ((A,), LeaveNode("a")),
    "a stranger leaving": ((A, B), LeaveNode("c")),
    "leaving nothing": ((), LeaveNode("a")),
    "an endpoint that another node has": ((A, B), AppendNode(C_AT_B)),
}


@pytest.mark.parametrize(("nodes", "step"), REFUSED.values(), ids=REFUSED)
def test_what_buildx_refuses(nodes: Nodes, step: Step) -> None:
    with pytest.raises(ValueError, match=r"."):
        after(nodes, [step])


def test_the_order_of_platforms_is_of_no_account() -> None:
    one, other = node("a", "linux/amd64", "linux/386"), node("a", "linux/386", "linux/amd64")
    assert same(one, other)
    assert not same(None, one)
    for different in (node("b", "linux/amd64", "linux/386"), node("a", "linux/amd64"), B):
        assert not same(one, different)


# ------------------------------------------------------------------------------------------------ reading

STORED = {
    "Name": "acme",
    "Driver": "remote",
    "Nodes": [
        {
            "Name": "amd-1",
            "Endpoint": "tcp://10.0.0.11:1234",
            "Platforms": [
                {"architecture": "amd64", "os": "linux"},
                {"architecture": "arm", "os": "linux", "variant": "v7"},
                {"architecture": "arm64", "os": "linux", "variant": "v8"},
            ],
            "DriverOpts": {"cacert": "/a", "cert": "/b", "key": "/c"},
            "Flags": None,
            "Files": None,
        },
        {"Name": "amd-2", "Endpoint": "tcp://10.0.0.12:1234", "Platforms": None, "DriverOpts": None, "Flags": None},
    ],
    "Dynamic": False,
}


def test_what_buildx_has_stored_is_read() -> None:
    facts = parse_instance(json.dumps(STORED))
    assert (facts.driver, facts.registered, facts.default) == ("remote", True, False)
    assert facts.nodes == (
        BuilderNode(
            "amd-1",
            "tcp://10.0.0.11:1234",
            platforms("linux/amd64", "linux/arm/v7", "linux/arm64"),
            {"cacert": "/a", "cert": "/b", "key": "/c"},
        ),
        BuilderNode("amd-2", "tcp://10.0.0.12:1234", (), {}),
    )


def test_a_builder_of_another_driver_is_read_too() -> None:
    facts = parse_instance(json.dumps({"Name": "acme", "Driver": "docker-container", "Nodes": None}))
    assert (facts.driver, facts.nodes, facts.registered) == ("docker-container", (), True)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("{", id="torn"),
        pytest.param("[]", id="a list"),
        pytest.param("null", id="null"),
        pytest.param('"acme"', id="a text"),
        pytest.param("{}", id="no nodes"),
        pytest.param('{"Nodes": []}', id="no driver"),
        pytest.param('{"Driver": "remote", "Nodes": [{}]}', id="a node without a name"),
        pytest.param('{"Driver": "remote", "Nodes": [1]}', id="a node that is a number"),
        pytest.param(
            '{"Driver": "remote", "Nodes": [{"Name": "a", "Endpoint": "b", "Platforms": [{}], "DriverOpts": {}}]}',
            id="a platform without an architecture",
        ),
        pytest.param(
            '{"Driver": "remote", "Nodes": [{"Name": "a", "Endpoint": "b", "Platforms": [], "DriverOpts": 7}]}',
            id="options that are a number",
        ),
    ],
)
def test_what_buildx_cannot_have_stored_is_an_error(text: str) -> None:
    with pytest.raises(BuilderError, match="not as expected") as caught:
        parse_instance(text)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("github.com/docker/buildx v0.36.1 0a3b5c8", (0, 36, 1)),
        ("github.com/docker/buildx v0.36.1 \n", (0, 36, 1)),
        ("github.com/docker/buildx 0.20.0+dfsg 1234", (0, 20, 0)),
        ("github.com/docker/buildx v0.33.0-rc1 abc", (0, 33, 0)),
        ("github.com/docker/buildx v0.32.0-desktop.2 abc", (0, 32, 0)),
        ("github.com/docker/buildx v1.2.3", (1, 2, 3)),
    ],
)
def test_versions_of_buildx(text: str, version: tuple[int, int, int]) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize("text", ["", "docker: 'buildx' is not a docker command.", "github.com/docker/buildx v0.36"])
def test_no_version_is_an_error(text: str) -> None:
    with pytest.raises(BuilderError, match="has no version") as caught:
        parse_version(text)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("version", "complaint"),
    [
        ((0, 31, 9), "0.31.9 is too old"),
        ((0, 9, 1), "0.9.1 is too old"),
        ((0, 32, 0), None),
        ((0, 36, 1), None),
        ((0, 37, 0), "0.37.0 can push a tag before"),
        ((0, 37, 1), None),
        ((1, 0, 0), None),
    ],
)
def test_versions_that_will_do(version: tuple[int, int, int], complaint: str | None) -> None:
    if complaint is None:
        check_version(version)
    else:
        with pytest.raises(BuilderError, match=complaint) as caught:
            check_version(version)
        assert caught.value.remedy
