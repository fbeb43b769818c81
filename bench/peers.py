"""Other people's data paths to measure beside ours: found where they are installed, or fetched into a cache."""

import argparse
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flanneld_py.errors import FlannelError

FLANNEL_VERSION = "v0.26.7"
"""The newest release whose modules resolve from the Go module proxy."""
FLANNEL_MODULE = f"github.com/flannel-io/flannel@{FLANNEL_VERSION}"
WIREGUARD_MODULE = "golang.zx2c4.com/wireguard@latest"
SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")
INSTALL = "python -m bench peers install"


def cache_directory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flanneld_py"


@dataclass(frozen=True, slots=True)
class Program:
    """An executable of somebody else. `environ`: what it needs besides."""

    path: str
    environ: Mapping[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.environ}


@dataclass(frozen=True, slots=True)
class Peer:
    """`install` puts it where `find` looks; FlannelError says why it could not."""

    name: str
    title: str
    find: Callable[[], Program | None]
    install: Callable[[], None]


def find_flannel() -> Program | None:
    return _first(os.environ.get("GO_FLANNEL"), cache_directory() / "go-flannel" / FLANNEL_VERSION / "flannel")


def find_wireguard() -> Program | None:
    return _first(_on_path("wireguard-go"), cache_directory() / "wireguard-go" / "wireguard-go")


def find_fastd() -> Program | None:
    if installed := _on_path("fastd"):
        return Program(installed)
    unpacked = cache_directory() / "fastd"
    if (program := _first(unpacked / "usr/bin/fastd")) is None:
        return None
    libraries = sorted({str(path.parent) for top in ("usr/lib", "lib") for path in (unpacked / top).rglob("*.so*")})
    return Program(program.path, {"LD_LIBRARY_PATH": ":".join(libraries)})


def install_flannel() -> None:
    # Its udp backend is C, which Go leaves out when there is no C compiler.
    if shutil.which("gcc") is None:
        raise FlannelError("flannel's udp backend needs gcc", hint="apt install gcc libc6-dev")
    _go_install(FLANNEL_MODULE, cache_directory() / "go-flannel" / FLANNEL_VERSION / "flannel", {"CGO_ENABLED": "1"})


def install_wireguard() -> None:
    _go_install(WIREGUARD_MODULE, cache_directory() / "wireguard-go" / "wireguard-go", {}, built="wireguard")


def install_fastd() -> None:
    """Unpack Debian's package and the libraries that it names. It is not installed: that would start services."""
    for tool in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise FlannelError(f"fastd comes as a Debian package, and {tool} is missing", hint="put fastd on PATH")
    listed = _run(["apt-cache", "depends", "fastd"]).splitlines()
    needed = [line.split(":", 1)[1].strip() for line in listed if line.strip().startswith("Depends:")]
    packages = ["fastd", *(name for name in needed if name != "libc6" and not name.startswith("<"))]
    home = cache_directory() / "fastd"
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent) as build:
        # The user that apt-get downloads as cannot write here, of which it would warn.
        _run(["apt-get", "-o", "APT::Sandbox::User=root", "download", "-qq", *packages], cwd=build)
        tree = Path(build) / "tree"
        for package in sorted(Path(build).glob("*.deb")):
            _run(["dpkg-deb", "-x", str(package), str(tree)])
        shutil.rmtree(home, ignore_errors=True)
        tree.rename(home)


PEERS = (
    Peer("flannel", "Go flannel (udp backend)", find_flannel, install_flannel),
    Peer("wireguard-go", "wireguard-go", find_wireguard, install_wireguard),
    Peer("fastd", "fastd", find_fastd, install_fastd),
)


def run(argv: Sequence[str]) -> int:
    """List the peers, or fetch those that are missing; 1 if one could not be had."""
    parser = argparse.ArgumentParser(prog="bench peers", description=__doc__)
    parser.add_argument("verb", nargs="?", choices=("list", "install"), default="list")
    verb = parser.parse_args(argv).verb
    complete = True
    for peer in PEERS:
        trouble = ""
        if verb == "install" and peer.find() is None:
            print(f"{peer.name}: fetching", flush=True)
            try:
                peer.install()
            except FlannelError as error:
                trouble = f": {error}"
        found = peer.find()
        complete = complete and found is not None
        print(f"{peer.name}: {found.path if found else f'missing{trouble}'}", flush=True)
    if not complete and verb == "list":
        print(f"fetch what is missing: {INSTALL}")
    return 0 if complete or verb == "list" else 1


def _first(*places: str | Path | None) -> Program | None:
    return next((Program(str(place)) for place in places if place and os.access(place, os.X_OK)), None)


def _on_path(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), *SBIN)))


def _go_install(module: str, target: Path, environ: Mapping[str, str], built: str | None = None) -> None:
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        raise FlannelError(f"{module} needs a Go toolchain", hint="install Go, or put the program on PATH")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as build:
        _run([go, "install", module], environ={**os.environ, **environ, "GOBIN": build})
        (Path(build) / (built or target.name)).replace(target)


def _run(command: Sequence[str], *, cwd: str | None = None, environ: Mapping[str, str] | None = None) -> str:
    """What it prints. FlannelError with its last line if it fails."""
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, env=environ, stdin=subprocess.DEVNULL
    )
    if result.returncode != 0:
        words = (result.stderr or result.stdout).strip().splitlines()
        raise FlannelError(f"{' '.join(command[:3])} failed: {words[-1] if words else result.returncode}")
    return result.stdout
