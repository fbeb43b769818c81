"""Devices and their addresses: what is there, and one change at a time.

Reading goes through our own decoder, since a node has hundreds of container devices and one dump of them is a part of
every pass. Changes are few, and pyroute2 makes them.
"""

import asyncio
import errno
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial

from flanneld_py.errors import KernelError
from flanneld_py.model.entry import Address, Entry, Failure, Key, Link, LinkUp, Op, Scope, Verb, Vxlan
from flanneld_py.netlink.codec import encode
from flanneld_py.netlink.hints import already_done, failure, no_device
from flanneld_py.netlink.lean import NetlinkError
from flanneld_py.netlink.linkcodec import (
    RTM_NEWADDR,
    RTM_NEWLINK,
    AddressState,
    LinkState,
    decode_address,
    decode_link,
    encode_address_dump,
    encode_link_dump,
    encode_link_get,
)
from flanneld_py.netlink.neighbours import permanent_neighbours
from flanneld_py.netlink.netns import Netns, in_netns
from flanneld_py.netlink.socket import NetlinkSocket, open_socket
from flanneld_py.netlink.tuntap import make_tun
from flanneld_py.netlink.uvtransport import LoopIPRoute
from flanneld_py.netlink.wire import NETLINK_EXT_ACK, Message

_TC_H_ROOT = 0xFFFFFFFF
_SCOPE_LINK = 253
_IFA_F_NODAD = 0x02
_RECEIVE_BYTES = 1 << 18


def read_links(sock: NetlinkSocket) -> tuple[LinkState, ...]:
    """All devices of the namespace, in index order."""
    found = (decode_link(message.body) for message in sock.dump(encode_link_dump) if message.type == RTM_NEWLINK)
    return tuple(sorted((state for state in found if state is not None), key=lambda state: state.index))


def find_links(sock: NetlinkSocket, names: Iterable[str]) -> dict[str, LinkState]:
    """Those of the devices `names` that are there, without reading all others."""
    asked = [name for name in dict.fromkeys(names) if name and len(name.encode()) < 16]
    seqs = sock.sequence(len(asked))
    answers = sock.query([encode_link_get(name, seq) for name, seq in zip(asked, seqs, strict=True)], seqs)
    found: dict[str, LinkState] = {}
    for name, seq in zip(asked, seqs, strict=True):
        answer = answers.get(seq)
        if isinstance(answer, Message) and (state := decode_link(answer.body)) is not None and state.name == name:
            found[name] = state
    return found


def read_addresses(sock: NetlinkSocket, index: int = 0) -> tuple[AddressState, ...]:
    """The addresses of one device, or of all, in the kernel's order; none of a device that is gone."""
    try:
        answers = sock.dump(partial(encode_address_dump, index))
    except KernelError as err:
        if not index or err.errno != errno.ENODEV:
            raise
        return ()
    found = (decode_address(message.body) for message in answers if message.type == RTM_NEWADDR)
    return tuple(state for state in found if state is not None and index in {0, state.index})


def ours(links: Iterable[LinkState], scope: Scope) -> tuple[LinkState, ...]:
    return tuple(
        state for state in links if state.name in scope.devices or (scope.alias and state.alias == scope.alias)
    )


def known_links(links: Iterable[LinkState], scope: Scope, desired: Mapping[Key, Entry]) -> dict[Key, Entry]:
    """Our devices and those that have the name of one that we want; LinkUp for what is up and ours or asked for.

    A desired link without a MAC takes any: the known one then has none either.
    """
    links = tuple(links)
    name_of = {state.index: state.name for state in links}
    mine = {state.name for state in ours(links, scope)}
    known: dict[Key, Entry] = {}
    for state in links:
        link, up = state.entry(name_of), LinkUp(state.name)
        wanted = desired.get(link.key)
        if state.name in mine or wanted is not None:
            if isinstance(wanted, Link) and wanted.mac is None and link.mac is not None:
                link = replace(link, mac=None)
            known[link.key] = link
        if state.up and (state.name in mine or up.key in desired):
            known[up.key] = up
    return known


