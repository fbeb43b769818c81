"""Devices and addresses in a real kernel."""

import asyncio
import errno
from dataclasses import replace
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest
import uvloop

from flanneld_py.model.entry import Address, Desired, Entry, Failure, Link, LinkUp, Op, Scope, Verb, Vxlan
from flanneld_py.netlink.applier import NetlinkApplier
from flanneld_py.netlink.links import find_links, known_addresses, known_links, read_links
from flanneld_py.netlink.neighbours import known_fdb, known_neighbours
from flanneld_py.netlink.netns import in_netns
from flanneld_py.netlink.socket import NetlinkSocket
from tests.netns.space import Namespace, counted_calls, udp_socket

VXLAN = Vxlan(1, 8472, ip_address("192.0.2.1"), "eth0")
LINK = Link("flannel.1", "vxlan", 1450, "02:00:5e:00:53:01", "ours", VXLAN)
SCOPE = Scope(devices=frozenset({"flannel.1"}), alias="ours")


async def apply(space: Namespace, *ops: tuple[Verb, Entry]) -> list[Failure]:
    async with NetlinkApplier(netns=space.path) as applier:
        return await applier.apply([Op(verb, entry) for verb, entry in ops])


async def known(space: Namespace, *entries: Entry, scope: Scope = SCOPE) -> list[Entry]:
    async with NetlinkApplier(netns=space.path) as applier:
        return list((await applier.known(Desired({entry.key: entry for entry in entries}, scope))).values())


async def test_a_device_is_as_upstream_makes_it(node: Namespace) -> None:
    assert await apply(node, (Verb.ADD, LINK), (Verb.ADD, LinkUp("flannel.1"))) == []
    (shown,) = node.ip_json("link", "show", "flannel.1")
    data = shown["linkinfo"]["info_data"]
    assert (shown["mtu"], shown["address"], shown["ifalias"]) == (1450, "02:00:5e:00:53:01", "ours")
    assert (data["id"], data["port"], data["local"], data["link"]) == (1, 8472, "192.0.2.1", "eth0")
    assert (data["learning"], data["udp_csum"], data["ttl"]) == (False, True, 0)
    assert (data["port_range"], "gbp" in data) == ({"low": 0, "high": 0}, False)
    assert "UP" in shown["flags"]
    assert await known(node, LINK) == [LINK, LinkUp("flannel.1")]


@pytest.mark.parametrize(
    "vxlan",
    [
        replace(VXLAN, learning=True),
        replace(VXLAN, gbp=True),
        replace(VXLAN, port=4789, vni=16777215),
        replace(VXLAN, local=ip_address("2001:db8::1")),
    ],
)
async def test_every_setting_of_a_device_comes_back(node: Namespace, vxlan: Vxlan) -> None:
    link = replace(LINK, mtu=1430, vxlan=vxlan)
    assert await apply(node, (Verb.ADD, link)) == []
    assert await known(node, link) == [link]


TUN = Link("flannel0", "tun", 1472, None, "ours")
TUN_SCOPE = Scope(devices=frozenset({"flannel0"}), alias="ours")


async def test_a_tun_device_has_room_for_queues_and_no_qdisc_for_each(node: Namespace) -> None:
    assert await apply(node, (Verb.ADD, TUN), (Verb.ADD, LinkUp("flannel0"))) == []
    (shown,) = node.ip_json("link", "show", "flannel0")
    assert (shown["linkinfo"]["info_data"]["multi_queue"], shown["qdisc"]) == (True, "noqueue")
    assert await known(node, TUN, scope=TUN_SCOPE) == [TUN, LinkUp("flannel0")]


async def test_a_tun_device_that_an_earlier_version_left_is_replaced(node: Namespace) -> None:
    node.ip("tuntap", "add", "dev", "flannel0", "mode", "tun", "vnet_hdr")
    (found,) = await known(node, TUN, scope=TUN_SCOPE)
    assert str(found).startswith("link flannel0 type tun of one queue")
    assert await apply(node, (Verb.CHANGE, TUN)) == []
    assert await known(node, TUN, scope=TUN_SCOPE) == [TUN]


WRONG = {
    "another kind": "type bridge",
    "another vni": "type vxlan id 2 dstport 8472 local 192.0.2.1 dev eth0 nolearning",
    "another port": "type vxlan id 1 dstport 4789 local 192.0.2.1 dev eth0 nolearning",
    "no underlay": "type vxlan id 1 dstport 8472 local 192.0.2.1 nolearning",
    "a multicast group": "type vxlan id 1 dstport 8472 local 192.0.2.1 dev eth0 nolearning group 239.1.1.1",
    "l2miss": "type vxlan id 1 dstport 8472 local 192.0.2.1 dev eth0 nolearning l2miss",
    "external": "type vxlan dstport 8472 external",
}


