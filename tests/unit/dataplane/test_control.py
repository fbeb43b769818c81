from ipaddress import IPv4Address, IPv4Network

import pytest

from flanneld_py.dataplane import lpm
from flanneld_py.dataplane.control import Load, decode_message, decode_state, encode_message, make_load
from flanneld_py.model.entry import UdpPeer, UdpWorker

WORKER = UdpWorker("flannel0", IPv4Address("192.0.2.1"), 8285, IPv4Network("10.244.1.0/24"), 1472)
PEERS = (
    UdpPeer("flannel0", IPv4Network("10.244.2.0/24"), IPv4Address("192.0.2.2"), 8285, 1472),
    UdpPeer(
        "flannel0", IPv4Network("10.244.3.0/24"), IPv4Address("192.0.2.3"), 9000, 1372, (IPv4Address("192.0.2.33"),)
    ),
)


def test_a_load_gives_back_what_it_was_made_from() -> None:
    load = Load.decode(make_load(WORKER, PEERS).encode())
    assert decode_state(load.state) == (WORKER, PEERS)


def test_the_image_of_a_load_knows_the_way_to_each_peer() -> None:
    table = lpm.Table(make_load(WORKER, PEERS).image)
    assert table.validation is lpm.Validation.STRICT
    for peer in PEERS:
        found = table.peer(table.lookup(int(peer.subnet.network_address) + 7))
        assert found == (int(peer.address), peer.port, peer.mtu)
    assert table.lookup(int(IPv4Address("10.244.9.9"))) == lpm.NO_PEER
    assert table.knows_source(int(IPv4Address("192.0.2.33")))


def test_only_strict_validation_filters_in_the_kernel() -> None:
    assert make_load(WORKER, PEERS).filter != b""
    for validation in ("loose", "off"):
        worker = UdpWorker("flannel0", WORKER.local, 8285, WORKER.own, 1472, validation)
        assert make_load(worker, PEERS).filter == b""


def test_two_peers_with_one_subnet_are_an_error() -> None:
    twin = UdpPeer("flannel0", PEERS[0].subnet, IPv4Address("192.0.2.9"), 8285, 1472)
    with pytest.raises(ValueError, match=r"10\.244\.2\.0/24"):
        make_load(WORKER, (*PEERS, twin))


@pytest.mark.parametrize("data", [b"", b"x" * 15, b"x" * 16, make_load(WORKER, PEERS).encode()[:-1]])
def test_bytes_that_are_no_load_are_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="load"):
        Load.decode(data)


@pytest.mark.parametrize(
    "state", [b"", b"[]", b"{}", b'{"worker": {}, "peers": []}', b'{"worker": {"x": 1}, "peers": []}']
)
def test_the_state_of_another_version_is_an_error(state: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_state(state)


def test_messages_are_read_back_and_other_versions_refused() -> None:
    assert decode_message(encode_message("linger", seconds=60)) == ("linger", {"seconds": 60})
    for wrong in (b"", b"[]", b"{}", b'{"v": 1, "word": "leave"}', b"\xff"):
        with pytest.raises(ValueError, match=r"."):
            decode_message(wrong)
