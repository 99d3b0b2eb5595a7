"""`fleet tui`: screens over Snapshots. What is asked of the world happens in threads; the screens never wait."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual.app import SuspendNotSupported, SystemCommand
from textual.binding import Binding, BindingType
from textual.message import Message

from fleet.fleet_health import snapshot
from fleet.model.facts import BuilderFacts, Facts, NodeFacts
from fleet.model.health import Health
from fleet.model.snapshot import Sighting
from fleet.observing.watch import NO_VAULT
from fleet.parallel import HEED
from tui.commands import DEEDS, PAGES, parse
from tui.details import consequences
from tui.errands import Errands, Feed
from tui.screens.builds import BuildsPage
from tui.screens.dialogs import Ask, Help
from tui.screens.fleet import FleetPage
from tui.screens.logs import LogsPage
from tui.screens.node import NodePage
from tui.screens.page import Completer, Page
from tui.screens.plan import PlanPage, RunPage
from tui.screens.tables import CertificatesPage, RoutesPage
from tui.themes import DEFAULTS, THEMES, fitting
from tui.view import Trends

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from textual.screen import Screen
    from textual.suggester import Suggester

    from fleet.model.snapshot import Snapshot
    from fleet.model.spec import FleetSpec
    from tui.outside import Outside

TICK = 1.0
"""Seconds after which ages are drawn anew."""


_FOR_NODES = frozenset({"drain", "resume", "restart", "prune", "shell"})


class Arrived(Message):
    """There is a new Snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__()
        self.snapshot = snapshot


