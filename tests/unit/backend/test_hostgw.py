from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest

from flanneld_py.backend.alloc import AllocBackend
from flanneld_py.backend.hostgw import HostGwBackend
from flanneld_py.backend.table import read_backend
from flanneld_py.model.config import BackendConfig
from flanneld_py.model.entry import Route, Sysctl
from flanneld_py.model.lease import Lease, LeaseAttrs
from flanneld_py.model.node import ExternalInterface, NodeFacts, Reach, Reached

PUBLIC = IPv4Address("192.0.2.2")
NODE = NodeFacts(ExternalInterface("eth0", 2, 1500, IPv4Address("192.0.2.1")), "flanneld test")
PEER = Lease(
    (ip_network("10.244.2.0/24"), ip_network("fd00:10:0:2::/64")),
    LeaseAttrs(PUBLIC, IPv6Address("2001:db8::2"), "host-gw"),
)
BACKEND = HostGwBackend((4, 6))


def test_each_family_is_a_plain_route() -> None:
    plan = BACKEND.peer_plan(PEER, NODE, {})
    assert plan.entries == (
        Route(PEER.subnets[0], "eth0", via=PUBLIC),
        Route(PEER.subnets[1], "eth0", via=IPv6Address("2001:db8::2")),
    )


def test_a_peer_behind_a_router_is_a_named_problem_and_no_route() -> None:
    plan = BACKEND.peer_plan(PEER, NODE, {PUBLIC: Reached(Reach.ROUTED, "eth0")})
    assert [str(entry.dst) for entry in plan.entries if isinstance(entry, Route)] == ["fd00:10:0:2::/64"]
    assert "192.0.2.2 is behind a router" in plan.problems[0]
    assert "DirectRouting" in plan.problems[0]


def test_a_peer_of_another_backend_is_left_alone() -> None:
    vxlan = Lease(PEER.subnets, LeaseAttrs(PUBLIC, None, "vxlan"))
    assert BACKEND.peer_plan(vxlan, NODE, {}).entries == ()


def test_pods_have_the_interfaces_mtu_and_the_node_forwards() -> None:
    assert BACKEND.mtu(NODE) == 1500
    assert Sysctl("net/ipv6/conf/all/forwarding", "1") in BACKEND.local_plan(PEER, NODE)


def test_alloc_publishes_no_type_and_programs_nothing() -> None:
    alloc = AllocBackend((4,))
    assert alloc.attrs(NODE).backend_type == ""
    assert alloc.local_plan(PEER, NODE) == ()
    assert alloc.peer_plan(PEER, NODE, {}).entries == ()


@pytest.mark.parametrize(("name", "why"), [("ipip", "this version has no such backend"), ("vxlam", "there is no such")])
def test_a_backend_that_is_not_there_is_an_error_that_lists_the_others(name: str, why: str) -> None:
    found, errors, _ = read_backend(BackendConfig(name, {}), (4,), "/coreos.com/network/config")
    assert found is None
    assert why in str(errors[0])
    assert "vxlan, host-gw, udp, alloc" in str(errors[0])
    assert "/coreos.com/network/config" in str(errors[0])
