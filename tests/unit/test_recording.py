"""Recordings: what is written is read again, also when it was broken off, and nothing private is in it."""

from __future__ import annotations

import gzip
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from fleet.errors import UsageError
from fleet.model.snapshot import Snapshot
from fleet.model.spec import KeyPair, SshSpec, TlsSpec
from fleet.observing.recording import Recorder, Recording, Replay
from tests.support.canned import SMALL, day, many
from tests.support.values import NOW


def record(path: Path, *snapshots: Snapshot) -> Path:
    with Recorder(path, SMALL) as recorder:
        for snapshot in snapshots:
            recorder.write(snapshot)
    return path


def at(seconds: float) -> Snapshot:
    return replace(day(), taken=NOW + timedelta(seconds=seconds))


def shown(snapshot: Snapshot) -> object:
    return snapshot.taken, snapshot.nodes, snapshot.problems, {n: s.drift for n, s in snapshot.sightings.items()}


def test_what_is_recorded_is_read_again(tmp_path: Path) -> None:
    recording = Recording.open(record(tmp_path / "day.gz", at(0), at(2)))
    assert [host.name for host in recording.spec.hosts] == [host.name for host in SMALL.hosts]
    assert list(map(shown, recording.snapshots())) == [shown(at(0)), shown(at(2))]


def test_a_recording_can_be_read_while_it_is_made_and_when_it_was_broken_off(tmp_path: Path) -> None:
    path = tmp_path / "day.gz"
    with Recorder(path, SMALL) as recorder:
        recorder.write(at(0))
        recorder.write(at(2))
        so_far = path.read_bytes()
    path.write_bytes(so_far)
    assert len(list(Recording.open(path).snapshots())) == 2
    path.write_bytes(so_far[:-20])
    assert len(list(Recording.open(path).snapshots())) == 1


def test_nothing_of_the_way_to_hosts_and_keys_is_kept(tmp_path: Path) -> None:
    private = replace(
        SMALL,
        hosts=tuple(replace(one, ssh=SshSpec(identity_file="/private/key")) for one in SMALL.hosts),
        tls=TlsSpec(ca=KeyPair("/private/ca", None), ca_passphrase_command=("pass", "private")),
        buildkit=replace(SMALL.buildkit, config={"dns": {"nameservers": ["private"]}}),
    )
    with Recorder(tmp_path / "day.gz", private) as recorder:
        recorder.write(day(private))
    content = gzip.decompress((tmp_path / "day.gz").read_bytes())
    assert b"private" not in content
    assert b"/vault/" not in content


def test_an_afternoon_is_small(tmp_path: Path) -> None:
    """At this size, two seconds apart, eight hours of a small fleet are some megabytes."""
    path = record(tmp_path / "day.gz", *(at(second) for second in range(200)))
    assert path.stat().st_size / 200 < 400


def test_a_thousand_nodes(tmp_path: Path) -> None:
    [back] = Recording.open(record(tmp_path / "day.gz", many(1000)[1])).snapshots()
    assert len(back.nodes) == 1000


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "day.gz").write_text("mine")
    with pytest.raises(UsageError, match="File exists"):
        Recorder(tmp_path / "day.gz", SMALL)
    assert (tmp_path / "day.gz").read_text() == "mine"


@pytest.mark.parametrize(
    "content",
    [b"", b"text", *(gzip.compress(text, mtime=0) for text in (b"", b"{}\n", b"[1"))],
    ids=["empty", "text", "nothing", "another object", "torn"],
)
def test_what_is_no_recording(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UsageError):
        Recording.open(tmp_path / "file")


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        Recording.open(tmp_path / "file")


def test_a_replay_keeps_time_and_waits_at_the_end(tmp_path: Path) -> None:
    replay = Replay(Recording.open(record(tmp_path / "day.gz", at(0), at(2), at(86400))))
    replay.faster(64)
    taken = replay.snapshots()
    assert [next(taken).taken for _ in range(3)] == [at(0).taken, at(2).taken, at(86400).taken]
    ended = threading.Thread(target=lambda: list(taken))
    ended.start()
    while not replay.ended:
        ended.join(0.01)
    assert replay.sign.startswith("REPLAY the end 2030-05-02")
    replay.stop()
    ended.join(10)
    assert not ended.is_alive()


def test_a_replay_that_is_paused_goes_on_by_steps(tmp_path: Path) -> None:
    replay = Replay(Recording.open(record(tmp_path / "day.gz", *(at(2 * n) for n in range(3)))))
    taken = replay.snapshots()
    next(taken)
    replay.step()
    assert next(taken).taken == at(2).taken
    assert replay.sign == "REPLAY paused 2030-05-01 12:00:02 UTC"
    replay.step()
    assert next(taken).taken == at(4).taken
    replay.pause()
    assert not replay.paused


@pytest.mark.parametrize(("factors", "speed"), [((2,), 2), ((2, 2, 0.5), 2), ((2,) * 20, 64), ((0.5,) * 20, 1 / 64)])
def test_speed_has_limits(tmp_path: Path, factors: tuple[float, ...], speed: float) -> None:
    replay = Replay(Recording.open(record(tmp_path / "day.gz", at(0))))
    for factor in factors:
        replay.faster(factor)
    assert replay.speed == speed
