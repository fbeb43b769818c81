"""What the kernel tells a runtime that watches directories."""

import ctypes
import os
import struct
from pathlib import Path
from typing import ClassVar


class Inotify:
    """What a runtime that watches a directory is told: (event, name). Names of events as in inotify(7)."""

    EVENTS: ClassVar = {0x2: "MODIFY", 0x40: "MOVED_FROM", 0x80: "MOVED_TO", 0x200: "DELETE"}

    def __init__(self, *folders: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        mask = sum(self.EVENTS)
        self.folders = {libc.inotify_add_watch(self.fd, str(folder).encode(), mask): folder for folder in folders}
        assert -1 not in self.folders

    def read(self) -> list[tuple[str, Path]]:
        data = os.read(self.fd, 1 << 20)
        found = []
        while data:
            watch, mask, _, size = struct.unpack_from("iIII", data)
            name = data[16 : 16 + size].rstrip(b"\0").decode()
            if mask in self.EVENTS:
                found.append((self.EVENTS[mask], self.folders[watch] / name))
            data = data[16 + size :]
        return found
