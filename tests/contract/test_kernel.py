"""What every kernel applier promises, on the dictionary and on the real kernel."""

import errno
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from flanneld_py.model.entry import (
    PROTOCOL_BOOT,
    Address,
    Desired,
    Entry,
    FdbEntry,
    Link,
    LinkUp,
    Neighbour,
    Op,
    Route,
    Scope,
    Verb,
    Vxlan,
)
from flanneld_py.netlink.applier import NetlinkApplier
from flanneld_py.reconcile.applier import Applier
from flanneld_py.reconcile.diff import diff
from tests.fakes.kernel import FakeKernel
from tests.netns.space import Namespace, netns, no_leftovers, node

__all__ = ["netns", "no_leftovers", "node"]

NETWORKS = (ip_network("10.244.0.0/16"), ip_network("fd00:10:244::/56"))
ALIAS = "overlay of the contract test"
LINK = Link(
    "flannel.1", "vxlan", 1450, "02:00:5e:00:53:01", ALIAS, Vxlan(1, 8472, ip_address("192.0.2.1"), underlay="eth0")
)
LOCAL: tuple[Entry, ...] = (LINK, Address("flannel.1", ip_interface("10.244.1.0/32")), LinkUp("flannel.1"))
SCOPE = Scope(NETWORKS, frozenset({"flannel.1"}), ALIAS)


def peer(number: int, mac: int = 0, dst: str = "192.0.2.9") -> tuple[Entry, ...]:
    net = ip_network(f"10.244.{number}.0/24")
    net6 = ip_network(f"fd00:10:244:{number:x}::/64")
    lladdr = f"02:00:5e:00:54:{mac or number:02x}"
    return (
        Neighbour("flannel.1", net.network_address, lladdr),
        Neighbour("flannel.1", net6.network_address, lladdr),
        FdbEntry("flannel.1", lladdr, ip_address(dst)),
        Route(net, "flannel.1", net.network_address, onlink=True),
        Route(net6, "flannel.1", net6.network_address, onlink=True),
    )


def direct(number: int) -> Route:
    return Route(ip_network(f"10.244.{number}.0/24"), "eth0", ip_address("192.0.2.9"))


def wanted(*entries: Entry, scope: Scope = SCOPE) -> Desired:
    return Desired({entry.key: entry for entry in entries}, scope)


@pytest.fixture(params=["fake", "netns"])
async def kernel(request: pytest.FixtureRequest) -> AsyncIterator[Applier]:
    if request.param == "fake":
        yield FakeKernel()
        return
    space: Namespace = request.getfixturevalue("node")
    async with NetlinkApplier(netns=space.path) as applier:
        yield applier


async def converge(kernel: Applier, desired: Desired) -> tuple[Op, ...]:
    """The ops it took. The kernel then holds exactly what is desired."""
    ops = diff(desired.entries, await kernel.known(desired))
    assert await kernel.apply(ops) == []
    assert await kernel.known(desired) == dict(desired.entries)
    return ops


async def test_what_is_applied_is_known(kernel: Applier) -> None:
    desired = wanted(*LOCAL, *peer(2), *peer(3), direct(4))
    await converge(kernel, desired)
    assert diff(desired.entries, await kernel.known(desired)) == ()


async def test_every_op_may_run_twice(kernel: Applier) -> None:
    entries = (*LOCAL, *peer(2), direct(4))
    for verb in (Verb.ADD, Verb.ADD, Verb.CHANGE):
        assert await kernel.apply([Op(verb, entry) for entry in entries]) == []
    for _ in range(2):
        assert await kernel.apply([Op(Verb.DELETE, entry) for entry in reversed(entries)]) == []
    assert await kernel.known(wanted(*entries)) == {}


async def test_what_is_no_longer_wanted_is_known_and_goes(kernel: Applier) -> None:
    await converge(kernel, wanted(*LOCAL, *peer(2), *peer(3), direct(4)))
    ops = await converge(kernel, wanted(*LOCAL, *peer(3)))
    assert {op.entry for op in ops} == {*peer(2), direct(4)}


async def test_a_peer_with_another_mac_and_address_leaves_nothing_stale(kernel: Applier) -> None:
    await converge(kernel, wanted(*LOCAL, *peer(2)))
    await converge(kernel, wanted(*LOCAL, *peer(2, mac=0x77, dst="192.0.2.77")))


async def test_a_route_moves_between_overlay_and_direct(kernel: Applier) -> None:
    await converge(kernel, wanted(*LOCAL, *peer(2)))
    await converge(kernel, wanted(*LOCAL, direct(2)))
    await converge(kernel, wanted(*LOCAL, *peer(2)))


async def test_a_deleted_device_takes_what_is_on_it_along(kernel: Applier) -> None:
    desired = wanted(*LOCAL, *peer(2))
    await converge(kernel, desired)
    assert await kernel.apply([Op(Verb.DELETE, LINK)]) == []
    assert await kernel.known(desired) == {}
    await converge(kernel, desired)


async def test_another_vni_makes_the_device_anew(kernel: Applier) -> None:
    await converge(kernel, wanted(*LOCAL, *peer(2)))
    assert LINK.vxlan is not None
    other = replace(LINK, vxlan=replace(LINK.vxlan, vni=7))
    ops = await converge(kernel, wanted(other, *LOCAL[1:], *peer(2)))
    assert ops[0] == Op(Verb.RECREATE, other)