@pytest.mark.parametrize("case", sorted(WRONG))
async def test_a_wrong_device_of_our_name_is_seen_and_replaced(node: Namespace, case: str) -> None:
    node.ip("link", "add", "flannel.1", *WRONG[case].split())
    (found,) = [entry for entry in await known(node, LINK) if isinstance(entry, Link)]
    assert LINK.must_recreate(found)
    assert await apply(node, (Verb.ADD, LINK)) == []
    assert await known(node, LINK) == [LINK]


async def test_an_equal_device_is_adopted(node: Namespace) -> None:
    node.ip("link", "add", "flannel.1", *WRONG["another vni"].replace("id 2", "id 1").split())
    (before,) = node.ip_json("link", "show", "flannel.1")
    assert await apply(node, (Verb.ADD, LINK)) == []
    (after,) = node.ip_json("link", "show", "flannel.1")
    assert after["ifindex"] == before["ifindex"]
    assert await known(node, LINK) == [LINK]


async def test_an_underlay_that_is_gone_equals_no_living_one(node: Namespace) -> None:
    """The device stays, with the index of what was below it; a new interface of that name is another one."""
    assert await apply(node, (Verb.ADD, LINK)) == []
    node.ip("link", "set", "eth0", "down")  # or it keeps its name, before Linux 6.2
    node.ip("link", "set", "eth0", "name", "old0")
    node.ip("link", "add", "eth0", "type", "veth", "peer", "name", "wire1")
    (found,) = await known(node, LINK)
    assert isinstance(found, Link) and found.vxlan is not None
    assert found.vxlan.underlay == "old0" and LINK.must_recreate(found)
    assert await apply(node, (Verb.RECREATE, LINK)) == []
    assert await known(node, LINK) == [LINK]


async def test_an_underlay_in_another_namespace_equals_none_here(node: Namespace, netns_beside: Namespace) -> None:
    assert await apply(node, (Verb.ADD, LINK)) == []
    node.ip("link", "set", "flannel.1", "netns", netns_beside.name)
    (found,) = await known(netns_beside, LINK)
    assert isinstance(found, Link) and found.vxlan is not None
    assert found.vxlan.underlay.startswith(("elsewhere:", "gone:"))


async def test_the_holder_of_vni_and_port_is_named(node: Namespace) -> None:
    node.ip("link", "add", "other7", "type", "vxlan", "id", "1", "dstport", "8472", "dev", "eth0")
    (failure,) = await apply(node, (Verb.ADD, LINK))
    assert failure.errno == errno.EEXIST
    assert failure.hint is not None and failure.hint.startswith("other7 holds VNI 1 on UDP port 8472: remove it")


async def test_a_busy_port_is_named_when_the_device_comes_up(node: Namespace) -> None:
    assert await apply(node, (Verb.ADD, LINK)) == []
    with udp_socket(node, 8472):
        (failure,) = await apply(node, (Verb.ADD, LinkUp("flannel.1")))
    assert failure.errno == errno.EADDRINUSE
    assert failure.hint is not None and "UDP port" in failure.hint


async def test_a_kind_that_the_kernel_lacks_is_named(node: Namespace) -> None:
    (failure,) = await apply(node, (Verb.ADD, Link("flannel.1", "nosuchkind", 1400, None, "ours")))
    assert failure.errno == errno.EOPNOTSUPP
    assert failure.hint is not None and "modprobe nosuchkind" in failure.hint


async def test_an_mtu_that_the_underlay_cannot_carry_is_refused_or_clamped(node: Namespace) -> None:
    assert await apply(node, (Verb.ADD, LINK)) == []
    (failure,) = await apply(node, (Verb.CHANGE, replace(LINK, mtu=1480)))
    assert failure.errno == errno.EINVAL
    assert failure.hint is not None and "mtu 1480" in failure.hint


async def test_a_rewritten_mac_is_seen(node: Namespace) -> None:
    assert await apply(node, (Verb.ADD, LINK)) == []
    node.ip("link", "set", "flannel.1", "address", "02:00:5e:00:53:aa")
    assert await known(node, LINK) == [replace(LINK, mac="02:00:5e:00:53:aa")]


