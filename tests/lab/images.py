"""The container images of the lab's registry, as OCI layouts (opencontainers/image-spec, image-layout.md)."""

import copy
import gzip
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.lab.artefacts import Store
from tests.lab.settings import BUILDKIT_IMAGE, FILES, Arch
from tests.lab.shell import run, succeeds

_ARCHES: tuple[Arch, ...] = ("amd64", "arm64")
_OFFICIAL = f"docker.io/{BUILDKIT_IMAGE}"
_SHARED_OBJECTS: dict[Arch, tuple[str, ...]] = {  # of Debian's runc, which becomes buildkit-runc
    "amd64": (
        "usr/lib64/ld-linux-x86-64.so.2",
        "usr/lib/x86_64-linux-gnu/libc.so.6",
        "usr/lib/x86_64-linux-gnu/libseccomp.so.2",
    ),
    "arm64": (
        "usr/lib/ld-linux-aarch64.so.1",
        "usr/lib/aarch64-linux-gnu/libc.so.6",
        "usr/lib/aarch64-linux-gnu/libseccomp.so.2",
    ),
}
_TYPE = "application/vnd.oci.image"
_FORMAT = "1"  # part of the key of every image: raise it when the way they are put together changes

Json = dict[str, Any]
Entries = dict[str, Path | str | None]  # path in a layer -> file to copy, target of a link, or None: a directory