class Dashboard(Errands):
    """The fleet in a terminal."""

    CSS_PATH = Path(__file__).parent / "fleet.tcss"
    TITLE = "fleet"
    VERTICAL_BREAKPOINTS = [(0, "-low"), (14, "-high")]  # noqa: RUF012 - Textual declares it so
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark", "keys", "help", key_display="?"),
        Binding("l", "do('logs')", "logs"),
        Binding("d", "do('drain')", "drain"),
        Binding("r", "do('resume')", "resume"),
        Binding("R", "do('restart')", "restart"),
        Binding("u", "do('up')", "up"),
        Binding("p", "do('prune')", "prune"),
        Binding("c", "do('certificates')", "certs"),
        Binding("b", "do('builds')", "builds"),
        Binding("o", "do('routes')", "routes", show=False),
        Binding("s", "do('shell')", "shell"),
        Binding("y", "copy", "copy", show=False),
        Binding("t", "theme", "theme", show=False),
        Binding("z", "play('pause')", "pause"),
        Binding("full_stop", "play('step')", "step", key_display="."),
        Binding("less_than_sign", "play('slower')", "slower", key_display="<"),
        Binding("greater_than_sign", "play('faster')", "faster", key_display=">"),
        Binding("q", "quit", "quit"),
        Binding("ctrl+c,ctrl+q", "quit", "quit", show=False, priority=True),
    ]

    def __init__(self, outside: Outside, *, read_only: bool = False, bell: bool = False) -> None:
        """`read_only`: whatever is handed in, nothing is changed; `bell`: rings when a node goes down or comes back."""
        look = fitting(os.environ)
        # Before Textual takes NO_COLOR for itself: only in the terminal's own colours it leaves all of them out.
        super().__init__(ansi_color=True if "NO_COLOR" in os.environ else None)
        # What cannot be done has no key; read-only has nothing that could.
        self.outside = replace(outside, deeds={}, shell=None) if read_only else outside
        self._rings = bell
        self._signs = ("READ-ONLY",) if read_only else ()
        self.snapshot = _nothing_yet(outside.spec, outside.now())
        self.trends = Trends()
        self._under_way: list[tuple[str, threading.Thread]] = []
        self._feed = Feed(
            self.outside.watch,
            lambda taken: self.post_message(Arrived(taken)),
            lambda why: self.later(self._tell_break, why),
        )

        for theme in THEMES:
            self.register_theme(theme)
        self.theme = look

    @property
    def sign(self) -> str:
        """What is to be seen on top at all times."""
        return "  ".join(filter(None, (*self._signs, self.outside.sign())))

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """Colours of ours, for themes that do not have them."""
        return dict(DEFAULTS)

    @property
    def now(self) -> datetime:
        """The time by which everything is as old as it is shown."""
        return self.outside.now()

    def get_default_screen(self) -> Page:
        """The fleet comes first."""
        return FleetPage()

    # ---------------------------------------------------------------------------------------------- watching

    def on_mount(self) -> None:
        """Look at the fleet once the first screen stands."""
        self.call_after_refresh(self._feed.begin)
        self._ticking = self.set_interval(TICK, self._redraw)

    def on_app_focus(self) -> None:
        """A browser's page has the focus only after it was drawn: then there is none to go back to."""
        if isinstance(self.screen, Page) and self.focused is None:
            self.screen.focus_first()

    def on_arrived(self, message: Arrived) -> None:
        """Show it, and tell of who came and went."""
        before, self.snapshot = self.snapshot, message.snapshot
        self.trends.add(message.snapshot)
        self._tell_changes(before, message.snapshot)
        self._redraw()
        self._ticking.reset()

    def _tell_break(self, why: str) -> None:
        title = "the fleet is not watched any more"
        self.notify(why, title=title, severity="error", timeout=60, markup=False)

    def _redraw(self) -> None:
        if isinstance(self.screen, Page):
            self.screen.update()

    def _tell_changes(self, before: Snapshot, after: Snapshot) -> None:
        was, now = _healths(before), _healths(after)
        for name, (health, reason) in now.items():
            change = was[name][0] if name in was else None, health
            if change[0] in {Health.READY, Health.DEGRADED, Health.DRAINED} and change[1] is Health.DOWN:
                self._ring()
                self.notify(reason or "", title=f"✗ {name} is down", severity="error", markup=False)
            elif change[0] is Health.DOWN and health in {Health.READY, Health.DEGRADED}:
                self._ring()
                self.notify(f"{name} is {health} again", title="● back", markup=False)

    def _ring(self) -> None:
        if self._rings:
            self.bell()

    def end_watching(self) -> bool:
        """Leave nothing behind, after `run`; whether that was possible in time."""
        return self._feed.end()

    @property
    def changing(self) -> tuple[str, ...]:
        """What changes nodes at this moment."""
        return tuple(title for title, thread in self._under_way if thread.is_alive())

    def end_changes(self) -> None:
        """Nothing is left half done, whatever has ended `run`: wait for what is under way."""
        for _, thread in tuple(self._under_way):
            while thread.is_alive():
                thread.join(HEED)

    # ----------------------------------------------------------------------------------------------- screens

    @property
    def available(self) -> frozenset[str]:
        """The words of all commands that there is something behind."""
        out = self.outside
        absent = {"logs": out.logs, "builds": out.builds, "shell": out.shell}
        pages = {page.word for page in PAGES} - {word for word, behind in absent.items() if behind is None}
        return frozenset(pages | out.deeds.keys())

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """There is no key for what cannot be done here, or would not be for anything on this screen."""
        if action == "play":
            return self.outside.player is not None
        if action != "do":
            return True
        about_nodes = isinstance(self.screen, Page) and self.screen.NODES
        return parameters[0] in self.available and (about_nodes or parameters[0] not in _FOR_NODES)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """What the palette offers: everything that can be typed, and what Textual has of its own."""
        for command in (*PAGES, *DEEDS):
            if command.word in self.available:
                yield SystemCommand(command.word, command.does, partial(self._do, command.word, ()))
        yield from super().get_system_commands(screen)

    def completer(self) -> Suggester:
        """Completes what is typed after `:`."""
        return Completer(self.available, [node.name for node in self.snapshot.nodes])

    def obey(self, text: str) -> None:
        """Do what was typed."""
        asked = parse(text, self.available, [node.name for node in self.snapshot.nodes])
        if isinstance(asked, str):
            self.notify(asked, severity="warning", markup=False)
        else:
            every = tuple(node.name for node in self.snapshot.nodes) if asked.word == "logs" else ()
            self._do(asked.word, asked.nodes or every)

    def action_do(self, word: str) -> None:
        """Do what a key is for."""
        self._do(word, ())

    def open_node(self, name: str) -> None:
        """Everything about one node."""
        self.push_screen(NodePage(name))

    def _turn_to(self, page: Page) -> None:
        """Show it; one of its kind that is shown already makes room, so that there is one step back."""
        if type(self.screen) is type(page):
            self.switch_screen(page)
        else:
            self.push_screen(page)

    def back(self) -> None:
        """To the screen before; the first one stays."""
        if len(self.screen_stack) > 1:
            self.pop_screen()

    def action_keys(self) -> None:
        """All keys of this screen."""
        self.push_screen(Help(self.screen))

    def action_theme(self) -> None:
        """The next look."""
        names = [theme.name for theme in THEMES]
        self.theme = names[(names.index(self.theme) + 1) % len(names)] if self.theme in names else names[0]

    def action_play(self, how: str) -> None:
        """Move a recording."""
        if player := self.outside.player:
            match how:
                case "pause":
                    player.pause()
                case "step":
                    player.step()
                case _:
                    player.faster(2 if how == "faster" else 0.5)
            self._redraw()

    def action_copy(self) -> None:
        """Put the names that a key is for where they can be pasted."""
        if chosen := self._chosen():
            self.copy_to_clipboard(" ".join(chosen))
            self.notify(f"copied: {' '.join(chosen)}", markup=False)

    def _chosen(self) -> tuple[str, ...]:
        return self.screen.chosen() if isinstance(self.screen, Page) else ()

    def _do(self, word: str, nodes: tuple[str, ...]) -> None:
        chosen = nodes or self._chosen()
        match word:
            case "quit":
                self.call_later(self.action_quit)
            case "help":
                self.action_keys()
            case "fleet":
                while len(self.screen_stack) > 1:
                    self.pop_screen()
            case "node" | "shell" if not chosen:
                self.notify(f"{word}: which node?", severity="warning")
            case "node":
                self.open_node(chosen[0])
            case "shell":
                self._log_in(chosen[0])
            case "builds":
                about = nodes or (chosen if isinstance(self.screen, NodePage) else ())
                self._turn_to(BuildsPage(about or tuple(node.name for node in self.snapshot.nodes)))
            case "routes":
                self._turn_to(RoutesPage())
            case "certificates":
                self._turn_to(CertificatesPage())
            case "plan":
                self._turn_to(PlanPage())
            case "logs":
                self._turn_to(LogsPage(chosen or tuple(node.name for node in self.snapshot.nodes)))
            case _:
                self._confirm(word, chosen)

    # ------------------------------------------------------------------------------------------- what changes

    def _confirm(self, word: str, nodes: tuple[str, ...]) -> None:
        """Ask, and do it only then."""
        if word == "up" and not isinstance(self.screen, PlanPage):
            # What is to be done is seen behind the question.
            self.push_screen(PlanPage())
            nodes = nodes if len(nodes) > 1 else ()
        if not nodes and word != "up":
            self.notify(f"{word}: which nodes?", severity="warning")
            return
        names = ", ".join(nodes) or "all nodes"
        nodes = nodes or tuple(node.name for node in self.snapshot.nodes)
        ask = Ask(f"{word} {names}?", consequences(word, self.snapshot, nodes))
        self.push_screen(ask, lambda yes: self._run_deed(word, nodes, names) if yes else None)

    def _run_deed(self, word: str, nodes: tuple[str, ...], names: str) -> None:
        deed, title = self.outside.deeds[word], f"{word} {names}"
        page = RunPage(title)
        self.push_screen(page)

        def run() -> list[str]:
            return list(deed(nodes, lambda event: self.later(page.take, event)))

        def end(said: Sequence[str]) -> None:
            self._under_way.remove(changing)
            page.end(said)
            self._feed.hurry()

        changing = title, self.ask(run, end, lambda why: end([why]))
        self._under_way.append(changing)

    async def action_quit(self) -> None:
        """Leave, unless something would be left half done."""
        if self._under_way:
            self.complain(f"{self._under_way[0][0]} is under way: leave when it has ended")
        else:
            self.exit()

    def _log_in(self, name: str) -> None:
        """The screen makes room for a login, and comes back after it."""
        argv = list(self.outside.shell(name)) if self.outside.shell else []
        try:
            with self.suspend():
                subprocess.run(argv, check=False)
        except (OSError, SuspendNotSupported) as error:
            self.complain(f"{name}: {error}")


def _healths(snapshot: Snapshot) -> dict[str, tuple[Health, str | None]]:
    """Of each node, and of each way through the gateway."""
    gates = {f"the gateway on {gate.host} for {gate.arch}": (gate.health, gate.reason) for gate in snapshot.gates}
    return {node.name: (node.health, node.reason) for node in snapshot.nodes} | gates


def _nothing_yet(spec: FleetSpec, now: datetime) -> Snapshot:
    unseen = {host.name: NodeFacts() for host in spec.hosts}
    taken = snapshot(spec, Facts(unseen, BuilderFacts(), NO_VAULT), now)
    return replace(taken, sightings={name: Sighting(facts) for name, facts in unseen.items()})
