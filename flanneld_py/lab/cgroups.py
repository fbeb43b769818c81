"""Control groups of a lab: one name in every hierarchy, below which all of its containers are. Versions 1 and 2."""

from contextlib import suppress
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_CPUSET = ("cpuset.cpus", "cpuset.mems")


def group_of(lab: str) -> str:
    """The name of the lab's group, relative to the root of each hierarchy."""
    return f"flanneld-lab-{lab}"


def create_group(name: str) -> None:
    """Ensure that the group is there in each hierarchy, and may be used: in version 1 a new cpuset has no CPU."""
    for root in _roots():
        group = root
        for part in Path(name).parts:
            above, group = group, group / part
            with suppress(OSError):
                group.mkdir(exist_ok=True)
            for file in _CPUSET:
                if (group / file).exists() and not (group / file).read_text().strip():
                    (group / file).write_text((above / file).read_text())


def remove_group(name: str) -> None:
    """Ensure that the group and those below it are gone, in each hierarchy. No process is in one any more."""
    for root in _roots():
        top = root / name
        for group in sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True):
            with suppress(OSError):
                group.rmdir()
        with suppress(OSError):
            top.rmdir()


def _roots() -> list[Path]:
    """Version 2 has one; version 1 has one for each controller, in a directory of its own."""
    if (_ROOT / "cgroup.controllers").exists():
        return [_ROOT]
    return [path for path in _ROOT.iterdir() if path.is_dir() and not path.is_symlink()]
