"""Kernel behaviour that the code relies on. Where one of these fails, a comment in flanneld_py/netlink is wrong."""

import asyncio
from ipaddress import ip_address, ip_network

import pytest
from pyroute2 import NetlinkError

from flanneld_py.model.entry import Neighbour, Op, Route, Verb
from flanneld_py.netlink import codec, wire
from flanneld_py.netlink.links import find_links
from flanneld_py.netlink.netns import in_netns
from flanneld_py.netlink.socket import NetlinkSocket, open_socket
from flanneld_py.netlink.uvtransport import LoopIPRoute
from flanneld_py.netlink.wire import NLM_F_ACK, NLMSG_ERROR, NLMSG_NOOP, encode_message
from tests.netns.space import Namespace, vxlan


def route(text: str = "10.244.7.0/24", **fields: object) -> Route:
    return Route(ip_network(text), "eth0", ip_address("192.0.2.9"), **fields)  # type: ignore[arg-type]


def requests(sock: NetlinkSocket, *ops: Op) -> dict[str, wire.Refusal]:
    """The refusals, by the text of the op."""
    index_of = {name: state.index for name, state in find_links(sock, ["eth0", "flannel.1"]).items()}
    seqs = sock.sequence(len(ops))
    refused = sock.execute([codec.encode(op, seq, index_of) for op, seq in zip(ops, seqs, strict=True)], seqs)
    return {str(op): refused[seq] for op, seq in zip(ops, seqs, strict=True) if seq in refused}


def test_a_no_op_is_acknowledged_after_all_before_it(node: Namespace) -> None:
    """Without an acknowledgement of their own, requests that succeed are silent and those that fail are not."""
    sock = in_netns(node.path, lambda: open_socket((), 1 << 18))
    index = {"eth0": next(row["ifindex"] for row in node.ip_json("link", "show", "eth0"))}
    good = codec.encode(Op(Verb.ADD, route()), 1, index)
    bad = codec.encode(Op(Verb.DELETE, route("10.244.9.0/24")), 2, index)
    with sock:
        sock.send(good + bad + good + encode_message(NLMSG_NOOP, NLM_F_ACK, 99, b""))
        answers = [message for _ in range(2) for message in wire.messages(sock.recv(65536))]
        with pytest.raises(BlockingIOError):
            sock.recv(65536, 0x40)  # MSG_DONTWAIT
    assert [(message.type, message.seq) for message in answers] == [(NLMSG_ERROR, 2), (NLMSG_ERROR, 99)]
    assert wire.decode_refusal(answers[0]) is not None and wire.decode_refusal(answers[1]) is None


def test_replace_with_create_is_idempotent(node: Namespace) -> None:
    with NetlinkSocket(netns=node.path) as sock:
        assert requests(sock, *[Op(Verb.ADD, route())] * 3) == {}
    assert len(node.ip_json("route", "show", "10.244.7.0/24")) == 1


def test_a_shadowed_route_answers_eexist(node: Namespace) -> None:
    node.ip("route", "add", "10.244.7.0/24", "via", "192.0.2.66", "dev", "eth0")
    node.ip("route", "append", "10.244.7.0/24", "via", "192.0.2.9", "dev", "eth0", "proto", "241")
    with NetlinkSocket(netns=node.path) as sock:
        (refusal,) = requests(sock, Op(Verb.ADD, route())).values()
    assert refusal.errno == 17


def test_an_ipv4_delete_with_metric_zero_matches_any_metric(node: Namespace) -> None:
    node.ip("route", "add", "10.244.7.0/24", "via", "192.0.2.9", "dev", "eth0", "proto", "241", "metric", "50")
    with NetlinkSocket(netns=node.path) as sock:
        assert requests(sock, Op(Verb.DELETE, route())) == {}
    assert node.ip_json("route", "show", "10.244.7.0/24") == []


def test_a_delete_checks_protocol_device_and_gateway(node: Namespace) -> None:
    node.ip("route", "add", "10.244.7.0/24", "via", "192.0.2.66", "dev", "eth0", "proto", "241")
    node.ip("route", "add", "10.244.8.0/24", "via", "192.0.2.9", "dev", "eth0", "proto", "3")
    ops = [Op(Verb.DELETE, route()), Op(Verb.DELETE, route("10.244.8.0/24"))]
    with NetlinkSocket(netns=node.path) as sock:
        assert {refusal.errno for refusal in requests(sock, *ops).values()} == {3}
    assert len(node.ip_json("route", "show", "root", "10.244.0.0/16")) == 2


def test_refusals_come_with_words(node: Namespace) -> None:
    with NetlinkSocket(netns=node.path) as sock:
        op = Op(Verb.ADD, Route(ip_network("10.244.7.0/24"), "eth0", ip_address("198.51.100.9")))
        (refusal,) = requests(sock, op).values()
    assert (refusal.errno, refusal.text) == (101, "Nexthop has invalid gateway")


def test_the_alias_in_the_creating_message_is_ignored(node: Namespace) -> None:
    async def create() -> None:
        sock = in_netns(node.path, lambda: open_socket((), 1 << 18, [wire.NETLINK_EXT_ACK]))
        connection = LoopIPRoute(use_socket=sock)
        await connection.link("add", ifname="br7", kind="bridge", IFLA_IFALIAS="ours")
        with pytest.raises(NetlinkError):
            await connection.link("add", ifname="br7", kind="bridge")
        await connection.aclose()

    asyncio.run(create())
    assert "ifalias" not in node.ip_json("link", "show", "br7")[0]


def test_another_mac_flushes_permanent_neighbours(node: Namespace) -> None:
    vxlan(node)
    entry = Neighbour("flannel.1", ip_address("10.244.7.0"), "02:00:5e:00:53:07")
    with NetlinkSocket(netns=node.path) as sock:
        assert requests(sock, Op(Verb.ADD, entry)) == {}
    assert node.ip("neigh", "show", "dev", "flannel.1", "nud", "permanent")
    node.ip("link", "set", "flannel.1", "address", "02:00:5e:00:53:aa")
    assert not node.ip("neigh", "show", "dev", "flannel.1", "nud", "permanent")


def test_a_device_that_goes_down_loses_routes_and_neighbours(node: Namespace) -> None:
    vxlan(node)
    entry = Neighbour("flannel.1", ip_address("10.244.7.0"), "02:00:5e:00:53:07")
    onlink = Route(ip_network("10.244.7.0/24"), "flannel.1", ip_address("10.244.7.0"), onlink=True)
    with NetlinkSocket(netns=node.path) as sock:
        assert requests(sock, Op(Verb.ADD, entry), Op(Verb.ADD, onlink)) == {}
    node.ip("link", "set", "flannel.1", "down")
    assert node.ip_json("route", "show", "10.244.7.0/24") == []
    assert not node.ip("neigh", "show", "dev", "flannel.1", "nud", "permanent")


def test_an_ipv6_gateway_inside_the_replaced_route_is_refused(node: Namespace) -> None:
    vxlan(node)
    node.ip("-6", "route", "add", "fd00:7::/64", "via", "2001:db8::9", "dev", "eth0", "proto", "241")
    op = Op(Verb.CHANGE, Route(ip_network("fd00:7::/64"), "flannel.1", ip_address("fd00:7::"), onlink=True))
    with NetlinkSocket(netns=node.path) as sock:
        (refusal,) = requests(sock, op).values()
    assert refusal.errno == 22
