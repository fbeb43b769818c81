from dataclasses import replace
from ipaddress import IPv4Address, ip_interface, ip_network

import pytest

from flanneld_py.backend.table import read_backend
from flanneld_py.backend.udp import UdpBackend, UdpData
from flanneld_py.errors import ConfigError
from flanneld_py.model.config import BackendConfig
from flanneld_py.model.entry import Address, Link, LinkUp, Route, Sysctl, UdpPeer, UdpWorker
from flanneld_py.model.lease import Lease, LeaseAttrs
from flanneld_py.model.node import ExternalInterface, NodeFacts, Reach, Reached

LOCAL, PUBLIC = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")
NETWORK, OURS, THEIRS = map(ip_network, ("10.244.0.0/16", "10.244.1.0/24", "10.244.2.0/24"))
NODE = NodeFacts(ExternalInterface("eth0", 2, 1500, LOCAL, None, LOCAL), "flanneld test", networks=(NETWORK,))
OWN = Lease((OURS,), LeaseAttrs(LOCAL))
BACKEND = UdpBackend()


def peer(data: str | None = None, backend_type: str = "") -> Lease:
    return Lease((THEIRS,), LeaseAttrs(PUBLIC, None, backend_type, data))


def read(options: dict[str, object], versions: tuple[int, ...] = (4,)) -> tuple[object, list[ConfigError], list[str]]:
    return read_backend(BackendConfig("udp", {"Type": "udp"} | options), versions, "test")


def test_one_device_takes_the_whole_network() -> None:
    plan = BACKEND.local_plan(OWN, NODE)
    assert plan == (
        Link("flannel0", "tun", 1472, None, "flanneld test"),
        Sysctl("net/ipv4/conf/flannel0/accept_local", "1", "flannel0"),
        Address("flannel0", ip_interface("10.244.1.0/32")),
        LinkUp("flannel0"),
        UdpWorker("flannel0", LOCAL, 8285, OURS, 1472, by_sender=True),  # type: ignore[arg-type]
        Route(NETWORK, dev="flannel0"),
        Sysctl("net/ipv4/ip_forward", "1"),
    )
    assert BACKEND.mtu(NODE) == 1472


def test_a_lane_is_chosen_by_the_processor_where_the_interface_keeps_a_sender_on_one() -> None:
    steady = replace(NODE, external=replace(NODE.external, steady=True))
    (worker,) = (entry for entry in BACKEND.local_plan(OWN, steady) if isinstance(entry, UdpWorker))
    assert not worker.by_sender


def test_pods_send_full_trains_where_super_packets_are_used_at_all() -> None:
    assert BACKEND.gso_max_size(NODE) == 44 * (1472 - 40) + 513
    assert replace(BACKEND, offload=BACKEND.offload - {"tso"}).gso_max_size(NODE) is None


