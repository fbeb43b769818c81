"""The socket for strangers: counted one by one, remembered within bounds."""

import socket
from contextlib import closing
from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from flanneld_py.dataplane.offload import Offload
from flanneld_py.dataplane.sockfilter import source_filter
from flanneld_py.dataplane.strangers import MOST_PLACES, Strangers, choose_socket, open_strangers
from flanneld_py.dataplane.udpsock import open_udp

LOOPBACK = IPv4Address("127.0.0.1")


def packet(inner: int, size: int = 20) -> bytes:
    return (b"\x45" + bytes(11) + inner.to_bytes(4, "big") + bytes(4)).ljust(size, b".")[:size]


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from([0, 1, 19, 20, 21, 1400])), max_size=60))
def test_each_datagram_counts_and_whole_headers_are_remembered(sent: list[tuple[int, int]]) -> None:
    with open_udp(LOOPBACK, 0, Offload()).sock as pump, open_strangers(pump) as sock:
        choose_socket([pump], source_filter([]))
        strangers = Strangers(sock, 1000)
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
            for at, (inner, size) in enumerate(sent):
                sender.sendto(packet(inner, size), pump.getsockname())
                if at % 10 == 9:  # its queue is short
                    strangers.look()
        strangers.look()
        assert strangers.count == 1000 + len(sent)
        whole = [f"0.0.0.{inner}" for inner, size in sent if size >= 20]
        assert {place["inner"]: place["datagrams"] for place in strangers.places} == {
            inner: whole.count(inner) for inner in whole
        }


def test_a_flood_is_counted_to_the_last_one_and_costs_no_more_memory() -> None:
    """Who comes again and again is remembered, while whoever makes addresses up drives out his own."""
    with open_udp(LOOPBACK, 0, Offload()).sock as pump, open_strangers(pump) as sock:
        choose_socket([pump], source_filter([]))
        strangers = Strangers(sock, 0)
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
            for number in range(3000):
                sender.sendto(packet(7 if number % 50 in (0, 1) else 1000 + number), pump.getsockname())
                if number % 50 == 49:
                    strangers.look()
            for number in range(1000):
                sender.sendto(packet(9000 + number), pump.getsockname())
        assert strangers.count > 3500
        strangers.look()
        assert strangers.count == 4000
        assert len(strangers.places) == MOST_PLACES
        assert {place["inner"]: place["datagrams"] for place in strangers.places}["0.0.0.7"] == 120


def test_the_next_process_counts_on() -> None:
    with open_udp(LOOPBACK, 0, Offload()).sock as pump, open_strangers(pump) as sock:
        choose_socket([pump], source_filter([]))
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
            counts = [0]
            for _ in range(3):
                strangers = Strangers(sock, counts[-1])
                for _ in range(500):
                    sender.sendto(packet(1), pump.getsockname())
                strangers.look()
                counts.append(strangers.count)
    assert counts == [0, 500, 1000, 1500]
