"""Kernel settings below /proc/sys, as entries."""

import errno
import re
from collections.abc import Sequence
from pathlib import Path

from flanneld_py.model.entry import Desired, Entry, Failure, Key, Op, Sysctl, Verb

_ROOT = Path("/proc/sys")
_PATH = re.compile(r"[\w.@:+=-]+(/[\w.@:+=-]+)+", re.ASCII)
_CANNOT = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


class SysctlApplier:
    """Sysctl entries of the network namespace that we run in. `root` is /proc/sys but for tests.

    A path has slashes (`net/ipv4/conf/flannel.1/rp_filter`), since names of devices have dots. A setting cannot be
    deleted: it goes with its device, and otherwise keeps its value.
    """

    handles: frozenset[type[Entry]] = frozenset({Sysctl})

    def __init__(self, *, root: Path = _ROOT) -> None:
        self._root = root

    async def known(self, desired: Desired) -> dict[Key, Entry]:
        """Those of the desired settings that can be read, with their values; runs of blanks as one blank."""
        known: dict[Key, Entry] = {}
        for entry in desired.entries.values():
            if isinstance(entry, Sysctl) and (value := self._read(entry)) is not None:
                known[entry.key] = Sysctl(entry.path, value, entry.dev)
        return known

    async def apply(self, ops: Sequence[Op]) -> list[Failure]:
        failures = (self._write(op) for op in ops)
        return [refused for refused in failures if refused is not None]

    def _read(self, entry: Sysctl) -> str | None:
        if not _is_below_root(entry.path):
            return None
        try:
            return " ".join((self._root / entry.path).read_text().split())
        except (OSError, ValueError):
            return None

    def _write(self, op: Op) -> Failure | None:
        entry = op.entry
        if not isinstance(entry, Sysctl):
            raise TypeError(f"{entry} is not a sysctl")
        if op.verb is Verb.DELETE or self._read(entry) == entry.value:
            return None
        if not _is_below_root(entry.path):
            return Failure(op, "not a path below /proc/sys", errno=errno.EINVAL, cannot=True)
        try:
            with (self._root / entry.path).open("r+") as file:  # never makes one, as "w" would on a fake root
                file.write(entry.value)
        except OSError as err:
            return _failure(op, entry, err)
        return None


def _is_below_root(path: str) -> bool:
    return bool(_PATH.fullmatch(path)) and not {".", ".."} & set(path.split("/"))


def _failure(op: Op, entry: Sysctl, err: OSError) -> Failure:
    code = err.errno or 0
    reason = err.strerror or str(err)
    if code in _CANNOT:
        hint = f"set it on the host: sysctl -w {entry.path}={_quoted(entry.value)}"
        return Failure(op, reason, errno=code, hint=hint, cannot=True)
    if code == errno.ENOENT and entry.dev is not None:
        return Failure(op, f"{reason}: is there a device {entry.dev}?", errno=code)
    if code == errno.ENOENT:
        return Failure(op, "this kernel has no such setting", errno=code, cannot=True)
    return Failure(op, reason, errno=code)


def _quoted(value: str) -> str:
    return f"'{value}'" if " " in value else value
