"""`fleet build`: a native node for every platform, buildx under watch, and again when a node is lost."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from fleet import buildx, route
from fleet.builds import Outcome
from fleet.dispatching import spread
from fleet.dispatching.candidates import PROBE_TIMEOUT, Candidates, Probes
from fleet.dispatching.spread import Full
from fleet.dispatching.vigil import Vigil
from fleet.errors import HostError, RoutingError, UsageError
from fleet.model.facts import BuilderNode, Down, Stage
from fleet.model.platforms import Platform
from fleet.parallel import gather
from fleet.quantities import lasting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from fleet.builds import BuildRecord
    from fleet.dispatching.build_arguments import BuildArguments
    from fleet.model.health import NodeHealth
    from fleet.model.spec import FleetSpec
    from fleet.ports import Builder, Run

ROOM_EVERY = 1.0
"""Seconds between two questions to nodes that are full."""

LOOK_EVERY = 0.02
"""Seconds between two looks at what this machine's builds have, while one of them is waited for."""

TELL_EVERY = 10.0
"""Seconds between two lines about waiting."""


class Reservations(Protocol):
    """What this machine's builds have on which node: they ask at the same moment, and nodes do not know them yet."""

    def choosing(self) -> AbstractContextManager[Mapping[str, int]]:
        """Hold what others wait for to choose, or to make a builder; node -> builds."""
        ...

    def counts(self) -> Mapping[str, int]:
        """Node -> builds."""
        ...

    def reserve(self, nodes: Iterable[str]) -> None:
        """Take a place on each of these nodes, in place of what was held; within `choosing`."""
        ...

    def release(self) -> None:
        """Give back what is held."""
        ...


@dataclass(frozen=True, slots=True)
class Share:
    """What one node has built; no record: its daemon does not say."""

    node: str
    platforms: tuple[Platform, ...]
    emulated: bool
    record: BuildRecord | None


@dataclass(frozen=True, slots=True)
class Dispatched:
    """buildx's exit code, and who built what if that is 0."""

    code: int
    shares: tuple[Share, ...] = ()
    digest: str | None = None
    """Of the image that was put together from several runs."""


