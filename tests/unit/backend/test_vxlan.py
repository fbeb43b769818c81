from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_interface, ip_network

import pytest

from flanneld_py.backend.table import read_backend
from flanneld_py.backend.vxlan import VtepData, VxlanBackend
from flanneld_py.errors import ConfigError
from flanneld_py.model.config import BackendConfig
from flanneld_py.model.entry import Address, FdbEntry, Link, LinkUp, Neighbour, Route, Sysctl, TxChecksum
from flanneld_py.model.lease import Lease, LeaseAttrs
from flanneld_py.model.node import ExternalInterface, NodeFacts, Reach, Reached

MAC, MAC6, PEER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:06", "0a:00:00:00:00:02"
EXTERNAL = ExternalInterface(
    "eth0",
    2,
    1500,
    IPv4Address("192.0.2.1"),
    IPv6Address("2001:db8::1"),
    IPv4Address("192.0.2.1"),
    IPv6Address("2001:db8::1"),
)
NODE = NodeFacts(EXTERNAL, "flanneld test", {"flannel.1": MAC, "flannel-v6.1": MAC6})
NET4, NET6 = ip_network("10.244.2.0/24"), ip_network("fd00:10:0:2::/64")
OWN = Lease((ip_network("10.244.1.0/24"),), LeaseAttrs(IPv4Address("192.0.2.1")))


def peer(*nets: object, **changes: object) -> Lease:
    data = VtepData(1, PEER_MAC).format()
    attrs = LeaseAttrs(IPv4Address("192.0.2.2"), IPv6Address("2001:db8::2"), "vxlan", data, data)
    return Lease(nets or (NET4,), replace(attrs, **changes))  # type: ignore[arg-type]


def backend(options: dict[str, object] | None = None, versions: tuple[int, ...] = (4,)) -> VxlanBackend:
    found, errors, _ = read_backend(BackendConfig("vxlan", {"Type": "vxlan"} | (options or {})), versions, "test")
    assert errors == []
    assert isinstance(found, VxlanBackend)
    return found


def test_published_data_has_upstreams_bytes() -> None:
    attrs = backend(versions=(4, 6)).attrs(NODE)
    assert attrs.backend_type == "vxlan"
    assert attrs.backend_data == '{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}'
    assert attrs.backend_v6_data == '{"VNI":1,"VtepMAC":"02:00:00:00:00:06"}'


def test_ipv6_only_publishes_no_ipv4_address() -> None:
    attrs = backend(versions=(6,)).attrs(NODE)
    assert attrs.public_ip is None
    assert attrs.backend_data is None


def test_mtu_is_the_smallest_of_the_devices() -> None:
    assert backend().mtu(NODE) == 1450
    assert backend(versions=(4, 6)).mtu(NODE) == 1430
    assert backend({"MTU": 9000}).mtu(NODE) == 8950


def test_mtu_that_leaves_ipv6_too_little_is_an_error_that_says_how_much_it_takes() -> None:
    with pytest.raises(ConfigError, match=r"use at least 1350"):
        backend({"MTU": 1300}, (4, 6)).mtu(NODE)


def test_own_device_of_each_family_stands_before_its_address() -> None:
    own = Lease((OWN.subnets[0], ip_network("fd00:10:0:1::/64")), OWN.attrs)
    plan = backend(versions=(4, 6)).local_plan(own, NODE)
    links = [entry for entry in plan if isinstance(entry, Link)]
    assert [(link.name, link.mtu, link.mac) for link in links] == [
        ("flannel.1", 1450, MAC),
        ("flannel-v6.1", 1430, MAC6),
    ]
    assert [link.vxlan.local for link in links if link.vxlan] == [EXTERNAL.addr4, EXTERNAL.addr6]
    assert Address("flannel.1", ip_interface("10.244.1.0/32")) in plan
    assert Address("flannel-v6.1", ip_interface("fd00:10:0:1::/128")) in plan
    assert LinkUp("flannel-v6.1") in plan
    assert Sysctl("net/ipv4/ip_forward", "1") in plan


def test_forwarding_keeps_a_default_route_that_routers_announce() -> None:
    own = Lease((ip_network("fd00:10:0:1::/64"),), OWN.attrs)
    plan = backend(versions=(6,)).local_plan(own, replace(NODE, ra_default6=True))
    assert plan.index(Sysctl("net/ipv6/conf/eth0/accept_ra", "2")) < plan.index(
        Sysctl("net/ipv6/conf/all/forwarding", "1")
    )


def test_peer_is_neighbour_fdb_and_onlink_route() -> None:
    plan = backend().peer_plan(peer(), NODE, {})
    base = NET4.network_address
    assert plan.entries == (
        Neighbour("flannel.1", base, PEER_MAC),
        FdbEntry("flannel.1", PEER_MAC, IPv4Address("192.0.2.2")),
        Route(NET4, "flannel.1", via=base, onlink=True),
    )
    assert (plan.path, plan.problems) == (("vxlan",), ())


