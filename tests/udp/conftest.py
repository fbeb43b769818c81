"""Labs with the udp backend. Those that tests share are left as they were found: every node well, nothing dropped."""

import os
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from flanneld_py.lab import build
from flanneld_py.lab.progress import Silent
from flanneld_py.lab.topology import Firewall, LabSpec, Option, Underlay
from tests.udp.overlay import UdpField

NUMBERS = count(1)
UdpFieldOf = Callable[..., UdpField]


def spec_of(
    *options: tuple[str, Option], nodes: int = 2, underlay: Underlay = Underlay.L2, flags: tuple[str, ...] = ()
) -> LabSpec:
    return LabSpec(
        name=f"u{os.getpid()}-{next(NUMBERS)}",
        nodes=nodes,
        pods=1,
        backend="udp",
        backend_options=options,
        underlay=underlay,
        daemon_flags=flags,
        firewall=Firewall.NONE,  # conntrack would join fragments, and write into what a sniffer sees of them
    )


@pytest.fixture(scope="session")
def shared() -> Iterator[UdpField]:
    """Three nodes on one link."""
    spec = spec_of(nodes=3)
    try:
        yield UdpField(spec)
    finally:
        build.down(spec.name, Silent())


@pytest.fixture
def field(shared: UdpField) -> Iterator[UdpField]:
    """The shared lab, well before the test and after it."""
    for node in shared.nodes:
        shared.wait_well(node.number)
    yield shared
    for node in shared.nodes:
        shared.wait_well(node.number)
    assert shared.lost_pings() == {}


@pytest.fixture
def field_of() -> Iterator[UdpFieldOf]:
    """A function that builds a lab for one test; takes what `spec_of` takes."""
    names: list[str] = []

    def up(
        *options: tuple[str, Option], nodes: int = 2, underlay: Underlay = Underlay.L2, flags: tuple[str, ...] = ()
    ) -> UdpField:
        spec = spec_of(*options, nodes=nodes, underlay=underlay, flags=flags)
        names.append(spec.name)
        return UdpField(spec)

    yield up
    for name in names:
        build.down(name, Silent())
