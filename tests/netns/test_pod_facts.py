"""Kernel behaviour on which connecting pods relies, from beside the pod's namespace; on other kernels too."""

import os
import socket
from functools import partial
from ipaddress import ip_interface
from pathlib import Path

import pytest

from flanneld_py.netlink.netns import in_netns
from flanneld_py.netlink.podcodec import Pair, encode_address, encode_bridge, encode_flags, encode_hairpin, encode_pair
from flanneld_py.netlink.socket import NetlinkSocket
from flanneld_py.pods import wiring
from flanneld_py.pods.place import PlaceError, open_directory
from tests.netns.space import Namespace
from tests.waiting import eventually

UP = 1


def carried_out(sock: NetlinkSocket, *requests: "partial[bytes]") -> bool:
    seqs = sock.sequence(len(requests))
    return sock.execute([make(seq) for make, seq in zip(requests, seqs, strict=True)], seqs) == {}


def test_a_pair_is_made_in_two_namespaces_by_one_message(netns: Namespace, netns_beside: Namespace) -> None:
    """The outer end is a port in hairpin mode, and comes up when the inner one does."""
    namespace = os.open(netns_beside.path, os.O_RDONLY)
    with NetlinkSocket(netns=netns.path) as host, NetlinkSocket(netns=netns_beside.path) as inner:
        assert carried_out(host, partial(encode_bridge, "br0", 1400, bytes.fromhex("020000000001")))
        (bridge,) = wiring.find(host, "br0")
        assert bridge is not None and bridge.kind == "bridge" and bridge.mac == "02:00:00:00:00:01"
        macs = bytes.fromhex("020000000002"), bytes.fromhex("020000000003")
        pair = Pair("outer", macs[0], bridge.index, "eth0", macs[1], namespace, 1300)
        assert carried_out(host, partial(encode_pair, pair), partial(encode_hairpin, "outer"))
        (outer,) = wiring.find(host, "outer")
        assert outer is not None and not outer.up
        address = ip_interface("10.0.0.2/24")
        assert carried_out(inner, partial(encode_address, outer.peer, address), partial(encode_flags, outer.peer, UP))
        eventually("the port is up", lambda: (port := wiring.find(host, "outer")[0]) is not None and port.up)
    os.close(namespace)
    (shown,) = netns_beside.ip_json("addr", "show", "eth0")
    assert (shown["mtu"], shown["address"], shown["addr_info"][0]["broadcast"]) == (
        1300,
        "02:00:00:00:00:03",
        "10.0.0.255",
    )
    (port,) = netns.bridge_json("link", "show", "dev", "outer")
    assert port["master"] == "br0" and port["hairpin"]


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_a_directory_of_settings_stays_its_namespaces(netns: Namespace, netns_beside: Namespace, family: str) -> None:
    """Opened in one namespace it shows that one's devices and writes their settings, used from another."""
    netns_beside.ip("link", "add", "eth0", "type", "bridge")
    flags = os.O_RDONLY | os.O_DIRECTORY
    conf = in_netns(netns_beside.path, lambda: os.open(f"/proc/sys/net/{family}/conf", flags))
    name = {"ipv4": "arp_notify", "ipv6": "accept_dad"}[family]

    def write() -> None:
        wiring._set(conf, f"eth0/{name}", "7")

    in_netns(netns.path, write)
    os.close(conf)
    shown = in_netns(netns_beside.path, lambda: Path(f"/proc/sys/net/{family}/conf/eth0/{name}").read_text())
    assert shown == "7\n"


def test_a_netlink_socket_obeys_who_holds_it(netns: Namespace, netns_beside: Namespace) -> None:
    """One that another process opened, elsewhere, works where it was opened."""
    given = in_netns(netns_beside.path, lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE))
    with NetlinkSocket(given=given) as sock:
        made = in_netns(netns.path, lambda: carried_out(sock, partial(encode_bridge, "br7", 1400, b"\2\0\0\0\0\7")))
    there, here = ({link["ifname"] for link in space.ip_json("link")} for space in (netns_beside, netns))
    assert made and "br7" in there and "br7" not in here


def test_links_are_followed_below_the_root_that_was_given(tmp_path: Path) -> None:
    """And never above it: openat2(2)."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("/real")
    (tmp_path / "escape").symlink_to("../../../etc")
    root = os.open(tmp_path, os.O_PATH)
    for path in ("/link/new", "/real/other"):
        os.close(open_directory(root, path, 0o700))
    assert sorted(path.name for path in (tmp_path / "real").iterdir()) == ["new", "other"]
    with pytest.raises(PlaceError):
        os.close(open_directory(root, "/escape/passwd", 0o700))
    os.close(root)
