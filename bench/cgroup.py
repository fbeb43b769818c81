"""A control group for one process: the memory and the CPU that a container would get. cgroup v1 and v2."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flanneld_py.errors import LabError

ROOT = Path("/sys/fs/cgroup")
_PERIOD_US = 100_000


@dataclass(frozen=True, slots=True)
class Group:
    """`memory`, `cpu`: its directories, one and the same in v2."""

    memory: Path
    cpu: Path

    def joining(self, command: list[str]) -> list[str]:
        """The command, started inside the group."""
        joins = "; ".join(f"echo $$ > {folder}/cgroup.procs" for folder in {self.memory, self.cpu})
        return ["/bin/sh", "-c", f'{joins}; exec "$@"', "sh", *command]

    def peak_mib(self) -> float:
        """The most memory it has used: pages of files and of the kernel too, as the limit counts them."""
        return int(_first(self.memory, "memory.max_usage_in_bytes", "memory.peak")) / 2**20

    def anonymous_mib(self) -> float:
        """What cannot be dropped and read again: the part that must fit."""
        fields = dict(line.split() for line in (self.memory / "memory.stat").read_text().splitlines())
        return int(fields.get("rss", fields.get("anon", "0"))) / 2**20

    def kills(self) -> int:
        """How often the limit has ended a process."""
        text = _first(self.memory, "memory.oom_control", "memory.events")
        return int(dict(line.split()[:2] for line in text.splitlines()).get("oom_kill", "0"))

    def throttled_s(self) -> float:
        """For how long it was kept from running, over all processors."""
        fields = dict(line.split() for line in (self.cpu / "cpu.stat").read_text().splitlines())
        return (
            int(fields["throttled_time"]) / 1e9 if "throttled_time" in fields else int(fields["throttled_usec"]) / 1e6
        )


@contextmanager
def limited(name: str, *, memory_mib: int, cpus: float | None) -> Iterator[Group]:
    """A group that is removed when the block ends; its processes must be gone by then. LabError: not possible."""
    group = _place(name)
    try:
        _make(group, memory_mib, cpus)
        yield group
    except OSError as error:
        raise LabError(f"cannot make the control group {group.memory}: {error.strerror}") from error
    finally:
        for folder in {group.memory, group.cpu}:
            _remove(folder)


def _place(name: str) -> Group:
    if (ROOT / "memory").is_dir():
        return Group(ROOT / "memory" / name, ROOT / "cpu" / name)
    return Group(ROOT / name, ROOT / name)


def _make(group: Group, memory_mib: int, cpus: float | None) -> None:
    quota = "-1" if cpus is None else str(int(cpus * _PERIOD_US))
    for folder in {group.memory, group.cpu}:
        folder.mkdir()
    if group.memory == group.cpu:
        (group.memory / "memory.max").write_text(str(memory_mib << 20))
        (group.cpu / "cpu.max").write_text(f"{'max' if cpus is None else quota} {_PERIOD_US}")
        return
    (group.memory / "memory.limit_in_bytes").write_text(str(memory_mib << 20))
    (group.cpu / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
    (group.cpu / "cpu.cfs_quota_us").write_text(quota)


def _remove(folder: Path) -> None:
    """The kernel takes a moment to let the group of an ended process go."""
    end = time.monotonic() + 5
    while folder.exists():
        try:
            folder.rmdir()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def _first(folder: Path, *names: str) -> str:
    return next((folder / name).read_text() for name in names if (folder / name).exists())
