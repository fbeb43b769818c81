"""What changes in the kernel, told as it happens: links, addresses, routes, neighbours and FDB entries of interest.

A node with many containers makes thousands of notices a second that mean nothing to us. A classic BPF program on the
socket drops most of them in the kernel (a full receive queue would otherwise cost a whole resync), and of the rest only
those of interest become values. Notices are hints to look again, never the truth itself.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterator
from dataclasses import dataclass
from errno import ENOBUFS
from ipaddress import IPv4Interface, IPv6Interface
from socket import AF_INET, AF_INET6
from typing import Self

from flanneld_py.model.entry import ROUTE_PROTOCOL, FdbEntry, Neighbour, Route
from flanneld_py.model.net import Net
from flanneld_py.netlink.codec import (
    RTA_DST,
    RTM_DELNEIGH,
    RTM_DELROUTE,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
    RouteMessage,
    decode_notice,
    parse_route,
)
from flanneld_py.netlink.linkcodec import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_NEWADDR,
    RTM_NEWLINK,
    decode_address,
    decode_link,
    link_name,
)
from flanneld_py.netlink.links import read_links
from flanneld_py.netlink.netns import Netns, in_netns
from flanneld_py.netlink.noticefilter import attach_filter
from flanneld_py.netlink.socket import NetlinkSocket, open_socket
from flanneld_py.netlink.wire import Message, messages

GROUPS = (1, 3, 5, 7, 9, 11)
"""RTNLGRP_LINK, NEIGH, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE (include/uapi/linux/rtnetlink.h)."""
_RECEIVE_BYTES = 4 << 20
_READS_A_WAKEUP = 64
_DATAGRAM_BYTES = 1 << 18
_ROUTE_TYPES = frozenset({RTM_NEWROUTE, RTM_DELROUTE})
_ENTRY_TYPES = _ROUTE_TYPES | {RTM_NEWNEIGH, RTM_DELNEIGH}
_FAMILY = {4: AF_INET, 6: AF_INET6}


@dataclass(frozen=True, slots=True)
class LinkNotice:
    """A device of interest is there (perhaps changed), or is gone or renamed."""

    dev: str
    up: bool
    gone: bool


@dataclass(frozen=True, slots=True)
class AddressNotice:
    dev: str
    interface: IPv4Interface | IPv6Interface
    gone: bool


@dataclass(frozen=True, slots=True)
class EntryNotice:
    """A route within the networks or with our mark; a neighbour or FDB entry on a device of interest."""

    entry: Route | Neighbour | FdbEntry
    gone: bool


@dataclass(frozen=True, slots=True)
class Lost:
    """Notices were lost: whatever was read before may be out of date."""


Notice = LinkNotice | AddressNotice | EntryNotice | Lost


class Monitor:
    """An async iterator of notices from the moment it is made, so that a dump read afterwards misses nothing.

    `devices`: names of interest, which need not exist yet; `networks`: destinations of interest. `watch` changes them.
    At most one task iterates. Close it with `close`.
    """

    def __init__(
        self,
        devices: Collection[str],
        networks: Collection[Net],
        *,
        netns: Netns = None,
        receive_bytes: int = _RECEIVE_BYTES,
    ) -> None:
        self._reader = NetlinkSocket(netns=netns)
        self._socket = in_netns(netns, lambda: open_socket(GROUPS, receive_bytes))
        self._socket.setblocking(False)
        self._names: dict[int, str] = {}
        self._pending: deque[Notice] = deque()
        self._ready = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.watch(devices, networks)

    def watch(self, devices: Collection[str], networks: Collection[Net]) -> None:
        self._devices = frozenset(devices)
        self._prefixes = [
            (_FAMILY[net.version], net.prefixlen, net.max_prefixlen, int(net.network_address)) for net in networks
        ]
        self._learn_names()

    def close(self) -> None:
        if self._loop is not None and self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        self._reader.close()
        self._ready.set()

    def __aiter__(self) -> AsyncIterator[Notice]:
        return self

    async def __anext__(self) -> Notice:
        """The next notice; ends when the monitor is closed."""
        while not self._pending:
            if self._socket.fileno() < 0:
                raise StopAsyncIteration
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
                self._loop.add_reader(self._socket.fileno(), self._readable)
            self._ready.clear()
            await self._ready.wait()
        return self._pending.popleft()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def _learn_names(self) -> None:
        self._names = {state.index: state.name for state in read_links(self._reader)}
        self._attach()

    def _attach(self) -> None:
        attach_filter(self._socket, [index for index, name in self._names.items() if name in self._devices])

    def _readable(self) -> None:
        for _ in range(_READS_A_WAKEUP):  # the rest keeps the descriptor readable, and other tasks get their turn
            try:
                data, address = self._socket.recvfrom(_DATAGRAM_BYTES)
            except BlockingIOError:
                break
            except OSError as err:
                if err.errno != ENOBUFS:
                    raise
                self._learn_names()
                self._pending.append(Lost())
                continue
            if address[0] == 0:
                self._pending.extend(self._notices(data))
        if self._pending:
            self._ready.set()

    def _notices(self, data: bytes) -> Iterator[Notice]:
        try:
            for message in messages(data):
                if message.type in _ENTRY_TYPES:
                    yield from self._entry(message)
                elif message.type in {RTM_NEWLINK, RTM_DELLINK}:
                    yield from self._link(message)
                elif message.type in {RTM_NEWADDR, RTM_DELADDR}:
                    yield from self._address(message)
        except ValueError:  # what we cannot read, we have not heard
            yield Lost()

    def _link(self, message: Message) -> Iterator[Notice]:
        if message.body[:1] != b"\0":  # a bridge's or IPv6's view of it
            return
        index, name = link_name(message.body)
        before = self._names.get(index)
        gone = message.type == RTM_DELLINK
        if gone:
            self._names.pop(index, None)
        else:
            self._names[index] = name
        if before != name and before in self._devices:
            yield LinkNotice(before, up=False, gone=True)
        if name not in self._devices:
            return
        if gone or before != name:
            self._attach()
        state = decode_link(message.body)
        yield LinkNotice(name, up=not gone and state is not None and state.up, gone=gone)

    def _address(self, message: Message) -> Iterator[Notice]:
        state = decode_address(message.body)
        name = None if state is None else self._names.get(state.index)
        if state is not None and name in self._devices:
            yield AddressNotice(name, state.interface, message.type == RTM_DELADDR)

    def _entry(self, message: Message) -> Iterator[Notice]:
        if message.type in _ROUTE_TYPES:
            route = parse_route(message.body)
            if route is None or not (route.protocol == ROUTE_PROTOCOL or self._is_within(route)):
                return
        found = decode_notice(message, self._names)
        if found is not None and (isinstance(found[0], Route) or found[0].dev in self._devices):
            yield EntryNotice(*found)

    def _is_within(self, route: RouteMessage) -> bool:
        """On raw bytes, since a routing daemon can change thousands of routes a second."""
        destination = int.from_bytes(route.attrs.get(RTA_DST, b""), "big")
        return any(
            route.family == family
            and route.prefixlen >= length
            and destination >> bits - length == base >> bits - length
            for family, length, bits, base in self._prefixes
        )
