"""`fleet tui --web` as a browser meets it: who is let in, what a page shows, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType, WSServerHandshakeError
from aiohttp.test_utils import TestClient, TestServer

from fleet.cli.main import fleet as command
from fleet.errors import UsageError
from fleet.observing.recording import Recorder
from tests.support.canned import SMALL, day
from tests.tui import slow

INVENTORY = "fleet: acme\nssh: {user: build}\nhosts: {amd-1: {address: 192.0.2.1}}\n"


@dataclass(frozen=True, slots=True)
class Served:
    """A server under way."""

    process: subprocess.Popen[str]
    url: str

    @property
    def origin(self) -> str:
        return self.url[: self.url.index("/", len("http://"))]

    @property
    def token(self) -> str:
        return self.url.split("/")[3]

    def children(self) -> list[int]:
        return children(self.process.pid)

    def end(self, by: signal.Signals = signal.SIGINT) -> str:
        """What it has said besides its address."""
        self.process.send_signal(by)
        said, complained = self.process.communicate(timeout=30)
        return said + complained


@contextmanager
def serving(*arguments: object) -> Iterator[Served]:
    with begun([sys.executable, "-m", "fleet", "tui", "--web", "--port", "0", *map(str, arguments)]) as served:
        yield served


@contextmanager
def begun(argv: Sequence[str]) -> Iterator[Served]:
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=slow.ROOT) as process:
        try:
            assert process.stdout
            yield Served(process, process.stdout.readline().strip())
        finally:
            process.kill()


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    with Recorder(tmp_path / "day.gz", SMALL) as recorder:
        recorder.write(day())
    return tmp_path / "day.gz"


@asynccontextmanager
async def page(served: Served, token: str | None = None, **headers: str) -> AsyncIterator[ClientWebSocketResponse]:
    url = f"{served.origin}/{token or served.token}/ws?width=120&height=30"
    given = {"Origin": served.origin} | headers
    async with ClientSession() as client, client.ws_connect(url, headers=given) as socket:
        yield socket


async def until(socket: ClientWebSocketResponse, holds: Callable[[str], bool]) -> str:
    """What was drawn until it held, or the page was closed."""
    drawn = b""
    async with asyncio.timeout(30):
        while not holds(text := re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn.decode(errors="replace"))):
            message = await socket.receive()
            if message.type is not WSMsgType.BINARY:
                break
            drawn += message.data
    return text


def children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def knows(process: int, token: str) -> bool:
    """Whether everybody on this machine, or a program it begins, could read it."""
    return any(token in Path(f"/proc/{process}/{kept}").read_text() for kept in ("cmdline", "environ"))


def gone(children: Sequence[int]) -> bool:
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() for child in children):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_page_shows_the_fleet_takes_keys_and_ends_with_its_dashboard(recording: Path) -> None:
    async def test(served: Served) -> None:
        async with page(served) as socket:
            await until(socket, lambda text: "amd-1.example" in text)
            await socket.send_json(["focus"])
            await socket.send_json(["stdin", "jj"])
            await until(socket, lambda text: "fleet up --host amd-3" in text)
            [child] = served.children()
            assert not knows(child, served.token)
            await socket.send_json(["stdin", "q"])
            await until(socket, lambda _: socket.closed)
            assert gone([child])

    with serving(f"--replay={recording}") as served:
        asyncio.run(test(served))


@pytest.mark.parametrize(("given", "read_only"), [((), True), (("--allow-changes",), False)])
def test_a_page_changes_nothing_unless_asked(tmp_path: Path, given: Sequence[str], read_only: bool) -> None:
    (tmp_path / "inventory.yaml").write_text(INVENTORY)

    async def test(served: Served) -> None:
        async with page(served) as socket:
            text = await until(socket, lambda text: "192.0.2.1" in text)
            assert ("READ-ONLY" in text) is read_only
            await socket.send_json(["focus"])
            text = await until(socket, lambda text: "help" in text and "filter" in text)
            assert ("drain" in text) is not read_only
            # There is no terminal to log in from.
            assert "shell" not in text

    with serving("-i", tmp_path / "inventory.yaml", *given) as served:
        asyncio.run(test(served))


def test_a_page_that_is_read_only_has_no_key_word_or_palette_that_changes_anything(tmp_path: Path) -> None:
    (tmp_path / "inventory.yaml").write_text(INVENTORY)

    async def test(served: Served) -> None:
        async with page(served) as socket:
            await until(socket, lambda text: "192.0.2.1" in text)
            await socket.send_json(["focus"])
            for keys in ("d", "s", "R", "r", "u", "p"):
                await socket.send_json(["stdin", keys])
            text = ""
            for word in ("drain amd-1", "up", "shell amd-1"):
                await socket.send_json(["stdin", ":"])
                text += await until(socket, lambda text: "tab completes" in text)
                await socket.send_json(["stdin", f"{word}\r"])
                refused = f"{word.split()[0]} cannot be done here"
                text += await until(socket, lambda text, refused=refused: refused in text)  # type: ignore[misc]
            await socket.send_json(["stdin", "\x10"])
            text += await until(socket, lambda text: "Search" in text)
            await socket.send_json(["stdin", "drain"])
            text += await until(socket, lambda text: "No matches" in text)
            # Neither a question, nor a plan, nor a program.
            assert "y yes" not in text
            assert "let no new builds come" not in text
            [child] = served.children()
            assert not children(child)

    with serving("-i", tmp_path / "inventory.yaml") as served:
        asyncio.run(test(served))


@pytest.mark.parametrize("by", [None, signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_what_a_page_has_begun_is_finished_without_it(tmp_path: Path, by: signal.Signals | None) -> None:
    async def test(served: Served) -> list[int]:
        async with page(served) as socket:
            await until(socket, lambda text: "amd-3" in text)
            await socket.send_json(["focus"])
            await socket.send_json(["stdin", "d"])
            await until(socket, lambda text: "y yes" in text)
            await socket.send_json(["stdin", "y"])
            async with asyncio.timeout(30):
                while not (tmp_path / "begun").exists():
                    await socket.receive()
            pages = served.children()
            if by:
                served.process.send_signal(by)
                await until(socket, lambda _: False)
        return pages

    with begun(slow.argv(tmp_path, "--web")) as served:
        pages = asyncio.run(test(served))
        # More than other pages have.
        time.sleep(1)
        assert all(Path(f"/proc/{child}").exists() for child in pages)
        # Ctrl-C in a terminal goes to all that it has begun.
        assert all(os.getsid(child) == child for child in pages)
        assert by is signal.SIGKILL or served.process.poll() is None
        (tmp_path / "go").touch()
        assert gone(pages)
        assert (tmp_path / "ended").exists()
        if by:
            assert served.process.wait(30) == (-by if by is signal.SIGKILL else 0)


REFUSED = {
    "no token": ("/", {}, 404),
    "another token": ("/{other}/", {}, 404),
    "another token for a file": ("/{other}/static/textual.js", {}, 404),
    "a name that resolves to here": ("/{token}/", {"Host": "evil.example:{port}"}, 403),
    "a name that is none": ("/{token}/", {"Host": "a:b:c"}, 403),
    "a page of another server": ("/{token}/", {"Origin": "http://evil.example"}, 403),
    "a page of another port": ("/{token}/", {"Origin": "http://127.0.0.1:1"}, 403),
    "a file that is not its": ("/{token}/static/web.py", {}, 404),
    "a folder": ("/{token}/static/", {}, 404),
    "a way out of it": ("/{token}/static/..%2Fweb.py", {}, 404),
    "a download that nobody has": ("/download/1", {}, 404),
}
LET_IN = {
    "page": ("/{token}/", {}, 200),
    "file": ("/{token}/static/textual.js", {}, 200),
    "by name": ("/{token}/", {"Host": "localhost:{port}"}, 200),
    "by name, with capitals": ("/{token}/", {"Host": "LocalHost:{port}"}, 200),
    "through a tunnel": ("/{token}/", {"Host": "127.0.0.1:9000"}, 200),
}


def test_who_is_let_in(recording: Path) -> None:
    async def test(served: Served) -> None:
        words = {"token": served.token, "other": "x" * len(served.token), "port": served.origin.rpartition(":")[2]}
        async with ClientSession() as client:
            for path, headers, status in (REFUSED | LET_IN).values():
                given = {name: value.format(**words) for name, value in headers.items()}
                async with client.get(served.origin + path.format(**words), headers=given) as answer:
                    assert answer.status == status, (path, headers)
                    if status == 200:
                        assert answer.headers["Referrer-Policy"] == "no-referrer"
                        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
                    else:
                        assert served.token not in await answer.text()

    with serving(f"--replay={recording}") as served:
        asyncio.run(test(served))
        said = served.end()
        assert served.token not in said
        assert "Traceback" not in said


def test_a_machine_with_capitals_in_its_name_is_found_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from fleet.cli.web import Gate

    monkeypatch.setattr(socket, "gethostname", lambda: "Desk.Example")

    async def test() -> None:
        gate = Gate(("true",), title="acme", address="127.0.0.1")
        async with TestClient(TestServer(await gate._make_app())) as client:
            for name, status in {"desk.example:8000": 200, "Desk.Example": 200, "desk.example.evil": 403}.items():
                assert (await client.get(f"/{gate.token}/", headers={"Host": name})).status == status, name

    asyncio.run(test())


@pytest.mark.parametrize(
    ("token", "headers"),
    [
        ("x" * 43, {}),
        (None, {"Origin": "http://evil.example"}),
        (None, {"Origin": ""}),
        (None, {"Host": "evil.example", "Origin": "http://evil.example"}),
    ],
    ids=["another token", "another page", "no page", "another name"],
)
def test_no_dashboard_begins_for_others(recording: Path, token: str | None, headers: dict[str, str]) -> None:
    async def test(served: Served) -> None:
        with pytest.raises(WSServerHandshakeError, match=r"40[34]"):
            async with page(served, token, **headers):
                pass
        assert served.children() == []

    with serving(f"--replay={recording}") as served:
        asyncio.run(test(served))


def test_what_is_no_message_ends_the_page_and_not_the_server(recording: Path) -> None:
    async def test(served: Served) -> None:
        for nonsense in ("{", "[]", "1", '["stdin"]', '["resize", 1]', '["stdin", 1]'):
            async with page(served) as socket:
                await until(socket, lambda text: "amd-1" in text)
                await socket.send_str(nonsense)
                await until(socket, lambda _: False)
                assert socket.closed
        async with page(served) as socket:
            assert "amd-1" in await until(socket, lambda text: "amd-1" in text)

    with serving(f"--replay={recording}") as served:
        asyncio.run(test(served))
        assert "Traceback" not in served.end()


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_nothing_is_left_behind(recording: Path, by: signal.Signals) -> None:
    async def test(served: Served) -> None:
        async with page(served) as socket:
            await until(socket, lambda text: "amd-1" in text)
            children = served.children()
            assert len(children) == 1
            said = await asyncio.to_thread(served.end, by)
            assert "Traceback" not in said
            assert await asyncio.to_thread(gone, children)

    with serving(f"--replay={recording}") as served:
        asyncio.run(test(served))
        assert served.process.returncode == (-by if by is signal.SIGKILL else 0)


def test_another_address_is_told_to_be_open(recording: Path) -> None:
    with serving(f"--replay={recording}", "--listen", "0.0.0.0") as served:  # noqa: S104 - that is what is tested
        assert "not encrypted" in served.end()


WRONG = {
    "--port=8000": "say --web, too",
    "--listen=0.0.0.0": "say --web, too",
    "--allow-changes": "say --web, too",
    "--web --bell": "--web cannot have --bell",
    "--web --record=x": "--web cannot have --record",
    "--web --read-only --allow-changes": "--web cannot have --read-only with --allow-changes",
    "--web -i absent.yaml": "absent.yaml",
    "--web --replay=absent.gz": "absent.gz",
}


@pytest.mark.parametrize(("arguments", "said"), WRONG.items(), ids=WRONG)
def test_what_does_not_go_together(arguments: str, said: str) -> None:
    done = subprocess.run(
        (sys.executable, "-m", "fleet", "tui", *arguments.split()), capture_output=True, text=True, check=False
    )
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode in {1, 2}


def test_without_textual_serve_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, recording: Path) -> None:
    monkeypatch.setitem(sys.modules, "textual_serve", None)
    monkeypatch.delitem(sys.modules, "fleet.cli.web", raising=False)
    with pytest.raises(UsageError, match="textual_serve") as raised:
        command.main(["tui", "--web", f"--replay={recording}"], standalone_mode=False)
    assert "[web]" in (raised.value.remedy or "")
