"""The underlay becomes narrower, here or behind a router: senders are told, and nothing stops."""

import errno
import json
import socket
from contextlib import closing

from flanneld_py.lab.namespaces import inside
from flanneld_py.lab.topology import Underlay
from flanneld_py.lab.traffic import Endpoint
from tests.daemon.field import ip, ip_json
from tests.interop.cluster import IP_MTU_DISCOVER, PMTUDISC_DO, echo
from tests.udp.conftest import UdpFieldOf
from tests.udp.overlay import UdpField
from tests.udp.streams import CheckedStream
from tests.waiting import eventually

MEGABYTE = 1 << 20
IP_MTU = 14
"""include/uapi/linux/in.h; not in Python's socket module."""


def told_mtu(source: Endpoint, target: Endpoint, size: int) -> int:
    """What the kernel of `source` holds for the MTU of the way after an unfragmented packet of that size was tried."""

    def opened() -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    with closing(inside(source.namespace, opened)) as sock:
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DO)
        sock.connect((str(target.address), 9))
        try:
            sock.send(bytes(size - 28))
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ECONNREFUSED):
                raise
        return sock.getsockopt(socket.IPPROTO_IP, IP_MTU)


def wait_mtu(field: UdpField, number: int, mtu: int) -> None:
    eventually("subnet.env follows", lambda: field.mtu(number) == mtu, lambda: field.mtu(number))


def test_the_mtu_of_the_underlay_is_followed(field: UdpField) -> None:
    places = field.endpoints()
    one, two = places["pod1-1"], places["pod2-1"]
    with CheckedStream(one, two) as stream:
        stream.wait_for(20 * MEGABYTE)
        for mtu in (1400, 1500):
            field.hand(1, f"link set eth0 mtu {mtu}")
            field.hand(2, f"link set eth0 mtu {mtu}")
            for number in (1, 2):
                wait_mtu(field, number, mtu - 28)
                field.wait_well(number)
            stream.wait_for(20 * MEGABYTE)
            for pod in (one, two):
                ip(pod.namespace, "route flush cache")  # a way that was narrow counts as such for ten minutes
            assert echo(one, two, mtu - 28, fragments=False)
        stream.finish()
    worker = field.worker(1)
    assert "gso" in worker["offload"], "trains were given up for an MTU that is no more"


def test_a_narrow_way_behind_a_router_is_learned_and_told(field_of: UdpFieldOf) -> None:
    field = field_of(nodes=3, underlay=Underlay.ROUTED)
    for number in (1, 2, 3):
        field.wait_well(number)
    places = field.endpoints()
    one, two, three = (places[f"pod{number}-1"] for number in (1, 2, 3))
    with CheckedStream(one, three) as stream:
        stream.wait_for(20 * MEGABYTE)
        ip(field.lab.topology.router, "link set link2 mtu 1400")
        stream.wait_for(20 * MEGABYTE)
        eventually("senders hear of the narrow way", lambda: told_mtu(one, three, 1472) == 1372)
        stream.wait_for(20 * MEGABYTE)
        stream.finish()
    assert "gso" in field.worker(1)["offload"]
    assert echo(one, three, 1372, fragments=False)
    assert echo(one, three, 1472, fragments=True)
    assert told_mtu(one, two, 1472) == 1472, "the way to another peer is as wide as before"
    assert echo(one, two, 1472, fragments=False)


def test_single_datagrams_are_enough_to_learn_of_a_narrow_way(field_of: UdpFieldOf) -> None:
    """No train is refused, and the kernel fragments in silence: only the router's ICMP message tells."""
    field = field_of(nodes=3, underlay=Underlay.ROUTED)
    for number in (1, 2, 3):
        field.wait_well(number)
    places = field.endpoints()
    one, three = places["pod1-1"], places["pod3-1"]
    # The last look at the kernel of its own accord, so that the timer is a minute away.
    eventually("no address is new", lambda: not ip_json(field.namespace(1), "-6", "address", "show", "tentative"))
    gateway = field.lab.topology.links[0].gateways[0].ip
    field.hand(1, f"route add {field.public(3)}/32 via {gateway} mtu 1450")
    eventually("the route is followed", lambda: told_mtu(one, three, 1472) == 1422)
    before = field.worker(1)["outbound"]
    path = field.folder(1) / "status.json"

    def has_seen() -> bool:
        worker = json.loads(path.read_text())["worker"]
        return worker is not None and all(worker["outbound"][name] == before[name] for name in ("replayed", "drops"))

    eventually("the daemon knows what was refused so far", has_seen)
    ip(field.lab.topology.router, "link set link2 mtu 1400")
    eventually("senders hear of the narrow way", lambda: told_mtu(one, three, 1422) == 1372)
    after = field.worker(1)["outbound"]
    assert (after["trains"], after["replayed"]) == (before["trains"], before["replayed"])
    assert echo(one, three, 1472, fragments=True)