class Layout:
    """An OCI layout on disk, holding one multi-platform image."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def blob(self, digest: str) -> bytes:
        """A blob by its digest."""
        return (self.path / "blobs" / digest.replace(":", "/")).read_bytes()

    def document(self, digest: str) -> Json:
        """A JSON blob by its digest."""
        document: Json = json.loads(self.blob(digest))
        return document

    def add(self, content: bytes, media_type: str) -> Json:
        """Store a blob and return its descriptor."""
        digest = hashlib.sha256(content).hexdigest()
        target = self.path / "blobs/sha256" / digest
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    def add_document(self, document: Json, media_type: str) -> Json:
        """Store a JSON blob and return its descriptor."""
        return self.add(json.dumps(document, sort_keys=True).encode(), media_type)

    @property
    def index(self) -> Json:
        """The descriptor of the multi-platform index."""
        (descriptor,) = json.loads((self.path / "index.json").read_text(encoding="utf-8"))["manifests"]
        found: Json = descriptor
        return found

    @property
    def digest(self) -> str:
        """The digest that a registry will show for the image."""
        return str(self.index["digest"])

    def finish(self, manifests: list[Json], media_type: str = f"{_TYPE}.index.v1+json") -> None:
        """Write the index over these manifests as the layout's only image."""
        index = {"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}
        root = {"schemaVersion": 2, "manifests": [self.add_document(index, media_type)]}
        (self.path / "index.json").write_text(json.dumps(root), encoding="utf-8")
        (self.path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}', encoding="utf-8")


def buildkit(store: Store, daemons: Callable[[Arch], Path], roots: Callable[[Arch], Path]) -> Layout:
    """moby/buildkit: the official image where a public registry answers, else one of the lab's own making."""
    official = next(store.home.cache.glob("image-official-*"), None)
    own = next(store.home.cache.glob("image-own-*"), None)
    if official or (not own and succeeds("skopeo", "inspect", "--raw", f"docker://{_OFFICIAL}", timeout=5)):
        return Layout(store.keep("image-official", BUILDKIT_IMAGE, 60, _copy_official))
    sources = {arch: (daemons(arch), roots(arch)) for arch in _ARCHES}
    certificates = roots("amd64") / "etc/ssl/certs/ca-certificates.crt"  # configured, unlike the arm64 root
    names = [path.name for pair in sources.values() for path in pair]

    def make(draft: Path) -> None:
        layout = Layout(draft)
        manifests = []
        for arch, (programs, root) in sources.items():
            binaries: Entries = {f"usr/bin/{path.name}": path for path in programs.iterdir()}
            layers = [_system_layer(arch, root, certificates), binaries]
            config = {
                "Entrypoint": ["buildkitd"],
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Volumes": {"/var/lib/buildkit": {}},
            }
            manifests.append(_manifest(layout, arch, layers, config))
        layout.finish(manifests)

    return Layout(store.keep("image-own", f"{_FORMAT} {BUILDKIT_IMAGE} {names}", 20, make))


def base(store: Store, roots: Callable[[Arch], Path]) -> Layout:
    """lab/base: a static busybox under all its names, for both architectures."""
    sources = {arch: roots(arch) for arch in _ARCHES}

    def make(draft: Path) -> None:
        layout = Layout(draft)
        layout.finish([_manifest(layout, arch, [_busybox(root)], {"Cmd": ["sh"]}) for arch, root in sources.items()])

    return Layout(store.keep("image-base", f"{_FORMAT} {[root.name for root in sources.values()]}", 3, make))


def gateway(store: Store, root: Path) -> Layout:
    """lab/haproxy: Debian's HAProxy, run as the user of the official image; for amd64, where the lab puts it."""
    binary = root / "usr/sbin/haproxy"

    def make(draft: Path) -> None:
        layout = Layout(draft)
        loader = "/lib64/ld-linux-x86-64.so.2"
        listed = run("chroot", root, loader, "--list", "/usr/sbin/haproxy").split()
        objects = {loader, *(word for word in listed if word.startswith("/lib/"))}
        entries: Entries = {f"usr{path}": (root / f"usr{path}").resolve() for path in objects}
        entries |= {"usr/sbin/haproxy": binary, "lib": "usr/lib", "lib64": "usr/lib64"}
        config = {"Entrypoint": ["haproxy"], "Env": ["PATH=/usr/sbin"], "User": "99:99", "StopSignal": "SIGUSR1"}
        layout.finish([_manifest(layout, "amd64", [entries], config)])

    return Layout(store.keep("image-gateway", f"{_FORMAT} {root.name}", 3, make))


def binfmt(store: Store, root: Path, emulator: Path) -> Layout:
    """lab/binfmt: a busybox and a QEMU, and a script with the options of tonistiigi/binfmt; for amd64."""
    script = FILES / "binfmt"

    def make(draft: Path) -> None:
        layout = Layout(draft)
        entries = _busybox(root) | {"usr/bin/qemu-aarch64": emulator, "usr/bin/binfmt": script}
        config = {"Entrypoint": ["binfmt"], "Env": ["PATH=/usr/bin:/bin"]}
        layout.finish([_manifest(layout, "amd64", [entries], config)])

    made_from = f"{_FORMAT} {root.name} {emulator.parent.name} {script.read_text()}"
    return Layout(store.keep("image-binfmt", made_from, 3, make))


def upgrade(store: Store, original: Layout) -> Layout:
    """The same image under another digest: one more label in every platform's configuration."""

    def make(draft: Path) -> None:
        shutil.copytree(original.path, draft, dirs_exist_ok=True)
        layout = Layout(draft)
        index = original.document(original.digest)
        layout.finish([_relabelled(layout, manifest) for manifest in index["manifests"]], index["mediaType"])

    return Layout(store.keep("image-upgrade", f"{_FORMAT} {original.digest}", 1, make))


def _relabelled(layout: Layout, descriptor: Json) -> Json:
    manifest = layout.document(descriptor["digest"])
    config = layout.document(manifest["config"]["digest"])
    config.setdefault("config", {}).setdefault("Labels", {})["lab.revision"] = "1"
    manifest["config"] = layout.add_document(config, manifest["config"]["mediaType"])
    return copy.deepcopy(descriptor) | layout.add_document(manifest, descriptor["mediaType"])


def _copy_official(draft: Path) -> None:
    run("skopeo", "copy", "--all", f"docker://{_OFFICIAL}", f"oci:{draft}")


def _system_layer(arch: Arch, root: Path, certificates: Path) -> Entries:
    """busybox, certificates, and Debian's runc with its shared libraries."""
    return _busybox(root) | {
        "usr/bin/buildkit-runc": root / "usr/sbin/runc",
        **{path: (root / path).resolve() for path in _SHARED_OBJECTS[arch]},
        "lib": "usr/lib",
        "lib64": "usr/lib64",
        "etc/ssl/certs/ca-certificates.crt": certificates,
    }


def _busybox(root: Path) -> Entries:
    applets = (FILES / "busybox-applets").read_text(encoding="utf-8").split()
    links: Entries = {f"bin/{applet}": "busybox" for applet in applets}
    return links | {"bin/busybox": root / "usr/bin/busybox", "tmp": None}


def _manifest(layout: Layout, arch: Arch, layers: Iterable[Entries], config: Json) -> Json:
    """Store an image of one platform and return its descriptor for the index."""
    archives = [_archive(entries) for entries in layers]
    platform = {"os": "linux", "architecture": arch}
    document = platform | {
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in archives]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_TYPE}.manifest.v1+json",
        "config": layout.add_document(document, f"{_TYPE}.config.v1+json"),
        "layers": [
            layout.add(gzip.compress(tar, compresslevel=4, mtime=0), f"{_TYPE}.layer.v1.tar+gzip") for tar in archives
        ],
    }
    return layout.add_document(manifest, f"{_TYPE}.manifest.v1+json") | {"platform": platform}


def _archive(entries: Entries) -> bytes:
    """A tar that depends on nothing but its entries: the same image has the same digest on every machine."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, source in sorted(entries.items()):
            member = tarfile.TarInfo(name)
            if isinstance(source, Path):
                member.mode, member.size = 0o755, source.stat().st_size
                with source.open("rb") as file:
                    tar.addfile(member, file)
                continue
            if source is None:
                member.type, member.mode = tarfile.DIRTYPE, 0o1777
            else:
                member.type, member.linkname = tarfile.SYMTYPE, source
            tar.addfile(member)
    return buffer.getvalue()
