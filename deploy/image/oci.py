"""A root file system as an OCI image archive: the same bytes from the same files, whenever and wherever it is made.

Layout and JSON are those of the OCI Image Format Specification 1.1 (image-layout.md, layer.md, config.md, manifest.md);
the archive is what `ctr images import`, `podman load` and `skopeo copy oci-archive:` read.
"""

import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_MEDIA: Final = "application/vnd.oci.image."
_MODE: Final = 0o644


@dataclass(frozen=True, slots=True)
class Image:
    """`reference`: its full name, such as docker.io/name/name:tag; `epoch`: Unix seconds, the time of every file."""

    reference: str
    architecture: str
    variant: str | None
    entrypoint: Sequence[str]
    environment: Mapping[str, str]
    labels: Mapping[str, str]
    epoch: int


@dataclass(frozen=True, slots=True)
class Blob:
    media_type: str
    content: bytes

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": f"sha256:{self.digest}", "size": len(self.content)}


def layer(root: Path, epoch: int) -> bytes:
    """The files below `root` as a tar archive, sorted, owned by root, all of one time. Hard links become files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path in _paths(root):
            member = archive.gettarinfo(path, path.relative_to(root).as_posix())
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mtime = epoch
            if member.islnk():
                member.type, member.linkname, member.size = tarfile.REGTYPE, "", path.stat().st_size
            if member.isreg():
                with path.open("rb") as file:
                    archive.addfile(member, file)
            else:
                archive.addfile(member)
    return buffer.getvalue()


def _paths(folder: Path) -> Iterator[Path]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        yield folder / entry.name
        if stat.S_ISDIR(entry.stat(follow_symlinks=False).st_mode):
            yield from _paths(folder / entry.name)


def archive(image: Image, tar: bytes) -> bytes:
    """The image's archive, its one layer being `tar`."""
    packed = Blob(_MEDIA + "layer.v1.tar+gzip", gzip.compress(tar, compresslevel=9, mtime=0))
    config = Blob(_MEDIA + "config.v1+json", _json(_config(image, tar)))
    manifest = Blob(
        _MEDIA + "manifest.v1+json",
        _json(
            {
                "schemaVersion": 2,
                "mediaType": _MEDIA + "manifest.v1+json",
                "config": config.descriptor,
                "layers": [packed.descriptor],
            }
        ),
    )
    files = {f"blobs/sha256/{blob.digest}": blob.content for blob in (packed, config, manifest)}
    files["index.json"] = _json(_index(image, manifest))
    files["oci-layout"] = _json({"imageLayoutVersion": "1.0.0"})
    return _tar(files, image.epoch)


def _config(image: Image, tar: bytes) -> dict[str, Any]:
    return {
        "architecture": image.architecture,
        **({} if image.variant is None else {"variant": image.variant}),
        "os": "linux",
        "config": {
            "Env": [f"{name}={value}" for name, value in sorted(image.environment.items())],
            "Entrypoint": list(image.entrypoint),
            "Labels": dict(sorted(image.labels.items())),
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}"]},
    }


def _index(image: Image, manifest: Blob) -> dict[str, Any]:
    platform = {"architecture": image.architecture, "os": "linux"}
    if image.variant is not None:
        platform["variant"] = image.variant
    names = {
        "io.containerd.image.name": image.reference,
        "org.opencontainers.image.ref.name": image.reference.rpartition(":")[2],
    }
    return {
        "schemaVersion": 2,
        "mediaType": _MEDIA + "index.v1+json",
        "manifests": [{**manifest.descriptor, "platform": platform, "annotations": names}],
    }


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _tar(files: Mapping[str, bytes], epoch: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as out:
        for name, content in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode = len(content), epoch, _MODE
            out.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
