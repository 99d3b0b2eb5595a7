"""Builds of BuildKit's history: what is taken from them, what never is, and how they are shown."""

from __future__ import annotations

import itertools
import json
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
    Account,
    BuildRecord,
    Outcome,
    Step,
    Steps,
    StepState,
    Written,
    concealing,
    in_order,
    name_of,
    one_line,
    platforms_of,
    printable,
    repository,
    written_line,
)
from fleet.cli import build_steps
from fleet.cli import builds as command
from fleet.errors import HostError, UsageError
from fleet.logs import Line
from fleet.model.facts import Stage
from fleet.model.spec import HostSpec
from fleet.observing import building
from fleet.parallel import Stop
from tests.support.values import NOW, host
from tests.unit.conftest import Run

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
    for shown in (printable(text, 50), one_line(text, str), written_line(text), name_of({"target": text}) or ""):
        assert shown.isprintable()
    assert len(printable(text, 50)) <= 50


def test_a_reason_is_one_line_without_credentials() -> None:
    said = (
        'fetching\n "https://anna:s3cret@example.com/a.tar?token=s3cret" and git://x:s3cret@y/z:\r\x1b[31mno such file'
    )
    assert one_line(said, concealing({})) == 'fetching "https://example.com/a.tar" and git://y/z: [31mno such file'


GIVEN = {
    "build-arg:TOKEN": "s3cret!(x)",
    "build-arg:LONGER": "s3cret!(x)+more",
    "build-arg:JOBS": "16",
    "build-arg:KEY": "-----BEGIN-----\nMIIEs3cret\n",
    "build-arg:BUILDKIT_BUILD_NAME": "nightly",
    "platform": "linux/amd64",
}
CONCEALED = {
    "RUN curl -H 'x: s3cret!(x)' y": "RUN curl -H 'x: $TOKEN' y",
    "echo s3cret!(x)+more": "echo $LONGER",
    "make -j 16 nightly for linux/amd64": "make -j 16 nightly for linux/amd64",
    "cat: -----BEGIN-----": "cat: $KEY",
    "MIIEs3cret": "$KEY",
    "GET https://anna:s3cret@x.org/a?token=s3cret": "GET https://x.org/a",
}


@pytest.mark.parametrize(("text", "shown"), CONCEALED.items())
def test_what_was_given_to_a_build_is_not_shown(text: str, shown: str) -> None:
    assert concealing(GIVEN)(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m and \x1b]0;title\x07plain", "red and plain"),
        ("10%\r50%\r100%\r", "100%"),
        ("a\tb", "a   b"),
        ("\x1b[2J\x07beep", "beep"),
        ("", ""),
        ("x" * 5000, "x" * 3999 + "…"),
    ],
)
def test_a_line_is_what_would_be_read_in_the_end(text: str, shown: str) -> None:
    assert written_line(text) == shown


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
    assert record(began=LATER).seconds(NOW) is None  # by the node's clock
    assert record(began=LATER).seconds(NOW) is None


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


def test_a_reason_has_no_arguments() -> None:
    error = (5, encoded((1, 2), (2, 'failed to compute cache key: "/s3cret-file": not found')))
    given = (3, pair("build-arg:WHAT", "s3cret-file"))
    (found,) = build_history.records("amd-1", [event(1, (1, "r1"), given, error, (6, stamp(60)), (7, stamp(61)))])
    assert found.reason == 'failed to compute cache key: "/$WHAT": not found'


@pytest.mark.parametrize(
    ("ref", "about"), [("fleet.drain.0a", True), ("fleet.client/ci.0a", False), ("r1", False)], ids=str
)
def test_whether_somebody_drained_the_node(ref: str, about: bool) -> None:
    assert build_history.about_drain(event(0, (1, ref), (6, stamp(60)))) is about


# --------------------------------------------------------------------------------------------------- steps


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def vertex(key: str, *more: tuple[int, bytes | int | str], name: str = "") -> tuple[int, bytes]:
    return 1, encoded((1, key), (3, name or key), *more)


def log(key: str, text: str | bytes, seconds: int = 5, stream: int = 1) -> tuple[int, bytes]:
    return 3, encoded((1, key), (2, stamp(seconds)), (3, stream), (4, text))


BEGAN, ENDED = (5, stamp(1)), (6, stamp(4))
STEPS = {
    "waiting": ((), Step("a", "a")),
    "running": ((BEGAN,), Step("a", "a", StepState.RUNNING, at(1))),
    "done": ((BEGAN, ENDED), Step("a", "a", StepState.DONE, at(1), at(4))),
    "cached": (((4, True), BEGAN, ENDED), Step("a", "a", StepState.CACHED, at(1), at(4))),
    "failed": ((BEGAN, ENDED, (7, "exit s3cret")), Step("a", "a", StepState.FAILED, at(1), at(4), "exit $TOKEN")),
    "canceled": ((BEGAN, ENDED, (7, "rpc: context canceled")), Step("a", "a", StepState.CANCELED, at(1), at(4))),
}
CONCEAL = concealing({"build-arg:TOKEN": "s3cret"})


