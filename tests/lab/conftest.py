"""Labs for tests: real daemons, real etcd, removed whatever happens."""

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from flanneld_py.lab import build
from flanneld_py.lab.build import Lab
from flanneld_py.lab.namespaces import RUN_DIR
from flanneld_py.lab.progress import Silent
from flanneld_py.lab.state import STATE_DIR
from flanneld_py.lab.topology import LabSpec, Underlay

NUMBERS = count(1)


class Trace:
    """What a lab of that name has on this machine."""

    def __init__(self, name: str) -> None:
        self.name = name

    def namespaces(self) -> list[str]:
        return sorted(entry.name for entry in RUN_DIR.glob(f"{self.name}-*"))

    def processes(self) -> list[str]:
        """Command lines of the processes that were started with the lab's directory."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            except OSError:
                continue
            if any(f"{STATE_DIR}/{self.name}/".encode() in word for word in words):
                found.append(b" ".join(words).decode())
        return found

    def files(self) -> list[str]:
        return sorted(str(path) for path in (STATE_DIR / self.name).rglob("*"))

    def assert_nothing(self) -> None:
        assert (self.namespaces(), self.processes(), self.files()) == ([], [], [])
        assert not (STATE_DIR / self.name).exists()


@pytest.fixture
def name() -> Iterator[str]:
    """A name that no other run uses; a lab that got it is removed."""
    chosen = f"t{os.getpid()}-{next(NUMBERS)}"
    yield chosen
    build.down(chosen, Silent())


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Three nodes on a routed underlay with DirectRouting, two pods each."""
    spec = LabSpec(
        name=f"t{os.getpid()}-{next(NUMBERS)}",
        underlay=Underlay.ROUTED,
        backend_options=(("DirectRouting", True),),
    )
    with build.temporary(spec, Silent()) as made:
        yield made
