"""Images that this machine's docker buildx fetches from their registries, kept in a cache folder as OCI layouts."""

from __future__ import annotations

import base64
import json
import os
import shutil
import tempfile
import threading
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from fleet import buildx
from fleet.adapters.builder import capture, last_line, version
from fleet.adapters.cache_folder import cache_folder
from fleet.errors import BuilderError, HostError
from fleet.model.facts import Stage
from fleet.parallel import Gathering, gather

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from fleet.containers.images import Archive
    from fleet.manifests import Published
    from fleet.model.facts import Offer

ASK_TIMEOUT = 60.0
"""Seconds for a registry to say what it has."""

FETCH_TIMEOUT = 3600.0
"""Seconds for an image to arrive."""

_BUILDER = "fetch"
_KEPT = 4
"""Images in the cache: two architectures, before and after an upgrade."""


class BuildxRegistry:
    """Registries as `docker buildx imagetools` reaches them, with the user's credentials.

    How to reach them is what the fleet's buildkitd.toml says of them (mirrors, http, ca).
    """

    def __init__(self, registries: Mapping[str, Any], directory: Path | None = None) -> None:
        """`registries`: `buildkit.config.registry`; `directory`: of the cache."""
        self._registries, self._directory = registries, directory or cache_folder() / "images"
        self._fetching = threading.Lock()

    def offer(self, reference: str, arch: str) -> Offer:
        """What there is of that image for linux on an architecture; raises HostError."""
        from fleet.containers import images  # slow to import, for its models, and seldom needed

        inspect = ("imagetools", "inspect", "--format")
        _check_version()
        with self._buildx() as run, _readable(reference):
            digest, only = images.manifest_for(run(*inspect, "{{json .Manifest}}", reference), arch)
            exactly = f"{images.repository(reference)}@{digest}"
            if only and (arches := json.loads(run(*inspect, "{{json .Image}}", exactly)).get("architecture")) != arch:
                raise ValueError(f"it is for {arches} only, not for {arch}")
            return images.offer(reference, digest, run("imagetools", "inspect", "--raw", exactly))

    def archive(self, offer: Offer, tag: str) -> Archive:
        """Fetch what was offered, unless it has been before, as an archive under one tag; raises HostError."""
        from fleet.containers import images

        layout = self._directory / offer.digest.partition(":")[2]
        try:
            with self._fetching:
                if layout.exists():
                    os.utime(layout)
                else:
                    self._fetch(offer, layout)
            manifest = _blob(layout, offer.digest).read_bytes()
        except OSError as error:
            raise HostError(Stage.IMAGE, f"{error.filename}: {error.strerror}", "make room for it here") from error

        def open_blob(digest: str, size: int) -> BinaryIO:
            file = _blob(layout, digest)
            if not file.is_file() or file.stat().st_size != size:
                raise HostError(Stage.IMAGE, f"{file} is damaged", f"rm -r {layout}, then run it again")
            return file.open("rb")

        with _readable(offer.reference):
            return images.archive(offer.digest, manifest, tag, open_blob)

    def published(self, reference: str) -> Published:
        """All that there is under that name; raises HostError."""
        from fleet import manifests
        from fleet.containers.images import repository

        inspect = ("imagetools", "inspect")
        with self._buildx() as run:
            top = run(*inspect, "--raw", reference)
            try:
                images, attestations = manifests.digests(top)
                place = repository(reference)
                raw = {
                    digest: partial(run, *inspect, "--raw", f"{place}@{digest}") for digest in (*images, *attestations)
                }
                exact = {digest: f"{place}@{digest}" for digest in images} or {reference: reference}
                said = {key: partial(run, *inspect, "--format", "{{json .Image}}", name) for key, name in exact.items()}
                asking = Gathering(raw)
                return manifests.published(reference, top, asking.results(), gather(said))
            except ValueError as error:
                remedy = f"docker buildx imagetools inspect {reference}"
                raise HostError(Stage.IMAGE, f"{reference}: {error}", remedy) from error

    def name(self, names: Sequence[str], sources: Sequence[str]) -> str:
        """Let these names mean an image of all platforms that the sources have; its digest. Raises HostError."""
        tags = (word for name in names for word in ("--tag", name))
        with self._buildx() as run, tempfile.TemporaryDirectory() as folder:
            said = Path(folder) / "metadata.json"
            run("imagetools", "create", "--progress", "quiet", "--metadata-file", str(said), *tags, *sources)
            return str(json.loads(said.read_text())["containerimage.descriptor"]["digest"])

    def _fetch(self, offer: Offer, layout: Path) -> None:
        from fleet.containers.images import repository

        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=self._directory) as draft, self._buildx() as run:
            exactly = f"{repository(offer.reference)}@{offer.digest}"
            create = ("imagetools", "create", "--progress", "quiet", "--prefer-index=false")
            run(*create, "--tag", f"oci-layout://{draft}/layout:image", exactly)
            with suppress(FileExistsError, NotADirectoryError):
                (Path(draft) / "layout").rename(layout)
        newest = sorted(self._directory.iterdir(), key=lambda entry: entry.stat().st_mtime, reverse=True)
        for entry in newest[_KEPT:]:
            shutil.rmtree(entry, ignore_errors=True)

    @contextmanager
    def _buildx(self) -> Iterator[Callable[..., str]]:
        """Runs buildx with a builder that knows the registries and is never asked to build."""
        with tempfile.TemporaryDirectory() as folder:
            # `docker buildx create` would want a Docker Engine here. Whoever copies images only reads this file.
            stored = {"Name": _BUILDER, "Driver": "docker-container", "Nodes": [self._node()]}
            (Path(folder) / "instances").mkdir()
            (Path(folder) / "instances" / _BUILDER).write_text(json.dumps(stored))
            environment = os.environ | {"BUILDX_CONFIG": folder} | self._trusted(Path(folder))

            def run(*arguments: str) -> str:
                timeout = FETCH_TIMEOUT if "create" in arguments else ASK_TIMEOUT
                try:
                    done = capture(("--builder", _BUILDER, *arguments), environment, timeout)
                except BuilderError as error:
                    raise HostError(Stage.IMAGE, error.message, error.remedy) from error
                if done.returncode != 0:
                    raise HostError(
                        Stage.IMAGE,
                        f"this machine cannot get {arguments[-1]}: {last_line(done.stderr)}",
                        f"docker buildx imagetools inspect {arguments[-1]}; if it is private: docker login here",
                    )
                return done.stdout

            yield run

    def _node(self) -> Mapping[str, Any]:
        import tomli_w

        config = tomli_w.dumps({"registry": {name: _reached(entry) for name, entry in self._registries.items()}})
        files = {"buildkitd.toml": base64.b64encode(config.encode()).decode()}
        return {"Name": _BUILDER, "Endpoint": "unix:///nowhere", "Files": files}

    def _trusted(self, folder: Path) -> dict[str, str]:
        """For `ca`, which buildx passes over when it copies images; Go trusts what lies in these folders, too."""
        authorities = [file for entry in self._registries.values() for file in entry.get("ca", ())]
        if not authorities:
            return {}
        for number, file in enumerate(authorities):
            with suppress(OSError):
                (folder / f"{number}.pem").write_bytes(Path(file).read_bytes())
        return {"SSL_CERT_DIR": os.pathsep.join(filter(None, (os.environ.get("SSL_CERT_DIR"), str(folder))))}


def _check_version() -> None:
    try:
        found = version()
    except BuilderError as error:
        raise HostError(Stage.IMAGE, error.message, error.remedy) from error
    if found < buildx.FETCHES:
        shown = ".".join(map(str, found))
        raise HostError(Stage.IMAGE, f"docker buildx {shown} here cannot fetch images", "install 0.33 or newer")


def _reached(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    return {key: value for key, value in entry.items() if key in {"mirrors", "http", "insecure"}}


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


@contextmanager
def _readable(reference: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise HostError(Stage.IMAGE, f"{reference}: {error}", "correct buildkit.image") from error