@pytest.mark.parametrize(("content", "step"), STEPS.values(), ids=STEPS)
def test_a_step_says_how_it_stands(content: tuple[tuple[int, bytes], ...], step: Step) -> None:
    status = build_history.Status(CONCEAL)
    assert list(status.read(encoded(vertex("a", *content)))) == [step]
    assert list(status.read(encoded(vertex("a", *content)))) == []


def test_a_steps_name_is_one_line_without_what_was_given() -> None:
    status = build_history.Status(CONCEAL)
    (step,) = status.read(encoded(vertex("a", name="[2/3] RUN <<EOF\n  echo s3cret\nEOF")))
    assert isinstance(step, Step)
    assert step.name == "[2/3] RUN <<EOF echo $TOKEN EOF"


def test_lines_are_put_together_from_pieces_of_any_length() -> None:
    status = build_history.Status(CONCEAL)
    messages = (
        encoded(vertex("a", BEGAN), vertex("b", BEGAN), log("a", "one\ntw", 1), log("b", "x: s3c", 2)),
        encoded(log("a", b"o \xc3", 3), log("a", "err", 3, stream=2), log("b", "ret\n\n", 4)),
        encoded(log("a", b"\xbc\nthree", 5)),
        encoded(vertex("a", BEGAN, ENDED), log("a", "!", 6)),
    )
    told = [said for message in messages for said in status.read(message) if isinstance(said, Written)]
    assert [(one.step, one.line.at, one.line.text) for one in told] == [
        ("a", at(1), "one"),
        ("b", at(2), "x: $TOKEN"),
        ("b", at(4), ""),
        ("a", at(1), "two ü"),
        ("a", at(3), "err"),
        ("a", at(5), "three!"),
    ]
    list(status.read(encoded(log("b", "10%\r"), log("b", "20%\r"))))
    assert [one.line.text for one in status.rest()] == ["20%"]
    assert list(status.rest()) == []


def test_a_step_ends_after_what_it_wrote_and_begins_before() -> None:
    status = build_history.Status(str)
    told = list(status.read(encoded(vertex("a", BEGAN, ENDED), vertex("b", (4, True), BEGAN, ENDED), log("a", "one"))))
    assert [one.state if isinstance(one, Step) else one.line.text for one in told] == [
        *("running", "one", "done", "cached")
    ]
    again = list(status.read(encoded(vertex("a", BEGAN, (6, stamp(5))), vertex("a", BEGAN))))
    assert [one.state for one in again if isinstance(one, Step)] == ["running"]


def test_an_account_of_a_build_counts_each_step_once() -> None:
    account = Account(record(asked_by=HERE, name="here"), most=1)
    assert account.counts is None
    for state in (StepState.WAITING, StepState.RUNNING, StepState.CACHED):
        account.add(Step("a", "a", state))
    for told in (Step("b", "b"), Written("a", Line(NOW, "one")), Written("a", Line(NOW, "two")), done()):
        account.add(told)
    assert account.counts == Steps(1, 2, 1)
    assert list(account.steps) == ["a", "b"]
    assert [one.line.text for one in account.written] == ["two"]
    assert (account.record.outcome, account.record.asked_by, account.record.name) == (Outcome.DONE, HERE, "here")


def test_how_long_a_step_takes() -> None:
    assert Step("a", "a").seconds(NOW) is None
    assert Step("a", "a", StepState.RUNNING, NOW).seconds(LATER) == 90
    assert Step("a", "a", StepState.DONE, NOW, LATER).seconds(NOW) == 90
    assert Step("a", "a", StepState.RUNNING, LATER).seconds(NOW) is None  # by the node's clock
    assert record(began=LATER).seconds(NOW) is None


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
        "ref  began (UTC)          node   state          took  steps  cached  platforms  project   asked by",
        "r1   2030-05-01 12:00:00  amd-1  done     1 min 30 s    4/4     75%  arm64      acme/app  this machine",
        "r3   2030-05-01 12:00:00  amd-1  running  1 min 30 s      –       –  –          –         –",
        "r2   2030-05-01 12:00:00  amd-1  failed   1 min 30 s    4/4     75%  –          –         –",
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
    """A prober whose node tells, is lost, and tells again, until the reader is interrupted."""

    def __init__(self) -> None:
        self._turns = itertools.count()

    def feed(self, host: HostSpec, stop: Stop) -> Iterator[BuildRecord | None]:
        assert (host.name, stop.is_set()) == ("amd-1", False)
        match next(self._turns):
            case 0:
                yield from (done("old"), record("r1"))
                raise HostError(Stage.TCP, "connection reset", "fleet status")
            case 1 | 2:
                raise HostError(Stage.TCP, "refused the connection", "fleet status")
            case _:
                yield from (None, done("old"), done("r1"))


