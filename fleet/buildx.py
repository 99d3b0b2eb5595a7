"""docker buildx in pure form: its arguments, what it stores, and how it changes a builder.

The rules of `after` are those of buildx 0.36 (store/nodegroup.go): pinning a platform takes it from every other
node; editing a node without platforms keeps the old ones; the last node cannot leave; endpoints are unique.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fleet.errors import BuilderError
from fleet.model.facts import BuilderFacts, BuilderNode
from fleet.model.platforms import Platform

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

OLDEST = (0, 32, 0)
"""The first buildx whose `create` takes --timeout."""

FETCHES = (0, 33, 0)
"""The first whose `imagetools` writes images to a folder."""

REFUSED = (0, 37, 0)
"""Could push the final tag before all nodes had finished; fixed in 0.37.1."""

DIAL_TIMEOUT = "1ns"
"""How long `create` may look at the nodes: it makes no use of it, and every buildx waits for its lock meanwhile."""

MOVING = "moving."
"""Before the name of a node that stands in for that one while it goes behind another."""


@dataclass(frozen=True, slots=True)
class CreateBuilder:
    """Make the builder with its first node; `use`: as the one that buildx uses by default."""

    node: BuilderNode
    use: bool = False

    def __str__(self) -> str:
        return f"create the builder with {self.node.name}{_pinned(self.node)}"


@dataclass(frozen=True, slots=True)
class AppendNode:
    """Add a node, or edit the one of that name."""

    node: BuilderNode

    def __str__(self) -> str:
        return f"register {self.node.name}{_pinned(self.node)}"


@dataclass(frozen=True, slots=True)
class LeaveNode:
    """Take a node out."""

    name: str

    def __str__(self) -> str:
        return f"take {self.name} out of the builder (a daemon on its host is not touched)"


@dataclass(frozen=True, slots=True)
class RemoveBuilder:
    """Remove the builder from this machine; the nodes are not touched."""

    def __str__(self) -> str:
        return "remove the builder from this machine"


def _pinned(node: BuilderNode) -> str:
    return f" for {', '.join(map(str, node.platforms))}" if node.platforms else " to stand by"


Step = CreateBuilder | AppendNode | LeaveNode | RemoveBuilder


def arguments(builder: str, step: Step) -> tuple[str, ...]:
    """What to type after `docker buildx`."""
    match step:
        case RemoveBuilder():
            return ("rm", builder)
        case LeaveNode(name):
            return ("create", "--name", builder, "--leave", "--node", name)
        case CreateBuilder(node, use):
            return (*_create(builder, node), *(("--use",) if use else ()), node.endpoint)
        case AppendNode(node):
            return (*_create(builder, node), "--append", node.endpoint)


def _create(builder: str, node: BuilderNode) -> tuple[str, ...]:
    options = ",".join(_quoted(f"{key}={value}") for key, value in sorted(node.options.items()))
    platforms = ("--platform", ",".join(map(str, node.platforms))) if node.platforms else ()
    return (
        *("create", "--driver", "remote", "--timeout", DIAL_TIMEOUT),
        *("--name", builder, "--node", node.name, *platforms, "--driver-opt", options),
    )


def _quoted(field: str) -> str:
    """One field of the CSV that buildx reads --driver-opt as."""
    return '"' + field.replace('"', '""') + '"' if set(field) & set('",\n') else field


def steps(current: Sequence[BuilderNode], wanted: Sequence[BuilderNode], *, default: bool = False) -> tuple[Step, ...]:
    """The fewest steps from one set of nodes to the other; a builder that cannot be edited there is made anew.

    `default`: the builder is the one in use, which one made anew has to become again. `wanted` holds at least one
    node, and its pins do not overlap. `after(current, steps(current, wanted))` has the
    nodes of `wanted`, in any order.
    """
    kept = {node.name for node in wanted}
    places = {node.endpoint for node in wanted}
    owner = {platform: node.name for node in wanted for platform in node.platforms}
    gone = [node for node in current if node.name not in kept]
    # Those go last whose place nobody takes: what they own is owned by others before.
    edit: list[Step] = [LeaveNode(node.name) for node in gone if node.endpoint in places]
    try:
        nodes = after(current, edit)
        # A pin that is set takes itself away where it was: those first, and the others may have nothing left to change.
        standing = {entry.name: entry for entry in nodes}
        for node in sorted(wanted, key=lambda node: not node.platforms):
            if not same(standing.get(node.name), node) and node.name in standing and not node.platforms:
                edit.append(LeaveNode(node.name))
                nodes = after(nodes, edit[-1:])
            # What another is to have stays until that one takes it.
            found = standing.get(node.name) if node.platforms else None
            left = (
                tuple(platform for platform in found.platforms if owner.get(platform, node.name) != node.name)
                if found
                else ()
            )
            for_now = replace(node, platforms=(*node.platforms, *left))
            if not same(standing.get(node.name), for_now):
                edit.append(AppendNode(for_now) if nodes else CreateBuilder(for_now))
                nodes = after(nodes, edit[-1:])
                standing = {entry.name: entry for entry in nodes}
        edit += [LeaveNode(node.name) for node in gone if node.endpoint not in places]
        # A pin that was taken away in passing is only seen at the end.
        if all(same(standing.get(node.name), node) for node in wanted):
            return tuple(edit)
    except ValueError:
        pass
    return anew(current, wanted, default=default)


def led(
    current: Sequence[BuilderNode], wanted: Sequence[BuilderNode], first: BuilderNode, *, default: bool = False
) -> tuple[Step, ...]:
    """The steps to `wanted`, of which `first` becomes the builder's first node.

    Those with other platforms go behind it before its own move: wherever a run is cut short, the first node with
    platforms still shows what the first one is to build.
    """
    edit: tuple[Step, ...] = ()
    if current and not any(first.name == node.name or first.endpoint == node.endpoint for node in current):
        edit = (AppendNode(replace(first, platforms=())),)
    nodes = after(current, edit)
    if any(node.name == first.name for node in nodes):
        edit += to_front(
            nodes, first.name, lambda node: bool(node.platforms) and not {*node.platforms} & {*first.platforms}
        )
    edit += steps(after(current, edit), wanted, default=default)
    return edit + to_front(after(current, edit), first.name)


def to_front(
    nodes: Sequence[BuilderNode], name: str, passes: Callable[[BuilderNode], bool] = lambda _: True
) -> tuple[Step, ...]:
    """The steps that make a node the first of those it `passes`: these leave, one by one, and come again behind it.

    What has platforms is there all the while under one name or another.
    """
    before = nodes[: [node.name for node in nodes].index(name)]
    return tuple(step for node in before if passes(node) for step in _behind(node))


def _behind(node: BuilderNode) -> tuple[Step, ...]:
    if not node.platforms:
        return LeaveNode(node.name), AppendNode(node)
    # Two nodes cannot have one endpoint, which buildx compares as text: a zero before the port is another text.
    host, _, port = node.endpoint.rpartition(":")
    copy = replace(node, name=f"{MOVING}{node.name}", endpoint=f"{host}:0{port}")
    return AppendNode(copy), LeaveNode(node.name), AppendNode(node), LeaveNode(copy.name)


def finish(nodes: Sequence[BuilderNode]) -> tuple[Step, ...]:
    """The steps that end what a run that was cut short has left of `to_front`."""
    edit: list[Step] = []
    standing = {node.name: node for node in nodes}
    for copy in nodes:
        if copy.name.startswith(MOVING):
            if copy.platforms:
                edit.append(AppendNode(_original(copy, standing)))
            edit.append(LeaveNode(copy.name))
    return tuple(edit)


def settled(nodes: Sequence[BuilderNode]) -> tuple[BuilderNode, ...]:
    """The nodes, as they are once that has ended."""
    return after(nodes, finish(nodes))


def _original(copy: BuilderNode, standing: Mapping[str, BuilderNode]) -> BuilderNode:
    name = copy.name.removeprefix(MOVING)
    host, _, port = copy.endpoint.rpartition(":")
    left = standing[name].platforms if name in standing else ()
    return replace(copy, name=name, endpoint=f"{host}:{port.removeprefix('0')}", platforms=(*left, *copy.platforms))


def anew(current: Sequence[BuilderNode], wanted: Sequence[BuilderNode], *, default: bool = False) -> tuple[Step, ...]:
    """The steps to the same nodes in the order of `wanted`; for a moment there is no builder."""
    first, *rest = wanted
    made: tuple[Step, ...] = (CreateBuilder(first, use=default), *(AppendNode(node) for node in rest))
    return (*([RemoveBuilder()] if current else []), *made)


def same(one: BuilderNode | None, other: BuilderNode) -> bool:
    """Whether two nodes are equal, the order of platforms aside."""
    return one is not None and (one.name, one.endpoint, set(one.platforms), dict(one.options)) == (
        other.name,
        other.endpoint,
        set(other.platforms),
        dict(other.options),
    )


def after(nodes: Sequence[BuilderNode], steps: Sequence[Step]) -> tuple[BuilderNode, ...]:
    """The nodes after `steps`; raises ValueError where buildx would refuse."""
    result = list(nodes)
    for step in steps:
        match step:
            case RemoveBuilder():
                result = []
            case LeaveNode(name):
                left = [node for node in result if node.name != name]
                if len(left) == len(result):
                    raise ValueError(f"there is no node {name}")
                if not left:
                    raise ValueError("the last node cannot leave")
                result = left
            case CreateBuilder(node):
                if result:
                    raise ValueError("the builder exists")
                result = [node]
            case AppendNode(node):
                result = _appended(result, node)
    return tuple(result)


def _appended(nodes: Sequence[BuilderNode], new: BuilderNode) -> list[BuilderNode]:
    if not nodes:
        raise ValueError("there is no builder to append to")
    if any(node.endpoint == new.endpoint and node.name != new.name for node in nodes):
        raise ValueError(f"two nodes cannot share the endpoint {new.endpoint}")
    result = []
    for node in nodes:
        if node.name == new.name:
            result.append(new if new.platforms else replace(new, platforms=node.platforms))
        elif node.platforms and (taken := set(new.platforms)):
            left = tuple(platform for platform in node.platforms if platform not in taken)
            result.append(replace(node, platforms=left))
        else:
            result.append(node)
    return result if any(node.name == new.name for node in nodes) else [*result, new]


def parse_instance(text: str) -> BuilderFacts:
    """What buildx has stored of one builder ($BUILDX_CONFIG/instances/NAME); raises BuilderError."""
    try:
        stored = json.loads(text)
        return BuilderFacts(nodes=tuple(_node(node) for node in stored["Nodes"] or ()), driver=str(stored["Driver"]))
    except (ValueError, KeyError, TypeError) as error:
        raise BuilderError(
            "what buildx has stored of the builder is not as expected", "docker buildx inspect"
        ) from error


def _node(stored: Mapping[str, Any]) -> BuilderNode:
    platforms = tuple(
        Platform(entry["os"], entry["architecture"], entry.get("variant", "")).normalised()
        for entry in stored["Platforms"] or ()
    )
    return BuilderNode(stored["Name"], stored["Endpoint"], platforms, dict(stored["DriverOpts"] or {}))


def parse_version(text: str) -> tuple[int, int, int]:
    """The version that `docker buildx version` printed; raises BuilderError."""
    for word in text.split():
        parts = word.removeprefix("v").split("-")[0].split("+")[0].split(".")
        if len(parts) == 3 and all(part.isdigit() for part in parts):
            return (int(parts[0]), int(parts[1]), int(parts[2]))
    raise BuilderError(f"docker buildx has no version: {text.strip()!r}", "install docker buildx 0.32 or newer")


def check_version(version: tuple[int, int, int]) -> None:
    """Refuse a buildx that cannot do the work; raises BuilderError."""
    shown = ".".join(map(str, version))
    if version < OLDEST:
        raise BuilderError(f"docker buildx {shown} is too old", "install docker buildx 0.32 or newer, but not 0.37.0")
    if version == REFUSED:
        raise BuilderError(
            "docker buildx 0.37.0 can push a tag before all platforms are built", "install docker buildx 0.37.1"
        )
