"""Container images without a registry: what pods of a lab run, made of the host's static busybox (OCI image layout)."""

import hashlib
import io
import json
import platform
import shutil
import subprocess
import tarfile
from pathlib import Path

from flanneld_py.errors import LabError

PAUSE = "flanneld.lab/pause:1"
POD = "flanneld.lab/pod:1"
_WAIT = "trap exit TERM INT; while :; do sleep 3600 & wait $!; done"
"""The first process of a container gets no signal that it does not ask for."""
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_DIRECTORIES = ("bin", "dev", "etc", "proc", "sys", "tmp", "var")


def find_busybox() -> str:
    """A busybox that needs no library. LabError says what installs it."""
    found = shutil.which("busybox")
    if found is None or b"/ld-linux" in Path(found).read_bytes()[:4096]:
        raise LabError("there is no static busybox on PATH", hint="install it: apt install busybox-static")
    return found


def write_images(path: Path) -> None:
    """An archive with the images PAUSE and POD, as `ctr images import` takes it."""
    layer = _layer(find_busybox())
    blobs: dict[str, bytes] = {}
    commands = {PAUSE: ["/bin/sh", "-c", _WAIT], POD: ["/bin/sh", "-c", _WAIT]}
    manifests = [_image(blobs, layer, name, command) for name, command in commands.items()]
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests}
    with tarfile.open(path, "w") as tar:
        _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _add(tar, "index.json", json.dumps(index).encode())
        for digest, data in blobs.items():
            _add(tar, f"blobs/sha256/{digest}", data)


def _image(blobs: dict[str, bytes], layer: bytes, name: str, command: list[str]) -> dict[str, object]:
    """The entry of the index; its blobs are added to `blobs`."""

    def blob(kind: str, data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        media = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media, "digest": f"sha256:{digest}", "size": len(data)}

    layers = [blob("layer.v1.tar", layer)]
    config = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Entrypoint": command, "Env": [_PATH]},
        "rootfs": {"type": "layers", "diff_ids": [layers[0]["digest"]]},
    }
    entry = {"schemaVersion": 2, "config": blob("config.v1+json", json.dumps(config).encode()), "layers": layers}
    entry["mediaType"] = "application/vnd.oci.image.manifest.v1+json"
    described = blob("manifest.v1+json", json.dumps(entry).encode())
    return described | {"annotations": {"io.containerd.image.name": name}}


def _layer(busybox: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in _DIRECTORIES:
            _directory(tar, name, 0o1777 if name == "tmp" else 0o755)
        _add(tar, "bin/busybox", Path(busybox).read_bytes(), 0o755)
        listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
        for applet in listed:
            if applet != "busybox":
                _link(tar, f"bin/{applet}", "busybox")
        _add(tar, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\n")
        _add(tar, "etc/group", b"root:x:0:\n")
    return buffer.getvalue()


def _directory(tar: tarfile.TarFile, name: str, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    tar.addfile(entry)


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    tar.addfile(entry)
