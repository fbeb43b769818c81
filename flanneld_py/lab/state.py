"""What a lab leaves for the commands that come after: one directory, with a record that is replaced as a whole.

The directory exists before anything else is made and goes last, and the record in it names all that may be there. So a
lab whose builder was killed can be found and removed. A lock on the directory tells a builder at work from a dead one.
"""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from ipaddress import ip_interface
from pathlib import Path

from flanneld_py.errors import LabError, UsageError
from flanneld_py.lab.process import Process
from flanneld_py.lab.speccodec import spec_from_json, spec_to_json
from flanneld_py.lab.topology import AddrOnLink, LabSpec

STATE_DIR = Path("/run/flanneld-lab")
ETCD = "etcd"
_RECORD = "lab.json"
_PARTING_S = 2.0
_POLL_S = 0.05


class Stage(Enum):
    BUILDING = "building"
    """Being built or, if nobody holds the lock, what a killed builder left."""
    UP = "up"


@dataclass(frozen=True, slots=True)
class LabRecord:
    """`processes`: by server, "etcd" or a node's name. `pods`: the addresses of a pod's eth0."""

    spec: LabSpec
    stage: Stage
    processes: Mapping[str, Process] = field(default_factory=dict)
    pods: Mapping[str, tuple[AddrOnLink, ...]] = field(default_factory=dict)

    def with_process(self, server: str, process: Process) -> "LabRecord":
        return replace(self, processes={**self.processes, server: process})


class LabDirectory:
    """The files of one lab: the record, logs, etcd's data, a run directory for each node."""

    def __init__(self, name: str, root: Path = STATE_DIR) -> None:
        self.name = name
        self.path = root / name

    def log(self, server: str) -> Path:
        return self.path / "logs" / f"{server}.log"

    def node(self, node: str) -> Path:
        """Where the node's daemon writes subnet.env and status.json."""
        return self.path / node

    def subnet_file(self, node: str) -> Path:
        return self.node(node) / "subnet.env"

    def etcd_data(self) -> Path:
        return self.path / "etcd-data"

    def read(self) -> LabRecord | None:
        """The record; None if there is no lab, or one of which nothing was made yet."""
        try:
            raw = json.loads((self.path / _RECORD).read_text())
            return LabRecord(
                spec=spec_from_json(raw["spec"]),
                stage=Stage(raw["stage"]),
                processes={k: Process(int(v["pid"]), int(v["started"])) for k, v in raw["processes"].items()},
                pods={k: tuple(ip_interface(text) for text in v) for k, v in raw["pods"].items()},
            )
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError:
            raise LabError(f"cannot read {self.path / _RECORD}: permission denied", hint="run this as root") from None
        except (ValueError, KeyError, TypeError, AttributeError, UsageError) as err:
            raise LabError(
                f"{self.path / _RECORD} is not a lab's record ({err})",
                hint=f"remove it by hand: ip -all netns | grep {self.name}; rm -r {self.path}",
            ) from None

    def write(self, record: LabRecord) -> None:
        raw = {
            "spec": spec_to_json(record.spec),
            "stage": record.stage.value,
            "processes": {k: {"pid": p.pid, "started": p.started} for k, p in record.processes.items()},
            "pods": {k: [str(address) for address in addresses] for k, addresses in record.pods.items()},
        }
        fresh = self.path / f"{_RECORD}.new"
        fresh.write_text(json.dumps(raw, indent=1) + "\n")
        fresh.replace(self.path / _RECORD)

    @contextmanager
    def locked(self, *, create: bool) -> Iterator[bool]:
        """Hold the lab; False if there is none and it was not to be created. LabError: another command holds it.

        The directory is removed at the end if nothing is in it.
        """
        fd = self._lock(create)
        if fd is None:
            yield False
            return
        try:
            yield True
        finally:
            for empty in (self.path, self.path.parent):
                with suppress(OSError):
                    empty.rmdir()
            os.close(fd)

    def _lock(self, create: bool) -> int | None:
        """A short wait for the holder, which may be a command that was killed and is on its way out."""
        deadline = time.monotonic() + _PARTING_S
        while True:
            try:
                if create:
                    self.path.mkdir(parents=True, exist_ok=True)
                fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                if create:
                    continue
                return None
            except PermissionError:
                raise LabError(f"cannot open {self.path}: permission denied", hint="run this as root") from None
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                if time.monotonic() < deadline:
                    time.sleep(_POLL_S)
                    continue
                raise LabError(
                    f"another command is at work on lab {self.name!r}",
                    hint="wait until it is done, or give this one another --name",
                ) from None
            # The directory may have been removed, and made anew, between open and lock.
            with suppress(FileNotFoundError):
                if os.fstat(fd).st_ino == self.path.stat().st_ino:
                    return fd
            os.close(fd)

    def clear(self) -> None:
        """Remove every file; the record last, so that an interrupted removal can be taken up again."""
        with suppress(FileNotFoundError):
            for entry in self.path.iterdir():
                if entry.name == _RECORD:
                    continue
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink(missing_ok=True)
            (self.path / _RECORD).unlink(missing_ok=True)


def lab_names(root: Path = STATE_DIR) -> list[str]:
    """The labs that there are, whatever their stage."""
    try:
        return sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    except FileNotFoundError:
        return []
