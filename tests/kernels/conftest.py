"""Kernels that are not this machine's, and machines that run tests on them."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernels.machine import Case, Kernel, Machine, find_kernel
from tests.netns.test_pump import make

__all__ = ["make"]

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flanneld_py" / "kernels"
RELEASES = {"5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie"}
"""Kernel series, and the Debian release that it comes from, which is also its folder's name."""


class Machines:
    """Runs `wanted` files of tests on each kernel series; as many machines at a time as there are processors."""

    def __init__(self, wanted: dict[str, list[str]], kernels: dict[str, Kernel], folder: Path) -> None:
        self._waiting = [series for series in wanted if series in kernels]
        self._wanted, self._kernels, self._folder = wanted, kernels, folder
        self._machines: dict[str, Machine] = {}

    def cases(self, series: str) -> list[Case]:
        """What became of the tests on `series`. MachineFailed: it did not come so far."""
        while series not in self._machines or self._machines[series].running:
            self._start()
            for machine in self._machines.values():
                machine.wait(0.5)
        return self._machines[series].cases()

    def _start(self) -> None:
        """One more, if there is room for it."""
        running = sum(machine.running for machine in self._machines.values())
        if self._waiting and running < len(os.sched_getaffinity(0)):
            series = self._waiting.pop(0)
            results = self._folder / series
            results.mkdir()
            self._machines[series] = Machine(self._kernels[series], self._wanted[series], results)

    def end(self) -> None:
        for machine in self._machines.values():
            machine.end()


@pytest.fixture(scope="session")
def machines(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Machines for the tests of this run that ask for them: those with the parameters `series` and `path`."""
    wanted: dict[str, list[str]] = {}
    for item in request.session.items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if {"series", "path"} <= parameters.keys():
            wanted.setdefault(parameters["series"], []).append(parameters["path"])
    found = Machines(wanted, _kernels(request, wanted), tmp_path_factory.mktemp("kernels"))
    try:
        yield found
    finally:
        found.end()


def _kernels(request: pytest.FixtureRequest, wanted: dict[str, list[str]]) -> dict[str, Kernel]:
    """The kernels that were asked for, or no test of them: tests/run sees to all that they need."""
    found = {series: find_kernel(CACHE / RELEASES[series]) for series in wanted}
    missing = [f"a kernel {series} in {CACHE / RELEASES[series]}" for series, kernel in found.items() if kernel is None]
    vng = Path(sys.executable).with_name("vng")
    missing += [] if vng.exists() else [str(vng)]
    missing += [name for name in ("qemu-system-x86_64", "busybox", "cpio", "depmod") if shutil.which(name) is None]
    if missing:
        message = f"missing: {', '.join(missing)}; other kernels stay untested. tests/run fetches them as root"
        if request.config.getoption("--require-go"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    return {series: kernel for series, kernel in found.items() if kernel is not None}
