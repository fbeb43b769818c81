"""The batch path against a real kernel: how many system calls, what happens when answers are lost, who is named."""

import asyncio
import errno
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
import uvloop

from flanneld_py.errors import KernelError
from flanneld_py.model.entry import Desired, Entry, Failure, FdbEntry, Neighbour, Op, Route, Scope, Verb
from flanneld_py.netlink import codec, wire
from flanneld_py.netlink.applier import NetlinkApplier
from flanneld_py.netlink.netns import in_netns
from flanneld_py.netlink.socket import NetlinkSocket
from tests.netns.space import Namespace, counted_calls, vxlan

SCOPE = Scope((ip_network("10.244.0.0/16"),), frozenset({"flannel.1"}))


def peers(count: int) -> list[Entry]:
    """Three entries each, as a VXLAN backend asks for."""
    entries: list[Entry] = []
    for number in range(1, count + 1):
        net = ip_network((int(ip_address("10.0.0.0")) + (number << 8), 24))
        mac = f"02:00:5e:01:{number >> 8:02x}:{number & 255:02x}"
        entries += [
            Neighbour("flannel.1", net.network_address, mac),
            FdbEntry("flannel.1", mac, ip_address("192.0.2.2") + number % 200),
            Route(net, "flannel.1", net.network_address, onlink=True),
        ]
    return entries


def wanted(*entries: Entry) -> Desired:
    return Desired({entry.key: entry for entry in entries}, SCOPE)


async def test_a_thousand_peers_take_a_few_system_calls(node: Namespace) -> None:
    """Three to find the device, then two a batch: one that sends, one that reads the answer to its end."""
    vxlan(node)
    entries = peers(1000)
    few = 3 + 2 * -(-len(entries) // 256)
    async with NetlinkApplier(netns=node.path) as applier:
        with counted_calls(applier._sock) as calls:
            assert await applier.apply([Op(Verb.ADD, entry) for entry in entries]) == []
        assert calls.count <= few
        with counted_calls(applier._sock) as calls:
            known = await applier.known(wanted(*entries))
        assert {key: known[key] for key in known.keys() & {e.key for e in entries}} == {e.key: e for e in entries}
        assert calls.count < len(entries) / 20
        with counted_calls(applier._sock) as calls:
            assert await applier.apply([Op(Verb.DELETE, entry) for entry in entries]) == []
        assert calls.count <= few
        assert not await applier.known(wanted(*entries)) & wanted(*entries).entries.keys()


async def test_the_loop_breathes_between_batches(node: Namespace) -> None:
    vxlan(node)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with NetlinkApplier(netns=node.path) as applier:
        task = asyncio.create_task(others())
        assert await applier.apply([Op(Verb.ADD, entry) for entry in peers(500)]) == []
        task.cancel()
    assert turns >= 5


async def test_each_failure_names_its_object_and_the_kernels_words(node: Namespace) -> None:
    good = Route(ip_network("10.244.1.0/24"), "eth0", ip_address("192.0.2.9"))
    bad = replace(good, dst=ip_network("10.244.2.0/24"), via=ip_address("198.51.100.9"))
    ops = [Op(Verb.ADD, entry) for entry in (good, bad, replace(good, dst=ip_network("10.244.3.0/24")))]
    async with NetlinkApplier(netns=node.path) as applier:
        (failure,) = await applier.apply(ops)
        assert (failure.op, failure.errno, failure.cannot) == (ops[1], errno.ENETUNREACH, False)
        assert str(failure) == (
            "cannot add route 10.244.2.0/24 via 198.51.100.9 dev eth0: Nexthop has invalid gateway "
            "(Network is unreachable); the gateway 198.51.100.9 is not on a link of eth0"
        )
    assert len(node.ip_json("route", "show", "proto", "241")) == 2


async def test_without_the_capability_every_op_is_a_cannot(node: Namespace) -> None:
    """A socket opened by a thread without CAP_NET_ADMIN has none for ever (netlink checks opener and caller)."""
    async with NetlinkApplier(netns=node.path) as applier:
        failures: list[Failure] = []

        def try_it() -> None:
            drop_net_admin()
            ops = [Op(Verb.ADD, Route(ip_network("10.244.1.0/24"), "eth0")), Op(Verb.DELETE, peers(1)[2])]
            failures.extend(asyncio.run(applier.apply(ops)))

        await asyncio.to_thread(lambda: in_netns(node.path, try_it))
    assert [(failure.errno, failure.cannot) for failure in failures][:1] == [(errno.EPERM, True)]
    assert failures[0].hint is not None and "CAP_NET_ADMIN" in failures[0].hint


def drop_net_admin() -> None:
    """For the calling thread alone: capset(2) with version 3 and an effective set without CAP_NET_ADMIN (bit 12)."""
    import ctypes
    import struct

    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0), 8)
    data = ctypes.create_string_buffer(24)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, data) == 0
    words = list(struct.unpack("=6I", data.raw))
    words[0] &= ~(1 << 12)
    assert libc.capset(header, ctypes.create_string_buffer(struct.pack("=6I", *words), 24)) == 0