async def test_addresses_but_not_the_kernels_own_are_ours(node: Namespace) -> None:
    four, six = (Address("flannel.1", ip_interface(text)) for text in ("10.244.1.0/32", "fd00:1::/128"))
    assert await apply(node, (Verb.ADD, LINK), (Verb.ADD, four), (Verb.ADD, six), (Verb.ADD, LinkUp("flannel.1"))) == []
    node.ip("addr", "add", "10.66.0.1/24", "dev", "flannel.1")
    node.ip("addr", "add", "10.67.0.1", "peer", "10.67.0.2/32", "dev", "flannel.1")
    found = {str(entry.interface) for entry in await known(node, LINK) if isinstance(entry, Address)}
    assert found == {"10.244.1.0/32", "fd00:1::/128", "10.66.0.1/24", "10.67.0.1/32"}
    (shown,) = node.ip_json("addr", "show", "flannel.1")
    states = {row["local"]: row for row in shown["addr_info"]}
    assert "fd00:1::" in states and not states["fd00:1::"].get("tentative", False)
    foreign = Address("flannel.1", ip_interface("10.66.0.1/24"))
    assert await apply(node, (Verb.DELETE, foreign), (Verb.DELETE, foreign)) == []
    assert foreign not in await known(node, LINK)


async def test_an_address_where_ipv6_is_off_says_how_to_switch_it_on(node: Namespace) -> None:
    assert await apply(node, (Verb.ADD, LINK)) == []
    path = Path("/proc/sys/net/ipv6/conf/flannel.1/disable_ipv6")
    in_netns(node.path, lambda: path.write_text("1"))
    (failure,) = await apply(node, (Verb.ADD, Address("flannel.1", ip_interface("fd00:1::/128"))))
    assert failure.hint is not None and "disable_ipv6=0" in failure.hint


async def test_taking_a_device_down_twice_is_no_failure(node: Namespace) -> None:
    up = LinkUp("flannel.1")
    assert await apply(node, (Verb.ADD, LINK), (Verb.ADD, up), (Verb.DELETE, up), (Verb.DELETE, up)) == []
    assert await apply(node, (Verb.DELETE, LINK), (Verb.DELETE, up)) == []


def test_changes_work_on_uvloop(node: Namespace) -> None:
    async def both() -> list[Entry]:
        assert await apply(node, (Verb.ADD, LINK), (Verb.ADD, LinkUp("flannel.1"))) == []
        return await known(node, LINK)

    assert uvloop.run(both()) == [LINK, LinkUp("flannel.1")]


def test_one_applier_serves_two_loops_in_turn(node: Namespace) -> None:
    applier = NetlinkApplier(netns=node.path)
    assert asyncio.run(applier.apply([Op(Verb.ADD, LINK)])) == []
    assert asyncio.run(applier.apply([Op(Verb.ADD, LinkUp("flannel.1"))])) == []
    asyncio.run(applier.close())


def test_reading_agrees_with_ip(node: Namespace) -> None:
    node.ip("link", "add", "br0", "mtu", "1400", "type", "bridge")
    node.ip("link", "set", "br0", "alias", "a bridge")
    with NetlinkSocket(netns=node.path) as sock:
        links = read_links(sock)
        assert find_links(sock, ["br0", "none", "", "x" * 40]) == {"br0": next(s for s in links if s.name == "br0")}
    shown = node.ip_json("link", "show")
    assert [(s.index, s.name, s.mtu, s.alias, s.kind, s.up) for s in links] == [
        (
            row["ifindex"],
            row["ifname"],
            row["mtu"],
            row.get("ifalias", ""),
            row.get("linkinfo", {}).get("info_kind", ""),
            "UP" in row["flags"],
        )
        for row in shown
    ]


def test_reading_hundreds_of_devices_takes_few_system_calls(node: Namespace) -> None:
    before = len(node.ip_json("link", "show"))  # some modules put a device into every namespace
    node.batch([f"link add veth{n} type veth peer name peer{n}" for n in range(150)])
    with NetlinkSocket(netns=node.path) as sock, counted_calls(sock) as calls:
        links = read_links(sock)
    assert len(links) == before + 300
    assert calls.count < 30


async def test_a_device_that_goes_while_the_kernel_is_read_holds_nothing(node: Namespace) -> None:
    assert await apply(node, (Verb.ADD, LINK), (Verb.ADD, LinkUp("flannel.1"))) == []
    address = Address("flannel.1", ip_interface("10.5.1.0/32"))
    assert await apply(node, (Verb.ADD, address)) == []
    wanted = {address.key: address}
    with NetlinkSocket(netns=node.path) as sock:
        links = read_links(sock)
        assert known_addresses(sock, links, SCOPE, wanted) == wanted
        node.ip("link", "del", "flannel.1")
        assert known_addresses(sock, links, SCOPE, wanted) == {}
        assert known_neighbours(sock, links, {}) == known_fdb(sock, links, {}) == {}
        assert known_links(read_links(sock), SCOPE, {LINK.key: LINK}) == {}