def test_what_is_followed_is_told_once_also_when_a_node_is_lost_for_a_while(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(building, "AGAIN", 0.0)
    seen = list[tuple[str, Outcome]]()

    def show(found: BuildRecord) -> None:
        seen.append((found.ref, found.outcome))
        if found.completed:
            raise KeyboardInterrupt

    command._follow([host("amd-1")], Script(), {"old": Outcome.DONE}, show)  # type: ignore[arg-type]  # scripted
    assert seen == [("r1", Outcome.RUNNING), ("r1", Outcome.DONE)]
    assert capsys.readouterr().err.splitlines() == [
        "amd-1: TCP: connection reset",
        "    try: fleet status",
        "amd-1: answers again",
    ]


# ----------------------------------------------------------------------------------------- one build's steps


REFS = [record("abcd1"), record("abcd2"), record("efgh")]


def test_a_build_is_found_by_how_its_ref_begins() -> None:
    assert build_steps.find(REFS, "e").ref == "efgh"
    assert build_steps.find(REFS, "abcd2").ref == "abcd2"


@pytest.mark.parametrize(
    ("ref", "said"),
    [("x", "no node remembers a build x"), ("abcd", "2 builds begin with 'abcd': abcd1, abcd2"), ("", "3 builds")],
)
def test_a_ref_that_means_none_or_several_is_refused(ref: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        build_steps.find(REFS, ref)


class Told:
    """A prober that tells of one build."""

    def __init__(self, *told: BuildRecord | Step | Written, fails: bool = False) -> None:
        self._told, self._fails = told, fails

    def build(self, host: HostSpec, ref: str, stop: Stop) -> Iterator[BuildRecord | Step | Written]:
        assert (host.name, ref, stop.is_set()) == ("amd-1", "r1", False)
        yield from self._told
        if self._fails:
            raise HostError(Stage.TCP, "connection reset", "fleet status")


BUILT = (
    record(),
    Step("a", "[1/2] FROM base"),
    Step("b", "[2/2] RUN make", StepState.RUNNING, NOW),
    Step("a", "[1/2] FROM base", StepState.CACHED, NOW, NOW),
    Written("b", Line(NOW, "cc -c a.c")),
    Step("a", "[1/2] FROM base", StepState.CACHED, NOW, LATER),
    Step("b", "[2/2] RUN make", StepState.FAILED, NOW, LATER, "exit code: 2"),
    done(outcome=Outcome.FAILED, name="app", platforms=("linux/amd64",)),
)


def tell(prober: Told, *, as_json: bool = False) -> int:
    return build_steps.steps(host("amd-1"), prober, record(), now=lambda: LATER, as_json=as_json)  # type: ignore[arg-type]  # scripted


def test_the_steps_of_a_build_as_they_begin_and_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell(Told(*BUILT)) == 0
    assert capsys.readouterr().out.splitlines() == [
        "#1 [2/2] RUN make",
        "#2 [1/2] FROM base",
        "#2 cached",
        "#1   cc -c a.c",
        "#1 failed, 1 min 30 s: exit code: 2",
        "app, linux/amd64 on amd-1: failed, 1 min 30 s",
    ]


def test_the_shape_of_a_builds_steps_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell(Told(*BUILT), as_json=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["ref"], told["state"], told["steps"]) == ("r1", "failed", {"done": 4, "total": 4, "cached": 3})
    assert told["log"] == [
        {"step": "[1/2] FROM base", "state": "cached", "seconds": 90.0, "reason": None, "lines": []},
        {
            "step": "[2/2] RUN make",
            "state": "failed",
            "seconds": 90.0,
            "reason": "exit code: 2",
            "lines": [{"time": "2030-05-01T12:00:00+00:00", "line": "cc -c a.c"}],
        },
    ]


def test_a_node_that_is_lost_while_it_tells_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell(Told(record(), fails=True)) == 1
    assert capsys.readouterr().err.splitlines() == ["amd-1: TCP: connection reset", "    try: fleet status"]


def test_steps_are_those_of_one_build(run: Run) -> None:
    for more in (("-f",), ("-n", "3")):
        code, _, told = run("builds", "--steps", "abc", *more)
        assert code == 2
        assert "-f and -n do not go with it" in told
