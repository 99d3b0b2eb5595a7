"""What project a build context belongs to: its git remote and its place in there, read without running git."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.builds import repository

if TYPE_CHECKING:
    from collections.abc import Iterator

_CI_BRANCH = ("GITHUB_HEAD_REF", "GITHUB_REF_NAME", "CI_COMMIT_REF_NAME", "BRANCH_NAME")
"""Where CI checks out a commit rather than a branch, it says here which."""

_REMOTE = ("http://", "https://", "git://", "ssh://", "git@", "github.com/", "docker-image://")


def project(context: str) -> str:
    """One name for the same project on every machine, without credentials; without git it is the folder's place."""
    if context.startswith(_REMOTE):
        return repository(context).partition("#")[0]
    folder = Path("." if context == "-" else context).resolve()
    for above in (folder, *folder.parents):
        if remote := _remote(above / ".git"):
            inside = folder.relative_to(above).as_posix()
            return repository(remote) if inside == "." else f"{repository(remote)}/{inside}"
    return str(folder)


def branches(context: str) -> tuple[str, ...]:
    """The branch that is checked out, as CI or git names it, and the remote's default; main where that is not known."""
    found = [os.environ[name] for name in _CI_BRANCH if os.environ.get(name)][:1]
    default = "main"
    folder = Path("." if context == "-" else context).resolve()
    for above in (folder, *folder.parents):
        if git := _git(above / ".git"):
            found = found or [*_head(git[0] / "HEAD", "refs/heads/")]
            default = next(_head(git[1] / "refs/remotes/origin/HEAD", "refs/remotes/origin/"), default)
            break
    return tuple(dict.fromkeys((*found, default)))


def _head(file: Path, prefix: str) -> Iterator[str]:
    try:
        ref = file.read_text().removeprefix("ref:").strip()
    except (OSError, ValueError):
        return
    if ref.startswith(prefix):
        yield ref.removeprefix(prefix)


def _git(git: Path) -> tuple[Path, Path] | None:
    """Where git keeps what belongs to a checkout, and what to all of its worktrees; None: it is none."""
    try:
        if git.is_file():  # a worktree or a submodule
            git = git.parent / git.read_text().removeprefix("gitdir:").strip()
        common = git / "commondir"
        place = git / common.read_text().strip() if common.exists() else git
        return (git, place) if (git / "HEAD").exists() else None
    except (OSError, ValueError):
        return None


def _remote(git: Path) -> str | None:
    """The URL of the remote `origin`, else of the first, of what `.git` belongs to; None: there is none."""
    found = _git(git)
    try:
        config = (found[1] / "config").read_text(errors="replace") if found else ""
    except OSError:
        return None
    remotes = dict(_remotes(config.splitlines()))
    return remotes.get("origin", next(iter(remotes.values()), None))


def _remotes(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Name and URL of each remote, in git's own form of configuration."""
    name = None
    for line in map(str.strip, lines):
        if line.startswith("["):
            section = line.strip("[]").split('"')
            name = section[1] if section[0].strip().lower() == "remote" and len(section) > 1 else None
        key, _, value = line.partition("=")
        if name is not None and key.strip().lower() == "url" and value.strip():
            yield name, value.strip().strip('"')
            name = None