async def test_mtu_mac_and_alias_change_on_the_living_device(kernel: Applier) -> None:
    await converge(kernel, wanted(*LOCAL, *peer(2)))
    other = replace(LINK, mtu=1400, mac="02:00:5e:00:53:99")
    assert await converge(kernel, wanted(other, *LOCAL[1:], *peer(2))) == (Op(Verb.CHANGE, other),)


async def test_a_mac_that_nobody_cares_for_is_not_compared(kernel: Applier) -> None:
    await converge(kernel, wanted(*LOCAL))
    await converge(kernel, wanted(replace(LINK, mac=None), *LOCAL[1:]))


async def test_an_addition_on_a_missing_device_fails_and_a_removal_does_not(kernel: Applier) -> None:
    stray = (*peer(2)[:1], replace(direct(5), dev="eth7"))
    failures = await kernel.apply([Op(Verb.ADD, entry) for entry in stray])
    assert [(failure.op.entry, failure.errno, failure.hint is not None) for failure in failures] == [
        (entry, errno.ENODEV, True) for entry in stray
    ]
    assert await kernel.apply([Op(Verb.DELETE, entry) for entry in stray]) == []


async def test_an_op_after_a_failed_one_is_done(kernel: Applier) -> None:
    ops = [Op(Verb.ADD, replace(direct(5), dev="eth7")), Op(Verb.ADD, direct(6))]
    assert [failure.op for failure in await kernel.apply(ops)] == ops[:1]
    assert await kernel.known(wanted(direct(5), direct(6))) == {direct(6).key: direct(6)}


async def test_a_device_whose_underlay_is_missing_cannot_be_made(kernel: Applier) -> None:
    assert LINK.vxlan is not None
    link = replace(LINK, vxlan=replace(LINK.vxlan, underlay="eth7"))
    (failure,) = await kernel.apply([Op(Verb.ADD, link)])
    assert failure.errno == errno.ENODEV


async def test_a_foreign_route_is_known_only_in_our_way(kernel: Applier) -> None:
    foreign = replace(direct(2), via=ip_address("192.0.2.66"), protocol=PROTOCOL_BOOT)
    beside = replace(direct(3), protocol=PROTOCOL_BOOT)
    assert await kernel.apply([Op(Verb.ADD, foreign), Op(Verb.ADD, beside)]) == []
    assert await kernel.known(wanted(direct(2))) == {foreign.key: foreign}
    assert await kernel.known(wanted()) == {}


async def test_routes_of_another_flannel_are_known_at_takeover_only(kernel: Applier) -> None:
    boot = replace(direct(2), protocol=PROTOCOL_BOOT)
    outside = Route(ip_network("172.31.0.0/24"), "eth0", ip_address("192.0.2.9"), protocol=PROTOCOL_BOOT)
    assert await kernel.apply([Op(Verb.ADD, boot), Op(Verb.ADD, outside)]) == []
    takeover = replace(SCOPE, takeover=frozenset({"eth0"}))
    assert await kernel.known(wanted(scope=takeover)) == {boot.key: boot}
    assert await kernel.known(wanted()) == {}
    ours = wanted(direct(2), scope=takeover)
    assert diff(ours.entries, await kernel.known(ours)) == (Op(Verb.CHANGE, direct(2)),)
    await converge(kernel, ours)


async def test_our_protocol_outside_network_and_devices_is_not_ours(kernel: Applier) -> None:
    stray = Route(ip_network("172.31.0.0/24"), "eth0", ip_address("192.0.2.9"))
    on_device = Route(ip_network("172.30.0.0/24"), "flannel.1")
    assert await kernel.apply([*(Op(Verb.ADD, e) for e in LOCAL), Op(Verb.ADD, stray), Op(Verb.ADD, on_device)]) == []
    known = await kernel.known(wanted())
    assert on_device.key in known and stray.key not in known


async def test_a_delete_spares_a_route_that_became_another(kernel: Applier) -> None:
    """Between our read and our delete somebody put a route of their own in its place."""
    foreign = replace(direct(2), via=ip_address("192.0.2.66"), protocol=PROTOCOL_BOOT)
    assert await kernel.apply([Op(Verb.ADD, foreign), Op(Verb.DELETE, direct(2))]) == []
    assert await kernel.known(wanted(direct(2))) == {foreign.key: foreign}


async def test_devices_are_found_by_alias(kernel: Applier) -> None:
    assert await kernel.apply([Op(Verb.ADD, entry) for entry in LOCAL]) == []
    known = await kernel.known(wanted(scope=Scope(alias=ALIAS)))
    assert known == {entry.key: entry for entry in LOCAL}
    assert await kernel.known(wanted(scope=Scope(alias="another daemon"))) == {}


@pytest.mark.parametrize("net", ["10.244.9.0/24", "fd00:10:244:9::/64"])
async def test_blackholes_and_metrics_come_back_as_they_went(kernel: Applier, net: str) -> None:
    dst = ip_network(net)
    await converge(kernel, wanted(Route(dst, None, kind="blackhole")))
    await converge(kernel, wanted(Route(dst, None, metric=5000, kind="unreachable")))
    await converge(kernel, wanted())
