"""Builds of BuildKit's history: what is taken from them, what never is, and how they are shown."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.adapters import build_history
from fleet.adapters.remembered_builds import context_of
from fleet.adapters.wire import encoded
from fleet.builds import (
    HERE,
    BuildRecord,
    Outcome,
    Steps,
    in_order,
    name_of,
    platforms_of,
    printable,
    reason_of,
    repository,
)
from fleet.cli import builds as command
from fleet.errors import HostError
from fleet.model.facts import ApiFacts, Down, Stage
from fleet.model.spec import HostSpec
from tests.support.values import NOW, api, host

LATER = NOW + timedelta(seconds=90)


def record(ref: str = "r1", *, began: datetime = NOW, **changed: object) -> BuildRecord:
    return replace(BuildRecord("amd-1", ref, began), **changed)  # type: ignore[arg-type]  # any field


def done(ref: str = "r1", *, began: datetime = NOW, **changed: object) -> BuildRecord:
    ended = {"completed": began + timedelta(seconds=90), "outcome": Outcome.DONE, "steps": Steps(4, 4, 3)}
    return record(ref, began=began, **ended | changed)


# --------------------------------------------------------------------------------------------------- names

REPOSITORIES = {
    "https://github.com/acme/app": "github.com/acme/app",
    "https://github.com/acme/app.git/": "github.com/acme/app",
    "https://anna:s3cret@github.com/acme/app.git": "github.com/acme/app",
    "https://s3cret@github.com/acme/app.git#main:sub": "github.com/acme/app#main:sub",
    "https://git.example.com:8443/acme/app.git?token=s3cret": "git.example.com:8443/acme/app",
    "git@github.com:acme/app.git": "github.com/acme/app",
    "ssh://git@github.com/acme/app.git": "github.com/acme/app",
    "anna@example.com:/srv/app.git": "example.com/srv/app",
    "github.com:acme/app": "github.com/acme/app",
    "git://git.example.com/app": "git.example.com/app",
    "/srv/git/app.git": "/srv/git/app.git",
    "..": "..",
}


@pytest.mark.parametrize(("url", "expected"), REPOSITORIES.items())
def test_a_repository_is_named_without_credentials_and_the_same_in_all_forms(url: str, expected: str) -> None:
    assert repository(url) == expected


@pytest.mark.parametrize(
    ("attributes", "images", "expected"),
    [
        pytest.param({}, (), None, id="nothing is known"),
        pytest.param({"vcs:source": "git@github.com:acme/app.git"}, ("r/app",), "github.com/acme/app", id="repository"),
        pytest.param(
            {"vcs:source": "https://github.com/acme/app", "vcs:localdir:context": "web", "target": "test"},
            (),
            "github.com/acme/app/web (test)",
            id="folder and target",
        ),
        pytest.param(
            {"vcs:source": "https://github.com/acme/app", "vcs:localdir:context": "."},
            (),
            "github.com/acme/app",
            id="the repository's root",
        ),
        pytest.param(
            {"context": "https://x:s3cret@github.com/acme/app.git#v1"},
            (),
            "github.com/acme/app#v1",
            id="remote context",
        ),
        pytest.param({}, ("registry:5000/app:v1,registry:5000/app:latest",), "registry:5000/app:v1", id="image"),
        pytest.param({"target": "test"}, ("", "app@sha256:12"), "app (test)", id="image by digest"),
        pytest.param({"filename": "web.Dockerfile"}, (), "web.Dockerfile", id="Dockerfile"),
        pytest.param({"filename": "Dockerfile", "target": "test"}, (), "test", id="target alone"),
        pytest.param({"build-arg:BUILDKIT_BUILD_NAME": "nightly"}, ("app",), "nightly", id="its own name"),
        pytest.param({"target": "\x1b[2Jhello"}, (), "[2Jhello", id="what a terminal would obey"),
    ],
)
def test_a_build_is_named(attributes: dict[str, str], images: tuple[str, ...], expected: str | None) -> None:
    assert name_of(attributes, images) == expected


def test_platforms_are_those_that_were_asked_for() -> None:
    assert platforms_of({"platform": "linux/amd64,linux/arm64"}) == ("linux/amd64", "linux/arm64")
    assert platforms_of({}) == ()
    assert len(platforms_of({"platform": ",".join("x" * 99)})) == 16


@given(st.text())
def test_nothing_that_is_shown_moves_a_terminal(text: str) -> None:
    for shown in (printable(text, 50), reason_of(text), name_of({"target": text}) or ""):
        assert shown.isprintable()
    assert len(printable(text, 50)) <= 50


def test_a_reason_is_one_line_without_credentials() -> None:
    said = (
        'fetching\n "https://anna:s3cret@example.com/a.tar?token=s3cret" and git://x:s3cret@y/z:\r\x1b[31mno such file'
    )
    assert reason_of(said) == 'fetching "https://example.com/a.tar" and git://y/z: [31mno such file'


# ------------------------------------------------------------------------------------------------ the model


def test_what_runs_comes_last_and_of_what_ran_the_last_are_kept() -> None:
    first, second = done("a"), done("b", began=LATER)
    running = record("c", began=NOW - timedelta(hours=1))
    assert in_order([running, second, first]) == (first, second, running)
    assert in_order([running, second, first], 1) == (second, running)
    assert in_order([running, second, first], 0) == (running,)
    assert in_order([running, first], 9) == (first, running)


def test_how_long_a_build_takes() -> None:
    assert done().seconds(NOW) == 90
    assert record().seconds(LATER) == 90
    assert record(began=LATER).seconds(NOW) == 0  # by the node's clock


def test_the_share_that_was_cached_is_of_what_is_done() -> None:
    assert Steps(4, 8, 3).cached_share == 0.75
    assert Steps(0, 8, 0).cached_share is None


def test_what_this_machine_asked_for_is_known_by_its_folder() -> None:
    known = record().known_here("/home/anna/app/")
    assert (known.name, known.asked_by) == ("app", HERE)
    assert record(name="acme").known_here("/home/anna/app").name == "acme"
    assert record().known_here("").name is None
    assert record().known_here("https://x:s3cret@github.com/acme/app.git").name == "app"


# ------------------------------------------------------------------------------------------------- the wire


def pair(key: str, value: str) -> bytes:
    return encoded((1, key), (2, value))


def stamp(seconds: int, nanoseconds: int = 0) -> bytes:
    return encoded((1, seconds), (2, nanoseconds))


def event(kind: int, *content: tuple[int, bytes | str | int]) -> bytes:
    return encoded((1, kind), (2, encoded(*content)))


SECRET = (
    (3, pair("build-arg:TOKEN", "s3cret")),
    (3, pair("vcs:source", "https://anna:s3cret@github.com/acme/app.git")),
    (3, pair("label:password", "s3cret")),
    (3, pair("platform", "linux/arm64")),
)


def test_records_are_read_without_what_is_secret() -> None:
    exporter = (4, encoded((1, "image"), (2, pair("name", "r/app")), (2, pair("password", "s3cret"))))
    ended = event(
        1, (1, "r1"), *SECRET, exporter, (6, stamp(60)), (7, stamp(61, 500_000_000)), (15, 3), (16, 9), (17, 4)
    )
    (found,) = build_history.records("amd-1", [ended])
    assert found == BuildRecord(
        "amd-1",
        "r1",
        datetime(1970, 1, 1, 0, 1, tzinfo=UTC),
        datetime(1970, 1, 1, 0, 1, 1, 500_000, tzinfo=UTC),
        Outcome.DONE,
        None,
        "github.com/acme/app",
        ("linux/arm64",),
        Steps(4, 9, 3),
    )
    assert "s3cret" not in repr(found)


@pytest.mark.parametrize(
    ("content", "outcome", "reason"),
    [
        pytest.param(((6, stamp(60)),), Outcome.RUNNING, None, id="running"),
        pytest.param(((6, stamp(60)), (7, stamp(61))), Outcome.DONE, None, id="done"),
        pytest.param(
            ((5, encoded((1, 2), (2, "exit code: 1"))), (6, stamp(60)), (7, stamp(61))),
            Outcome.FAILED,
            "exit code: 1",
            id="failed",
        ),
        pytest.param(
            ((5, encoded((1, 1), (2, "canceled"))), (6, stamp(60)), (7, stamp(61))),
            Outcome.CANCELED,
            "canceled",
            id="canceled",
        ),
    ],
)
def test_a_record_says_how_its_build_ended(
    content: tuple[tuple[int, bytes]], outcome: Outcome, reason: str | None
) -> None:
    (found,) = build_history.records("amd-1", [event(0, (1, "r1"), *content)])
    assert (found.outcome, found.reason) == (outcome, reason)
    assert (found.steps is None) == (outcome is Outcome.RUNNING)


def test_notes_and_what_was_removed_are_no_builds() -> None:
    note = event(1, (1, "fleet.drain.0a"), (3, pair("drain", "anna")), (6, stamp(60)), (7, stamp(60)))
    removed = event(2, (1, "r1"))
    assert list(build_history.records("amd-1", [note, removed])) == []
    assert [(found.key, found.text) for found in build_history.notes([note, removed])] == [("drain", "anna")]


@pytest.mark.parametrize(
    ("left", "in_force"),
    [
        ((("drain", "anna"), ("client/ci", "5e")), {"drain": "anna", "client/ci": "5e"}),
        ((("drain", "anna"), ("drain", "bob")), {"drain": "bob"}),
        ((("drain", "anna"), ("drain", "")), {}),
        ((("drain", "anna"), ("drain", ""), ("drain", "bob")), {"drain": "bob"}),
    ],
)
def test_the_newest_note_counts_and_an_empty_one_takes_away(
    left: tuple[tuple[str, str], ...], in_force: dict[str, str]
) -> None:
    records = [
        event(1, (1, f"fleet.{key}.{at}"), (3, pair(key, text)), (6, stamp(60 + at)))
        for at, (key, text) in enumerate(left)
    ]
    assert build_history.in_force(reversed(records)) == in_force


def test_a_torn_event_is_an_error() -> None:
    with pytest.raises(ValueError, match="torn"):
        list(build_history.records("amd-1", [event(0, (1, "r1"))[:-1]]))


def test_progress_counts_each_step_once() -> None:
    progress = build_history.Progress()
    assert progress.steps is None

    def vertex(digest: str, *more: tuple[int, bytes | int]) -> bytes:
        return encoded((1, encoded((1, digest), *more)))

    for status in (
        vertex("a"),
        vertex("b"),
        vertex("a", (4, True), (6, stamp(1))),
        vertex("a", (4, True), (6, stamp(1))),
    ):
        progress.add(status)
    assert progress.steps == Steps(1, 2, 1)


# --------------------------------------------------------------------------------------- what buildx remembers


def test_this_machines_builds_are_found_by_their_ref(tmp_path: Path) -> None:
    here, other = tmp_path / "buildx", tmp_path / "other"
    (other / "refs" / "acme" / "amd-1").mkdir(parents=True)
    for ref, content in {
        "aa": json.dumps({"LocalPath": "/home/anna/app"}),
        "bb": json.dumps({"LocalPath": "-"}),
        "cc": "{torn",
        "dd": "[]",
    }.items():
        (other / "refs" / "acme" / "amd-1" / ref).write_text(content)
    under_way = here / "runs" / "17.ab" / "refs" / "acme" / "arm-1"
    under_way.mkdir(parents=True)
    (under_way / "ff").write_text(json.dumps({"LocalPath": "/home/anna/web"}))
    found = [context_of(ref, (here, other)) for ref in ("aa", "bb", "cc", "dd", "ee", "ff", "*", "")]
    assert found == ["/home/anna/app", "", "", "", None, "/home/anna/web", None, None]


# ------------------------------------------------------------------------------------------------ the command


def test_a_row_says_what_is_unknown_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    known = done(name="acme/app", platforms=("linux/arm64",), asked_by=HERE)
    failed = done("r2", outcome=Outcome.FAILED, reason="exit code: 1")
    show = command._table([known, record("r3")], lambda: LATER)
    for one in (known, record("r3"), failed):
        show(one)
    assert capsys.readouterr().out.splitlines() == [
        "began (UTC)          node   state          took  steps  cached  platforms  project   asked by",
        "2030-05-01 12:00:00  amd-1  done     1 min 30 s    4/4     75%  arm64      acme/app  this machine",
        "2030-05-01 12:00:00  amd-1  running  1 min 30 s      –       –  –          –         –",
        "2030-05-01 12:00:00  amd-1  failed   1 min 30 s    4/4     75%  –          –         –",
        "  exit code: 1",
    ]


def test_the_shape_of_a_build_in_json() -> None:
    assert command.build_json(done(name="app", platforms=("linux/arm64",))) == {
        "node": "amd-1",
        "ref": "r1",
        "state": "done",
        "reason": None,
        "began": "2030-05-01T12:00:00+00:00",
        "seconds": 90.0,
        "platforms": ["linux/arm64"],
        "project": "app",
        "steps": {"done": 4, "total": 4, "cached": 3},
        "asked_by": None,
    }
    running = command.build_json(record())
    assert (running["seconds"], running["steps"], running["project"]) == (None, None, None)


class Script:
    """A prober whose node answers, tells, is lost, and tells again, until the reader is interrupted."""

    def __init__(self) -> None:
        self._turns = itertools.count()
        self.over = threading.Event()

    def prepare(self) -> None:
        pass

    def probe(self, host: HostSpec, *, timeout: float) -> ApiFacts | Down:
        assert (host.name, timeout > 0) == ("amd-1", True)
        self.turn = next(self._turns)
        return Down(Stage.TCP, "refused the connection", "fleet status") if self.turn in {1, 2} else api()

    def builds(self, host: HostSpec, *, follow: bool = False) -> Iterator[BuildRecord]:
        assert (host.name, follow) == ("amd-1", True)
        if self.turn == 0:
            yield from (done("old"), record("r1"))
            raise HostError(Stage.TCP, "connection reset", "fleet status")
        yield from (done("old"), done("r1"))
        self.over.set()
        threading.Event().wait()


def test_what_is_followed_is_told_once_also_when_a_node_is_lost_for_a_while(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "AGAIN", 0.0)
    seen, script = list[tuple[str, Outcome]](), Script()

    def show(found: BuildRecord) -> None:
        seen.append((found.ref, found.outcome))
        if found.completed:
            raise KeyboardInterrupt

    command._follow([host("amd-1")], script, {"old": Outcome.DONE}, show)  # type: ignore[arg-type]  # scripted
    assert seen == [("r1", Outcome.RUNNING), ("r1", Outcome.DONE)]
    assert capsys.readouterr().err.splitlines() == [
        "amd-1: TCP: connection reset",
        "    try: fleet status",
        "amd-1: answers again",
    ]
