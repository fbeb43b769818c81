from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest

from flanneld_py.model.lease import Changed, Gone, Lease, LeaseAttrs, Snapshot
from flanneld_py.model.leaseset import LeaseSet, objection

NETWORK = (ip_network("10.244.0.0/16"),)


def lease(third: int, public: str | None = None, **attrs: str) -> Lease:
    address = IPv4Address(public or f"192.0.2.{third}")
    return Lease((ip_network(f"10.244.{third}.0/24"),), LeaseAttrs(address, None, "vxlan", **attrs))


OWN = lease(1)


def test_a_repeated_message_changes_nothing() -> None:
    leases = LeaseSet()
    assert leases.apply(Changed(lease(2))) == {lease(2).subnets}
    assert leases.apply(Changed(replace(lease(2), expires=5.0))) == frozenset()
    assert leases.apply(Gone(lease(3).subnets)) == frozenset()


def test_a_new_attribute_is_a_change_also_in_a_snapshot() -> None:
    leases = LeaseSet()
    leases.apply(Snapshot((lease(2), lease(3))))
    moved = lease(2, "192.0.2.99")
    assert leases.apply(Snapshot((moved, lease(3)))) == {moved.subnets}
    assert leases.get(moved.subnets) == moved


def test_what_a_snapshot_does_not_name_is_gone() -> None:
    leases = LeaseSet()
    leases.apply(Snapshot((lease(2), lease(3))))
    assert leases.apply(Snapshot((lease(3),))) == {lease(2).subnets}
    assert list(leases) == [lease(3)]


@pytest.mark.parametrize(
    ("peer", "why"),
    [
        (Lease((ip_network("10.99.1.0/24"),), lease(2).attrs), "not inside the network"),
        (Lease((ip_network("10.244.0.0/16"),), lease(2).attrs), "overlaps our own subnet 10.244.1.0/24"),
        (Lease((ip_network("10.244.1.128/25"),), lease(2).attrs), "overlaps our own"),
        (Lease((ip_network("fd00::/64"),), lease(2).attrs), "not inside the network"),
        (lease(2, "0.0.0.0"), "no public IPv4 address"),
        (lease(2, "127.0.0.1"), "no address of a node"),
        (lease(2, "224.0.0.9"), "no address of a node"),
        (lease(2, "255.255.255.255"), "no address of a node"),
        (lease(2, "10.244.2.9"), "inside its own subnet"),
        (lease(2, "192.0.2.1"), "our own public address"),
    ],
)
def test_a_lease_that_could_take_traffic_is_objected_to(peer: Lease, why: str) -> None:
    found = objection(peer, OWN, NETWORK)
    assert found is not None
    assert why in found


def test_a_plain_peer_is_not_objected_to() -> None:
    assert objection(lease(2), OWN, NETWORK) is None


def test_dual_stack_peer_needs_an_address_of_each_family() -> None:
    nets = (*NETWORK, ip_network("fd00:10::/48"))
    dual = Lease((lease(2).subnets[0], ip_network("fd00:10:0:2::/64")), lease(2).attrs)
    assert "IPv6" in str(objection(dual, OWN, nets))
    whole = replace(dual, attrs=replace(dual.attrs, public_ipv6=IPv6Address("2001:db8::2")))
    assert objection(whole, OWN, nets) is None