def test_dual_stack_peer_has_three_entries_of_each_family() -> None:
    plan = backend(versions=(4, 6)).peer_plan(peer(NET4, NET6), NODE, {})
    assert len(plan.entries) == 6
    assert FdbEntry("flannel-v6.1", PEER_MAC, IPv6Address("2001:db8::2")) in plan.entries


def test_direct_routing_follows_reach() -> None:
    chosen = backend({"DirectRouting": True})
    public = IPv4Address("192.0.2.2")
    near = chosen.peer_plan(peer(), NODE, {public: Reached(Reach.ON_LINK, "eth0")})
    far = chosen.peer_plan(peer(), NODE, {public: Reached(Reach.ROUTED, "eth0")})
    assert near.entries == (Route(NET4, "eth0", via=public),)
    assert near.path == ("direct",)
    assert far == backend().peer_plan(peer(), NODE, {})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"backend_type": "host-gw"}, "backend host-gw, we run vxlan"),
        ({"backend_type": ""}, "udp or alloc"),
        ({"backend_data": None}, "publishes no VTEP"),
        ({"backend_data": "[]"}, "not an object"),
        ({"backend_data": "{"}, "Expecting"),
        ({"backend_data": "[" * 100_000}, "recursion"),
        ({"backend_data": '{"VNI":"1","VtepMAC":"0a:00:00:00:00:02"}'}, "no VNI number"),
        ({"backend_data": '{"VNI":true,"VtepMAC":"0a:00:00:00:00:02"}'}, "no VNI number"),
        ({"backend_data": '{"VNI":1,"VtepMAC":"01:00:5e:00:00:02"}'}, "not the MAC address of one device"),
        ({"backend_data": '{"VNI":7,"VtepMAC":"0a:00:00:00:00:02"}'}, "VNI 7, we use 1"),
        ({"backend_data": f'{{"vni":1,"vtepmac":"{MAC}"}}'}, "our own VTEP MAC"),
        ({"public_ip": None}, "no public IPv4 address"),
    ],
)
def test_what_is_wrong_in_a_lease_is_a_problem_of_that_peer(changes: dict[str, object], why: str) -> None:
    plan = backend().peer_plan(peer(**changes), NODE, {})
    assert plan.entries == ()
    assert why in plan.problems[0]


NATTED = replace(NODE, external=replace(EXTERNAL, public4=IPv4Address("198.51.100.7")))


@pytest.mark.parametrize(
    ("option", "node", "wanted"),
    [
        ("auto", NODE, []),
        ("auto", replace(NODE, kernel=(5, 7)), []),
        ("auto", replace(NODE, kernel=(5, 6)), [False, False]),
        ("auto", replace(NODE, kernel=(4, 19)), [False, False]),
        ("auto", NATTED, [False]),
        ("on", replace(NATTED, kernel=(4, 19)), [True, True]),
        ("ON", NODE, [True, True]),
        ("off", NODE, [False, False]),
    ],
)
def test_checksum_offload_goes_off_where_it_is_known_to_break(option: str, node: NodeFacts, wanted: list[bool]) -> None:
    own = Lease((OWN.subnets[0], ip_network("fd00:10:0:1::/64")), OWN.attrs)
    plan = backend({"TxChecksum": option}, (4, 6)).local_plan(own, node)
    found = [entry for entry in plan if isinstance(entry, TxChecksum)]
    assert [entry.on for entry in found] == wanted
    assert [entry.dev for entry in found] == ["flannel.1", "flannel-v6.1"][: len(wanted)]


def test_why_checksum_offload_is_off_is_told() -> None:
    (nat,) = [entry for entry in backend().local_plan(OWN, NATTED) if isinstance(entry, TxChecksum)]
    assert nat.why == "peers know this node as 198.51.100.7, eth0 has 192.0.2.1: a NAT lies between"
    (old,) = [e for e in backend().local_plan(OWN, replace(NODE, kernel=(5, 4))) if isinstance(e, TxChecksum)]
    assert str(old).endswith("(Linux 5.4 gets the checksum wrong where packets are masqueraded)")


def test_options_are_read_whatever_their_case() -> None:
    found = backend({"vni": 7, "PORT": 4789, "gbp": True, "LEARNING": True, "Directrouting": "true"})
    assert (found.vni, found.port, found.gbp, found.learning, found.direct_routing) == (7, 4789, True, True, True)


@pytest.mark.parametrize(
    "options",
    [
        {"VNI": 0},
        {"VNI": 1 << 24},
        {"Port": 65536},
        {"MTU": -1},
        {"DirectRoutin": True},
        {"TxChecksum": "yes"},
        {"TxChecksum": True},
    ],
)
def test_a_wrong_option_is_an_error(options: dict[str, object]) -> None:
    found, errors, _ = read_backend(BackendConfig("vxlan", options), (4,), "test")
    assert found is None
    assert len(errors) == 1
    assert next(iter(options)) in str(errors[0])


def test_macs_of_an_earlier_lease_are_read_back() -> None:
    chosen = backend(versions=(4, 6))
    assert chosen.macs_in(chosen.attrs(NODE)) == dict(NODE.macs)
    assert chosen.macs_in(LeaseAttrs(None, None, "vxlan", "{}", "nonsense")) == {}
