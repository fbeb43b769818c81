"""The kernels of other Debian releases: the same tests, in a virtual machine each."""

from itertools import product

import pytest

from tests.kernels.conftest import RELEASES, Machines
from tests.kernels.machine import MachineFailed

TESTS = (
    "tests/kernels/test_offload.py",
    "tests/kernels/test_udp_path.py",
    "tests/kernels/test_worker.py",
    "tests/netns/test_kernel_facts.py",
    "tests/netns/test_monitor.py",
    "tests/netns/test_pod_facts.py",
    "tests/netns/test_pump_devices.py",
    "tests/contract/test_kernel.py",
)
FOU = ("6.1", "tests/kernels/test_fou.py")
"""One kernel is enough: what is on the wire is the same on all."""


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("series", "path"), [*product(RELEASES, TESTS), FOU])
def test_on_another_kernel(machines: Machines, series: str, path: str) -> None:
    try:
        cases = [case for case in machines.cases(series) if case.file == path]
    except MachineFailed as error:
        pytest.fail(str(error), pytrace=False)
    assert cases, f"no test of {path} was run on {series}"
    bad = [f"{case.name}: {case.outcome}\n{case.text}" for case in cases if case.outcome != "passed"]
    if bad:
        pytest.fail(f"{len(bad)} of {len(cases)} tests on {series}:\n" + "\n".join(bad), pytrace=False)