def test_lost_answers_are_asked_for_again(node: Namespace) -> None:
    """A receive buffer too small for the answers of a batch: the kernel drops some and says ENOBUFS."""
    (index,) = (row["ifindex"] for row in node.ip_json("link", "show", "eth0"))
    ops = [Op(Verb.DELETE, Route(ip_network(f"10.244.{n}.0/24"), "eth0")) for n in range(200)]
    with NetlinkSocket(netns=node.path, receive_bytes=8192) as sock:
        sock.batch = 200
        seqs = sock.sequence(len(ops))
        data = [codec.encode(op, seq, {"eth0": index}) for op, seq in zip(ops, seqs, strict=True)]
        with counted_calls(sock) as calls:
            refused = sock.execute(data, seqs)
    assert {seq: refusal.errno for seq, refusal in refused.items()} == dict.fromkeys(seqs, errno.ESRCH)
    assert calls.count > 202


def test_a_batch_fits_the_receive_buffer(node: Namespace) -> None:
    with NetlinkSocket(netns=node.path, receive_bytes=16384) as small, NetlinkSocket(netns=node.path) as large:
        assert 1 <= small.batch < 64
        assert large.batch == 256


def test_a_refused_dump_is_an_error(node: Namespace) -> None:
    with NetlinkSocket(netns=node.path) as sock, pytest.raises(KernelError, match="dump: Invalid argument"):
        sock.dump(lambda seq: wire.encode_message(codec.RTM_GETROUTE, wire.NLM_F_DUMP, seq, bytes([2, 99]) + bytes(10)))


async def test_a_shadowed_route_of_ours_takes_over(node: Namespace) -> None:
    """Two routes to one peer, the wrong one first: what another daemon leaves behind."""
    mine = Route(ip_network("10.244.7.0/24"), "eth0", ip_address("192.0.2.9"))
    node.ip("route", "add", "10.244.7.0/24", "via", "192.0.2.66", "dev", "eth0")
    node.ip("route", "append", "10.244.7.0/24", "via", "192.0.2.9", "dev", "eth0", "proto", "241")
    async with NetlinkApplier(netns=node.path) as applier:
        assert await applier.known(wanted(mine)) == {mine.key: replace(mine, via=ip_address("192.0.2.66"), protocol=3)}
        assert await applier.apply([Op(Verb.CHANGE, mine)]) == []
        assert await applier.known(wanted(mine)) == {mine.key: mine}
    assert len(node.ip_json("route", "show", "10.244.7.0/24")) == 1


async def test_a_socket_that_is_gone_fails_every_op_and_raises_nothing(node: Namespace) -> None:
    applier = NetlinkApplier(netns=node.path)
    await applier.close()
    with pytest.raises((KernelError, OSError)):
        await applier.known(wanted())


def test_it_works_on_uvloop(node: Namespace) -> None:
    async def run() -> dict[tuple[str, ...], Entry]:
        route = Route(ip_network("10.244.7.0/24"), "eth0", ip_address("192.0.2.9"))
        async with NetlinkApplier(netns=node.path) as applier:
            assert await applier.apply([Op(Verb.ADD, route)]) == []
            return await applier.known(wanted(route))

    assert len(uvloop.run(run())) == 1
