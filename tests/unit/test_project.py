"""What project a build context belongs to: the same on every machine, and without credentials."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fleet.adapters.project import branches, project


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=anna", "-c", "user.email=anna@example.com", "-c", "protocol.file.allow=always")
    subprocess.run(("git", "-C", str(folder), *identity, *arguments), check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout without a remote, of one commit, with a folder in it."""
    (tmp_path / "app/service").mkdir(parents=True)
    git(tmp_path / "app", "init", "-q")
    git(tmp_path / "app", "commit", "-q", "--allow-empty", "-m", "first")
    return tmp_path / "app"


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/acme/app.git",
        "https://anna:secret@example.com/acme/app",
        "ssh://git@example.com/acme/app.git",
        "git@example.com:acme/app.git",
    ],
)
def test_every_way_to_a_repository_is_one_project(checkout: Path, url: str) -> None:
    git(checkout, "remote", "add", "upstream", "https://example.com/other")
    git(checkout, "remote", "add", "origin", url)
    assert project(str(checkout)) == "example.com/acme/app"
    assert project(str(checkout / "service")) == "example.com/acme/app/service"


def test_a_remote_of_another_name_will_do(checkout: Path) -> None:
    git(checkout, "remote", "add", "upstream", "https://example.com/other")
    assert project(str(checkout)) == "example.com/other"


def test_a_worktree_and_a_submodule_know_their_remotes(checkout: Path, tmp_path: Path) -> None:
    git(checkout, "remote", "add", "origin", "https://example.com/acme/app")
    git(checkout, "worktree", "add", "-q", str(tmp_path / "tree"))
    assert project(str(tmp_path / "tree")) == "example.com/acme/app"
    outer = tmp_path / "outer"
    outer.mkdir()
    git(outer, "init", "-q")
    git(outer, "remote", "add", "origin", "https://example.com/acme/outer")
    git(outer, "submodule", "add", "-q", str(checkout), "inner")
    git(outer / "inner", "remote", "set-url", "origin", "https://example.com/acme/inner")
    assert project(str(outer / "inner")) == "example.com/acme/inner"


def test_without_a_remote_it_is_the_place_of_the_folder(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert project(str(checkout)) == str(checkout)
    (tmp_path / "link").symlink_to(checkout)
    assert project(str(tmp_path / "link")) == str(checkout)
    monkeypatch.chdir(checkout)
    assert project(".") == project("-") == str(checkout)


@pytest.mark.parametrize("git_file", ["gitdir: /nowhere", "", "\0"])
def test_a_broken_checkout_is_no_repository(tmp_path: Path, git_file: str) -> None:
    (tmp_path / ".git").write_text(git_file)
    assert project(str(tmp_path)) == str(tmp_path)


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ("https://anna:secret@example.com/acme/app.git#main", "example.com/acme/app"),
        ("git@github.com:acme/app.git#v1:sub", "github.com/acme/app"),
        ("https://example.com/context.tar.gz?token=secret", "example.com/context.tar.gz"),
    ],
)
def test_a_remote_context_is_its_own_project(context: str, expected: str) -> None:
    assert project(context) == expected


def test_the_branch_is_gits_unless_ci_says_another(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_HEAD_REF", "GITHUB_REF_NAME", "CI_COMMIT_REF_NAME", "BRANCH_NAME"):
        monkeypatch.delenv(name, raising=False)
    git(checkout, "checkout", "-q", "-b", "feature/x")
    assert branches(str(checkout / "service")) == ("feature/x", "main")
    git(checkout, "update-ref", "refs/remotes/origin/trunk", "HEAD")
    git(checkout, "symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/trunk")
    assert branches(str(checkout)) == ("feature/x", "trunk")
    git(checkout, "checkout", "-q", "--detach")
    assert branches(str(checkout)) == ("trunk",)
    monkeypatch.setenv("GITHUB_REF_NAME", "release")
    assert branches(str(checkout)) == ("release", "trunk")
    assert branches("https://example.com/app.git") == ("release", "main")
