"""`make recording`: four builds at once on the lab's two amd64 hosts, one of which is lost, as README shows it.

Every line is what the commands said in one run, with the moment when it came.
"""

from __future__ import annotations

import io
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from benchmarks.foundation import README
from benchmarks.two_nodes import NODES, Bench, fleet

if TYPE_CHECKING:
    from collections.abc import Iterable

PICTURE = README.parent / "docs/images/failover.svg"
WIDTH = 122
APPS = {"web": "blue", "shop": "magenta", "api": "cyan", "blog": "yellow"}
"""Projects and their colours; the first two are built on the first node, where nothing else is going on."""

STEPS = ("compile", "test", "pack")
SECONDS = 1.5
"""For each step."""


def main() -> None:
    """Record, and print the picture."""
    with tempfile.TemporaryDirectory() as home, fleet(Path(home), most=4) as bench:
        for app in APPS:
            folder = bench.context(app, *(f"RUN echo {step} {app} $SALT; sleep {SECONDS}" for step in STEPS))
            _checkout(folder, app)
        lines = _recorded(bench)
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for line in lines:
        console.print(line, no_wrap=True, crop=True)
    PICTURE.write_text(console.export_svg(title="two nodes, and one of them dies", unique_id="failover"))


def _checkout(folder: Path, app: str) -> None:
    """A project is known by its remote."""
    (folder / ".git").mkdir()
    (folder / ".git/HEAD").write_text("ref: refs/heads/main\n")
    (folder / ".git/config").write_text(f'[remote "origin"]\nurl = https://git.example.com/acme/{app}.git\n')


def _recorded(bench: Bench) -> list[Text]:
    began, lines = time.monotonic(), list[Text]()
    environment = {**bench.env, "NO_COLOR": "1"}

    def tell(*parts: tuple[str, str]) -> None:
        lines.append(Text.assemble((f"{time.monotonic() - began:5.1f} s  ", "bright_black"), *parts))

    def follow(app: str, said: Iterable[str]) -> None:
        for line in said:
            if line.startswith("fleet: "):
                lost = " is lost " in line
                tell((f"{app:<5}", APPS[app]), (line.rstrip(), "bold red" if lost else "bold green"))

    image = f"{bench.env['LAB_REGISTRY']}/acme"
    typed = "fleet build --platform linux/amd64 --push"
    tell(("# four projects at once: web, shop, api and blog", "bright_black"))
    tell(("$ ", "bold"), (f"{typed} -t {image}/$APP $APP", "bold"))
    builds, following = [], []
    for app in APPS:
        argv = (*typed.split(), "--build-arg", f"SALT={began}", "--progress", "plain", "-t", f"{image}/{app}", app)
        build = subprocess.Popen(argv, env=environment, cwd=bench.home, stderr=subprocess.PIPE, text=True)
        assert build.stderr
        builds.append(build)
        following.append(threading.Thread(target=follow, args=(app, build.stderr)))
        following[-1].start()
    time.sleep(2 * SECONDS)
    tell(("$ ", "bold"), ("fleet builds", "bold"))
    for line in _said(environment, "fleet", "builds").splitlines():
        tell((line, "bold" if line.startswith("began") else ""))
    tell((f"# kill -9 of {NODES[0]}'s daemon", "bold red"))
    bench.on(NODES[0], "docker kill DAEMON")
    for thread in following:
        thread.join()
    assert [build.wait() for build in builds] == [0] * len(APPS)
    return lines


def _said(environment: dict[str, str], *argv: str) -> str:
    return subprocess.run(argv, env=environment, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