Chosen = dict[str, "list[Platform]"]
"""Node -> what it is to build."""


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """What dispatching needs: `builder` holds fleet's own definitions, the user's builder is not touched."""

    spec: FleetSpec
    prober: Probes
    builder: Builder
    driver_options: Mapping[str, str]
    owners: Mapping[Platform, str]
    """Who owns a platform in the registered builder."""
    reservations: Reservations
    narrate: Callable[[str], None]
    label: str = ""
    """What stands before each line that buildx writes, where several are under way."""
    decided: Callable[[], object] = lambda: None
    """Called when it is known where the build goes, or that it has to wait: what comes is no work of this machine's."""

    def build(self, asked: BuildArguments, project: str) -> Dispatched:
        """Run one `docker buildx build` or bake. Raises RoutingError or UsageError before anything is sent.

        `project`: builds of the same one go to the same node, for its cache.
        """
        if asked.builder:
            raise UsageError(
                f"fleet {asked.command} chooses the nodes itself, so --builder has no place here",
                f"drop it, or type: docker buildx {asked.command} --builder {asked.builder} …",
            )
        candidates = Candidates(
            self.spec, self.prober, self.owners, project, self.narrate, allow_emulation=asked.allow_emulation
        )
        nodes = candidates.health(asked.platforms, self.reservations.counts())
        self.builder.check()
        platforms = asked.platforms or (self._default(candidates, nodes),)
        wanted = () if asked.platforms else ("--platform", ",".join(map(str, platforms)))
        # Several platforms that are not built apart would replace each other's cache.
        cached = asked.cached(platforms[0]) if len(platforms) == 1 else ()
        try:
            chosen = self._take(candidates, platforms, nodes, asked.patience)
            for left in range(asked.retries if asked.repeatable else 0, -1, -1):
                words = (asked.command, "--builder", self._define(chosen), *wanted, *cached, *asked.words)
                with self.builder.start(words, label=self.label) as run:
                    vigil = self._watch(run, chosen, candidates)
                    code = run.wait()
                    silent = vigil.end()
                    if not code:
                        # Whoever waits for room need not wait for what is told.
                        self.reservations.release()
                        return Dispatched(code, self._shares(run, chosen, nodes))
                    lost = {} if run.interrupted else silent or self._lost(run, chosen)
                if not lost:
                    return Dispatched(code)
                candidates.lost.update(lost)
                if left:
                    nodes = candidates.health(platforms)
                    chosen = self._move(candidates, platforms, nodes, chosen, lost, asked.patience)
            self.narrate(f"{_told(lost)}: given up")
            return Dispatched(code)
        finally:
            self.reservations.release()

    def _default(self, candidates: Candidates, nodes: Sequence[NodeHealth]) -> Platform:
        default = candidates.default(nodes)
        if default is None:
            raise RoutingError("no node answers", "fleet status")
        self.narrate(f"no --platform given: building for {default}")
        return default

    # ------------------------------------------------------------------------------------------- choosing

    def _take(
        self, candidates: Candidates, platforms: Sequence[Platform], nodes: Sequence[NodeHealth], patience: float
    ) -> Chosen:
        """Choose, and reserve what was chosen; waits while all nodes of a platform are full."""
        began = told = asked = time.monotonic()
        while True:
            if refusals := route.refusals(platforms, nodes):
                raise route.refused(refusals)
            with self.reservations.choosing() as reserved:
                chosen = candidates.choose(platforms, nodes, spread.load(nodes, reserved))
                if not isinstance(chosen, Full):
                    self.reservations.reserve(chosen)
            self.decided()
            if not isinstance(chosen, Full):
                return chosen
            now = time.monotonic()
            full = (
                f"{', '.join(chosen.nodes)} {'has' if len(chosen.nodes) == 1 else 'have'} all builds that they may have"
            )
            if now - began >= patience:
                raise RoutingError(f"there is no room for {chosen.platform}: {full}", "fleet builds; try again later")
            if now >= told:
                self.narrate(f"waiting for room for {chosen.platform}: {full}{_so_far(now - began)}")
                told = now + TELL_EVERY
            left = min(asked + ROOM_EVERY, began + patience) - now
            if ended := self._await_end(reserved, left):
                # The nodes need not be asked at once what is known here: many may be waiting.
                nodes = [replace(n, active_builds=max((n.active_builds or 0) - ended[n.name], 0)) for n in nodes]
            else:
                nodes = candidates.health(platforms, self.reservations.counts())
                asked = time.monotonic()

    def _await_end(self, before: Mapping[str, int], timeout: float) -> Counter[str]:
        """Node -> how many of this machine's builds there have ended, as soon as one has; none did in `timeout` s."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if ended := Counter(before) - Counter(self.reservations.counts()):
                return ended
            time.sleep(LOOK_EVERY)
        return Counter()

    def _move(
        self,
        candidates: Candidates,
        platforms: Sequence[Platform],
        nodes: Sequence[NodeHealth],
        before: Chosen,
        lost: Mapping[str, Down],
        patience: float,
    ) -> Chosen:
        chosen = self._take(candidates, platforms, nodes, patience)
        now = {platform: node for node, pinned in chosen.items() for platform in pinned}
        goes = [f"{platform} goes on on {now[platform]}" for node in lost for platform in before[node]]
        self.narrate(f"{_told(lost)}: {', '.join(goes)}")
        return chosen

    def _define(self, chosen: Chosen) -> str:
        """A builder of exactly the chosen nodes and pins: no other node is asked, no platform is left to chance.

        Named by its content, so that builds side by side share or do not share it, but never change it.
        """
        nodes = [
            BuilderNode(name, f"tcp://{self.spec.host(name).endpoint}", tuple(platforms), self.driver_options)
            for name, platforms in sorted(chosen.items())
        ]
        digest = hashlib.sha256(repr([(n, sorted(n.options.items())) for n in nodes]).encode()).hexdigest()
        name = f"{self.spec.name}-{digest[:12]}"
        if buildx.steps(self.builder.read(name).nodes, nodes):
            # Another build may be about to make the same.
            with self.reservations.choosing():
                for step in buildx.steps(self.builder.read(name).nodes, nodes):
                    self.builder.run(buildx.arguments(name, step))
        return name

    # ------------------------------------------------------------------------------------------- watching

    def _watch(self, run: Run, chosen: Chosen, candidates: Candidates) -> Vigil:
        def waits_for(name: str, why: Down) -> None:
            listed = ", ".join(map(str, chosen[name]))
            self.narrate(
                f"{name} does not answer ({why.stage}: {why.reason}); no other node runs {listed}, so it is waited for"
            )

        return Vigil(
            run,
            chosen,
            ask=lambda name, timeout: self.prober.probe(self.spec.host(name), timeout=timeout),
            stands_in=lambda name: candidates.standing_in(name, chosen[name]),
            waits_for=waits_for,
        )

    def _lost(self, run: Run, chosen: Chosen) -> Mapping[str, Down]:
        """The nodes that were lost, when buildx has failed; none: the build failed by its own fault.

        A daemon that is well remembers the builds that it has failed; one that was killed has forgotten them.
        """
        refs = run.refs()
        found = gather({name: partial(self._look, name, refs.get(name, ())) for name in chosen})
        if any(outcome is Outcome.FAILED for outcome in found.values()):
            return {}
        return {name: outcome for name, outcome in found.items() if isinstance(outcome, Down)}

    def _shares(self, run: Run, chosen: Chosen, nodes: Sequence[NodeHealth]) -> tuple[Share, ...]:
        refs = run.refs()
        if not refs:  # it was a question, such as --check
            return ()
        found = gather({name: partial(self._records, name, refs[name]) for name in chosen if name in refs})
        emulated = {node.name: node.emulated for node in nodes}
        shares = []
        for name, records in found.items():
            for record in records:
                # Targets of a bake are for some of its platforms.
                built = tuple(map(Platform.parse, record.platforms if record else ())) or tuple(chosen[name])
                shares.append(Share(name, built, any(platform in emulated[name] for platform in built), record))
        return tuple(shares)

    def _records(self, name: str, refs: Sequence[str]) -> Sequence[BuildRecord | None]:
        try:
            return tuple(self.prober.builds(self.spec.host(name), refs=refs)) or (None,)
        except HostError:
            return (None,)

    def _look(self, name: str, refs: Sequence[str]) -> Outcome | Down:
        """How the builds of these refs ended on a node, the worst of them, or why the node is lost."""
        host = self.spec.host(name)
        answer = self.prober.probe(host, timeout=PROBE_TIMEOUT)
        if isinstance(answer, Down):
            return answer
        try:
            known = {record.ref: record.outcome for record in self.prober.builds(host, refs=refs)}
        except HostError as error:
            return Down(error.stage, error.message, error.remedy)
        ended = [known.get(ref) for ref in refs]
        if Outcome.FAILED in ended:
            return Outcome.FAILED
        if None in ended:
            return Down(Stage.API, "its daemon has started anew")
        return Outcome.CANCELED if Outcome.CANCELED in ended else Outcome.DONE


def _told(lost: Mapping[str, Down]) -> str:
    return "; ".join(f"{name} is lost ({why.stage}: {why.reason})" for name, why in lost.items())


def _so_far(seconds: float) -> str:
    return f" ({lasting(seconds)} so far)" if seconds >= 1 else ""
