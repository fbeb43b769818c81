"""A node's root directory that has nothing but what is put there: no shell, no libc, no Python."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.cni.node import REAL_PLUGINS, Node

BIN = Path("/opt/cni/bin")
CONF = Path("/etc/cni/net.d")
_ENTER = """
set -e
root=$1; state=$2; shift 2
mkdir -p "$root/proc" "$root/sys" "$root/run/netns" "$root$state"
mount --rbind /proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /run/netns "$root/run/netns"
mount --bind "$state" "$root$state"
exec chroot "$root" "$@"
"""
"""In mount namespaces of its own: nothing is to be taken away afterwards."""


@dataclass
class BareNode(Node):
    """A node whose plugins run with `root` as their root directory. The state of both is in `base`, by one path."""

    root: Path = Path()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.bin = BIN

    def command(self, plugin: str = "flannel") -> list[str]:
        return self.inside(str(BIN / plugin))

    def inside(self, *command: str) -> list[str]:
        # `ip netns exec` mounts a /sys of the namespace, which the root directory then gets.
        enter = ["unshare", "--mount", "sh", "-c", _ENTER, "sh", str(self.root), str(self.base), *command]
        return ["ip", "netns", "exec", self.space.name, *enter]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.inside(*command), env={}, executable=shutil.which("ip"), capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip


def add_plugin(root: Path, name: str, launcher: Path) -> None:
    """One of the real plugins, with its libc in a folder that nobody but the launcher of this plugin looks into.

    Debian links them dynamically, so they bring along what the node does not have.
    """
    folder = root / "plugins" / name
    folder.mkdir(parents=True)
    shutil.copy(launcher, folder / name)
    parts = folder / "flannel.d"
    parts.mkdir()
    shutil.copy(REAL_PLUGINS / name, parts / name)
    listed = subprocess.run(["ldd", REAL_PLUGINS / name], capture_output=True, text=True, check=True).stdout
    files = re.findall(r"(/\S+) \(0x", listed)
    assert files, listed
    for file in files:
        shutil.copy(os.path.realpath(file), parts / Path(file).name)
    loader = next(Path(file).name for file in files if Path(file).name.startswith("ld"))
    (parts / "start").write_text(f"./{loader}\n--library-path\n.\n./{name}\n".replace("\n.\n", "\n./\n"))
    place = root / BIN.relative_to("/") / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(f"/plugins/{name}/{name}")
