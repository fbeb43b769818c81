"""Checksum offload of a real VXLAN device, set by us and read by another implementation."""

import errno
import fcntl
import socket
from array import array
from struct import pack

import pytest
from pyroute2 import Ethtool

from flanneld_py.model.entry import Desired, Failure, Op, TxChecksum, Verb
from flanneld_py.netlink.ethtool import EthtoolApplier
from flanneld_py.netlink.netns import in_netns
from tests.netns.space import Namespace, vxlan

FEATURE = "tx-checksum-ip-generic"


def features(space: Namespace, dev: str = "flannel.1") -> dict[str, bool]:
    """By ethtool's netlink family, where ours is the ioctl."""

    def read() -> dict[str, bool]:
        with Ethtool() as tool:
            return {name: feature.enable for name, feature in tool.get_features(dev).features.items()}

    return in_netns(space.path, read)


async def known(space: Namespace, *entries: TxChecksum) -> list[object]:
    found = await EthtoolApplier(netns=space.path).known(Desired({entry.key: entry for entry in entries}))
    return list(found.values())


async def apply(space: Namespace, *entries: TxChecksum, verb: Verb = Verb.ADD) -> list[Failure]:
    return await EthtoolApplier(netns=space.path).apply([Op(verb, entry) for entry in entries])


async def test_it_is_set_both_ways_and_read_back(node: Namespace) -> None:
    vxlan(node)
    on, off = TxChecksum("flannel.1", True), TxChecksum("flannel.1", False, "a NAT lies between")
    assert features(node)[FEATURE] is True
    assert await known(node, off) == [on]
    for _ in range(2):
        assert await apply(node, off) == []
        assert features(node)[FEATURE] is False
        assert await known(node, on) == [off]
    assert await apply(node, on, verb=Verb.CHANGE) == []
    assert features(node)[FEATURE] is True


async def test_segmentation_comes_back_with_it(node: Namespace) -> None:
    vxlan(node)
    before = features(node)
    assert before["tx-tcp-segmentation"] is True
    assert await apply(node, TxChecksum("flannel.1", False)) == []
    assert features(node)["tx-tcp-segmentation"] is False
    assert await apply(node, TxChecksum("flannel.1", True)) == []
    assert features(node) == before


async def test_a_device_that_is_not_there(node: Namespace) -> None:
    entry = TxChecksum("flannel.9", False)
    assert await known(node, entry) == []
    (failure,) = await apply(node, entry)
    assert (failure.errno, failure.cannot) == (errno.ENODEV, False)
    assert str(failure) == "cannot add tx-checksum off dev flannel.9: No such device; there is no interface flannel.9"
    assert await apply(node, entry, verb=Verb.DELETE) == []


async def test_a_device_that_cannot_is_said_once_with_the_mend(node: Namespace) -> None:
    """The loopback's checksums are fixed (drivers/net/loopback.c)."""
    (failure,) = await apply(node, TxChecksum("lo", False))
    assert failure.cannot
    assert "ethtool -k lo" in str(failure)


async def test_a_name_longer_than_the_kernels_is_no_other_device(node: Namespace) -> None:
    node.ip("link", "add", "abcdefghijklmno", "type", "bridge")
    (failure,) = await apply(node, TxChecksum("abcdefghijklmnopq", False))
    assert failure.errno == errno.ENODEV


@pytest.mark.parametrize("command", [0x16, 0x17])
def test_the_kernel_knows_the_ioctl_on_every_device(node: Namespace, command: int) -> None:
    """The fact that this rests on: struct ethtool_value in and out, whatever the kind of device."""
    vxlan(node)
    words = array("I", (command, 1))
    with in_netns(node.path, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        fcntl.ioctl(sock, 0x8946, pack("=16sQ", b"flannel.1", words.buffer_info()[0]))
    assert words[1] == 1