def test_a_super_packet_is_never_more_than_a_train_nor_than_a_device_may_have() -> None:
    for mtu in (*range(400, 2000), *range(2000, 65508, 97), 65507):
        size = replace(BACKEND, mtu_option=mtu + 28).gso_max_size(NODE)
        if size is None:
            assert mtu > 8000
            continue
        assert size < 65536
        segments = {(size - free) // (mtu - headers) for free in (193, 257, 321, 513) for headers in (40, 52)}
        assert max(segments) == min(64, 65507 // mtu)


def test_the_type_is_published_as_upstream_does_and_the_port_beside_it() -> None:
    attrs = BACKEND.attrs(NODE)
    assert attrs.backend_type == ""
    assert attrs.backend_data == '{"Port":8285}'


def test_behind_a_nat_the_interfaces_own_address_is_published_as_a_source() -> None:
    natted = replace(NODE, external=replace(NODE.external, public4=IPv4Address("203.0.113.9")))
    assert BACKEND.attrs(natted).backend_data == '{"Port":8285,"Sources":["192.0.2.1"]}'


@pytest.mark.parametrize(
    ("data", "port", "sources"),
    [
        (None, 8285, ()),
        ("{}", 8285, ()),
        ('"text of another backend"', 8285, ()),
        ('{"Port":9000}', 9000, ()),
        ('{"port":9000,"SOURCES":["198.51.100.7","192.0.2.2"]}', 9000, (IPv4Address("198.51.100.7"),)),
    ],
)
def test_a_peer_is_reached_at_its_own_port(data: str | None, port: int, sources: tuple[IPv4Address, ...]) -> None:
    plan = BACKEND.peer_plan(peer(data), NODE, {})
    assert plan.entries == (UdpPeer("flannel0", THEIRS, PUBLIC, port, 1472, sources),)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lease", "why"),
    [
        (peer(backend_type="vxlan"), "it runs the backend vxlan, we run udp or alloc"),
        (peer('{"Port":0}'), "port 0"),
        (peer('{"Port":true}'), "port True"),
        (peer('{"Port":"8285"}'), "port '8285'"),
        (peer('{"Sources":"192.0.2.9"}'), "not a short list"),
        (peer('{"Sources":["nowhere"]}'), "no address"),
        (peer('{"Sources":' + str(["192.0.2.9"] * 17).replace("'", '"') + "}"), "not a short list"),
        (peer("{"), "Expecting"),
        (peer("[" * 100_000), "recursion"),
        (Lease((ip_network("fd00::/64"),), LeaseAttrs(PUBLIC)), "no public IPv4 address"),
    ],
)
def test_what_is_wrong_in_a_lease_is_a_problem_of_that_peer(lease: Lease, why: str) -> None:
    plan = BACKEND.peer_plan(lease, NODE, {})
    assert plan.entries == ()
    assert why in plan.problems[0]


def test_a_narrow_way_makes_the_peers_mtu_smaller_and_no_way_is_a_problem() -> None:
    narrow = BACKEND.peer_plan(peer(), NODE, {PUBLIC: Reached(Reach.ROUTED, "eth0", 1400)})
    assert [entry.mtu for entry in narrow.entries if isinstance(entry, UdpPeer)] == [1372]
    absurd = BACKEND.peer_plan(peer(), NODE, {PUBLIC: Reached(Reach.ROUTED, "eth0", 30)})
    assert [entry.mtu for entry in absurd.entries if isinstance(entry, UdpPeer)] == [68]
    nowhere = BACKEND.peer_plan(peer(), NODE, {PUBLIC: Reached(Reach.UNREACHABLE)})
    assert nowhere.entries == ()
    assert "no route" in nowhere.problems[0]


def test_options_are_read_whatever_their_case() -> None:
    found, errors, warnings = read(
        {"port": 9000, "SOURCEVALIDATION": "Loose", "gso": False, "uso": False, "Pump": "portable"}
    )
    assert (errors, warnings) == ([], [])
    assert found == UdpBackend(9000, "loose", frozenset({"tso", "gro"}), "portable")


@pytest.mark.parametrize(
    "options",
    [{"Port": 0}, {"Port": 65536}, {"SourceValidation": "some"}, {"GSO": "perhaps"}, {"Pump": "fast"}, {"Prot": 1}],
)
def test_a_wrong_option_is_an_error_that_names_it(options: dict[str, object]) -> None:
    found, errors, _ = read(options)
    assert found is None
    assert len(errors) == 1
    assert next(iter(options)) in str(errors[0])


def test_ipv6_is_refused_and_a_hopeless_mtu_says_how_much_it_takes() -> None:
    _, errors, _ = read({}, (4, 6))
    assert "IPv4 alone" in str(errors[0])
    with pytest.raises(ConfigError, match="at least 96"):
        UdpBackend(mtu_option=90).mtu(NODE)


def test_published_data_is_read_back() -> None:
    for data in (UdpData(8285), UdpData(1, (IPv4Address("192.0.2.9"),))):
        assert UdpData.parse(data.format()) == data