def known_addresses(
    sock: NetlinkSocket, links: Iterable[LinkState], scope: Scope, desired: Mapping[Key, Entry]
) -> dict[Key, Entry]:
    """All addresses of our devices but IPv6 link-local ones, which the kernel makes; of others the desired ones."""
    links = tuple(links)
    name_of = {state.index: state.name for state in links}
    mine = {state.index for state in ours(links, scope)}
    asked = {entry.dev for entry in desired.values() if isinstance(entry, Address)}
    known: dict[Key, Entry] = {}
    for index in sorted(mine | {state.index for state in links if state.name in asked}):
        for state in read_addresses(sock, index):
            entry = Address(name_of[index], state.interface)
            made_by_kernel = state.interface.version == 6 and state.scope == _SCOPE_LINK
            if entry.key in desired or (index in mine and not made_by_kernel):
                known[entry.key] = entry
    return known


class Links:
    """Carries out ops on Link, LinkUp and Address. `sock` reads; changes go over a connection of its own."""

    def __init__(self, sock: NetlinkSocket, *, netns: Netns = None) -> None:
        self._sock = sock
        self._netns = netns
        self._route: LoopIPRoute | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def close(self) -> None:
        if self._route is not None:
            await self._route.aclose()
            self._route = None

    async def apply(self, op: Op) -> Failure | None:
        """None: done, or nothing to do."""
        try:
            match op.entry:
                case Link():
                    return await self._link(op, op.entry)
                case LinkUp():
                    return await self._up(op, op.entry)
                case Address():
                    return await self._address(op, op.entry)
                case _:
                    raise TypeError(f"{op.entry} is not a link or address")
        except OSError as err:
            return failure(op, err.errno or 0, str(err.strerror))
        except NetlinkError as err:
            if already_done(op, err.code):
                return None
            text = str(err.args[1]) if len(err.args) > 1 else ""
            return failure(op, err.code, text, hint=self._holder(op, err.code))

    async def _link(self, op: Op, link: Link) -> Failure | None:
        there = find_links(self._sock, [link.name]).get(link.name)
        if op.verb is Verb.DELETE:
            if there is not None:
                await self._request("link", "del", index=there.index)
            return None
        underlay = 0
        if link.vxlan is not None and link.vxlan.underlay:
            below = find_links(self._sock, [link.vxlan.underlay]).get(link.vxlan.underlay)
            if below is None:
                return no_device(op, link.vxlan.underlay)
            underlay = below.index
        known = None if there is None else there.entry({} if link.vxlan is None else {underlay: link.vxlan.underlay})
        if there is not None and known is not None:
            if op.verb is not Verb.RECREATE and not link.must_recreate(known):
                await self._set(there.index, link, known)
                return None
            await self._request("link", "del", index=there.index)
        await self._create(link, underlay)
        return None

    async def _create(self, link: Link, underlay: int) -> None:
        """The MAC goes into the creating message, so that udev finds it set (NET_ADDR_SET) and leaves it alone.

        The kernel ignores an alias there (net/core/rtnetlink.c rtnl_create_link), so it comes second; a device
        without it is still ours by its name.
        """
        if link.kind == "tun":
            in_netns(self._netns, lambda: make_tun(link.name))
        else:
            wish: dict[str, object] = {"ifname": link.name, "kind": link.kind, "mtu": link.mtu}
            if link.mac is not None:
                wish["address"] = link.mac
            if link.vxlan is not None:
                wish |= _vxlan_request(link.vxlan, underlay)
            await self._request("link", "add", **wish)
        created = find_links(self._sock, [link.name]).get(link.name)
        if created is None:
            return
        await self._set(created.index, link, created.entry({}))
        if link.kind == "tun":
            # It holds packets itself; the default is a qdisc for each of 256 queues that it might have: 50 MiB.
            with suppress(NetlinkError):  # works without, and a kernel may have no qdiscs at all
                await self._request("tc", "replace", kind="noqueue", index=created.index, parent=_TC_H_ROOT)

    async def _set(self, index: int, link: Link, known: Link) -> None:
        """Another MAC flushes the device's neighbours, permanent ones too (net/core/neighbour.c neigh_changeaddr);
        whoever changes an attribute of a device does not expect that, so they are put back."""
        wish: dict[str, object] = {}
        if link.mtu != known.mtu:
            wish["mtu"] = link.mtu
        if link.mac not in {None, known.mac}:
            wish["address"] = link.mac
        if link.alias != known.alias:
            wish["IFLA_IFALIAS"] = link.alias
        kept = permanent_neighbours(self._sock, index, link.name) if "address" in wish else ()
        if wish:
            await self._request("link", "set", index=index, **wish)
        seqs = self._sock.sequence(len(kept))
        ops = zip(kept, seqs, strict=True)
        self._sock.execute([encode(Op(Verb.ADD, entry), seq, {link.name: index}) for entry, seq in ops], seqs)

    async def _up(self, op: Op, entry: LinkUp) -> Failure | None:
        there = find_links(self._sock, [entry.dev]).get(entry.dev)
        if there is None:
            return None if op.verb is Verb.DELETE else no_device(op, entry.dev)
        if there.up is (op.verb is Verb.DELETE):
            await self._request("link", "set", index=there.index, state="down" if there.up else "up")
        return None

    async def _address(self, op: Op, entry: Address) -> Failure | None:
        """An IPv6 address skips duplicate detection: nobody else has it, and on an overlay without multicast the
        detection only keeps it tentative for a second."""
        there = find_links(self._sock, [entry.dev]).get(entry.dev)
        if there is None:
            return None if op.verb is Verb.DELETE else no_device(op, entry.dev)
        wish: dict[str, object] = {"address": str(entry.interface.ip), "prefixlen": entry.interface.network.prefixlen}
        if op.verb is Verb.DELETE:
            await self._request("addr", "del", index=there.index, **wish)
            return None
        if entry.interface.version == 6:
            wish["flags"] = _IFA_F_NODAD
        try:
            await self._request("addr", "add", index=there.index, **wish)
        except NetlinkError as err:
            if err.code != errno.EEXIST or not self._has_address(there.index, entry):
                raise
        return None

    def _has_address(self, index: int, entry: Address) -> bool:
        return any(state.interface == entry.interface for state in read_addresses(self._sock, index))

    def _holder(self, op: Op, code: int) -> str | None:
        """Names the device that keeps ours from being made: the kernel only says that there is one."""
        entry = op.entry
        if (
            code not in {errno.EEXIST, errno.EADDRINUSE}
            or op.verb is Verb.DELETE
            or not isinstance(entry, Link | LinkUp)
        ):
            return None
        links = read_links(self._sock)
        wanted = entry.vxlan if isinstance(entry, Link) else _vxlan_of(links, entry.dev)
        if wanted is None:
            return None
        for other in links:
            state = other.vxlan
            if state is None or other.name == entry.dev or state.port != wanted.port:
                continue
            if state.vni == wanted.vni or code == errno.EADDRINUSE:
                what = f"{other.name} holds VNI {state.vni} on UDP port {state.port}"
                return f"{what}: remove it (ip link del {other.name}), or set another VNI or Port in the network config"
        return None

    async def _request(self, call: str, verb: str, **wish: object) -> None:
        await getattr(await self._connection(), call)(verb, **wish)

    async def _connection(self) -> LoopIPRoute:
        """pyroute2 cannot read an acknowledgement that was cut short (NETLINK_CAP_ACK), so that stays off."""
        loop = asyncio.get_running_loop()
        if self._route is not None and self._loop is not loop:
            await self.close()
        if self._route is None:
            sock = in_netns(self._netns, lambda: open_socket((), _RECEIVE_BYTES, [NETLINK_EXT_ACK]))
            self._route, self._loop = LoopIPRoute(use_socket=sock), loop
        return self._route


def _vxlan_of(links: Iterable[LinkState], name: str) -> Vxlan | None:
    return next((state.entry({}).vxlan for state in links if state.name == name), None)


def _vxlan_request(vxlan: Vxlan, underlay: int) -> dict[str, object]:
    """TTL, checksums and source ports stay the kernel's: ttl auto, udpcsum, srcport 0 0."""
    wish: dict[str, object] = {
        "vxlan_id": vxlan.vni,
        "vxlan_port": vxlan.port,
        "vxlan_learning": int(vxlan.learning),
        "vxlan_local" if vxlan.local.version == 4 else "vxlan_local6": str(vxlan.local),
    }
    if underlay:
        wish["vxlan_link"] = underlay
    if vxlan.gbp:
        wish["vxlan_gbp"] = True
    return wish
