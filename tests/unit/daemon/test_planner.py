from dataclasses import replace
from ipaddress import IPv4Address, ip_network

from flanneld_py.backend.vxlan import VtepData, VxlanBackend
from flanneld_py.daemon.planner import Planner, problems_of
from flanneld_py.model.entry import Desired, FdbEntry, Route
from flanneld_py.model.lease import Lease, LeaseAttrs
from flanneld_py.model.node import ExternalInterface, NodeFacts, Reach, Reached

NETWORKS = (ip_network("10.244.0.0/16"),)
FACTS = NodeFacts(
    ExternalInterface("eth0", 2, 1500, IPv4Address("192.0.2.1"), None, IPv4Address("192.0.2.1")),
    "flanneld test",
    {"flannel.1": "02:00:00:00:00:01"},
)


def lease(third: int, mac: int | None = None) -> Lease:
    data = VtepData(1, f"0a:00:00:00:00:{mac or third:02x}").format()
    attrs = LeaseAttrs(IPv4Address(f"192.0.2.{third}"), None, "vxlan", data)
    return Lease((ip_network(f"10.244.{third}.0/24"),), attrs)


OWN = lease(1)


def planner(**options: bool) -> Planner:
    return Planner(VxlanBackend((4,), **options), NETWORKS, (ip_network("10.9.0.0/16"),), "flanneld test")  # type: ignore[arg-type]


def plan(chosen: Planner, *leases: Lease, facts: NodeFacts = FACTS, own: Lease = OWN) -> Desired:
    return chosen.plan(own, leases, facts, {}, frozenset())


def routes(desired: Desired) -> set[str]:
    return {str(entry.dst) for entry in desired.entries.values() if isinstance(entry, Route)}


def test_our_own_lease_is_no_peer() -> None:
    chosen = planner()
    assert routes(plan(chosen, OWN, lease(2), lease(3))) == {"10.244.2.0/24", "10.244.3.0/24"}
    assert OWN.subnets not in chosen.peers


def test_scope_spans_the_networks_of_earlier_runs_and_our_devices() -> None:
    scope = plan(planner()).scope
    assert scope.networks == (*NETWORKS, ip_network("10.9.0.0/16"))
    assert scope.devices == {"flannel.1"}


def test_a_lease_that_we_object_to_is_left_out_and_named() -> None:
    chosen = planner()
    thief = replace(lease(2), subnets=(ip_network("10.244.1.128/25"),))
    assert routes(plan(chosen, thief, lease(3))) == {"10.244.3.0/24"}
    assert "overlaps our own" in problems_of(chosen.peers)[thief.key]


def test_of_two_leases_with_one_mac_the_first_key_has_it_in_whatever_order_they_come() -> None:
    for order in ((lease(2, mac=9), lease(3, mac=9)), (lease(3, mac=9), lease(2, mac=9))):
        chosen = planner()
        desired = plan(chosen, *order)
        fdb = [entry.dst for entry in desired.entries.values() if isinstance(entry, FdbEntry)]
        assert fdb == [IPv4Address("192.0.2.2")]
        assert routes(desired) == {"10.244.2.0/24"}
        assert "10.244.2.0/24 (192.0.2.2) has already" in problems_of(chosen.peers)["10.244.3.0-24"]


def test_plans_follow_lease_facts_reach_and_our_own_lease() -> None:
    chosen = planner(direct_routing=True)
    peer = lease(2)
    public = peer.attrs.public_ip
    assert public is not None
    assert chosen.publics([peer]) == {public}
    far = plan(chosen, peer)
    near = chosen.plan(OWN, [peer], FACTS, {public: Reached(Reach.ON_LINK, "eth0")}, frozenset())
    assert routes(far) == routes(near)
    assert chosen.peers[peer.subnets].path == ("direct",)
    again = plan(chosen, peer)
    assert again == far
    bigger = replace(FACTS, external=replace(FACTS.external, mtu=9000))
    assert plan(chosen, peer, facts=bigger).entries != far.entries
    assert plan(chosen, peer, own=peer).entries.keys().isdisjoint({("route", "10.244.2.0/24", "0")})


def test_an_unchanged_peer_is_not_planned_again() -> None:
    chosen = planner()
    first = plan(chosen, lease(2), lease(3))
    second = plan(chosen, lease(2), lease(3), lease(4))
    key = ("route", "10.244.2.0/24", "0")
    assert second.entries[key] is first.entries[key]
