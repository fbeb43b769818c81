"""ARP, ND and forwarding entries: what is there and ours, or in the way."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

from flanneld_py.model.entry import Entry, Key, Neighbour
from flanneld_py.netlink.codec import (
    NUD_NOARP,
    RTM_NEWNEIGH,
    decode_fdb,
    decode_neighbour,
    encode_fdb_dump,
    encode_neighbour_dump,
)
from flanneld_py.netlink.linkcodec import LinkState
from flanneld_py.netlink.socket import NetlinkSocket


def known_neighbours(sock: NetlinkSocket, links: Iterable[LinkState], desired: Mapping[Key, Entry]) -> dict[Key, Entry]:
    """Entries of the devices `links` that somebody set; what the kernel learned only where we want its place.

    Learned entries come and go by themselves: to delete them would be a fight without end.
    """
    return {
        entry.key: entry
        for link in links
        for entry in _read_neighbours(sock, link.index, link.name)
        if entry.permanent or entry.key in desired
    }


def permanent_neighbours(sock: NetlinkSocket, index: int, name: str) -> tuple[Neighbour, ...]:
    return tuple(entry for entry in _read_neighbours(sock, index, name) if entry.permanent)


def known_fdb(sock: NetlinkSocket, links: Iterable[LinkState], desired: Mapping[Key, Entry]) -> dict[Key, Entry]:
    """Forwarding entries of those of `links` that have a table of their own, by the same rule.

    Of several destinations of one MAC (multicast, all-zeros) the first counts: deletes then go one a pass.
    """
    known: dict[Key, Entry] = {}
    for link in links:
        if link.kind != "vxlan":
            continue
        for message in sock.dump(partial(encode_fdb_dump, link.index)):
            if message.type != RTM_NEWNEIGH:
                continue
            found = decode_fdb(message.body, {link.index: link.name})
            if found is None or found[0].dev != link.name:
                continue
            entry, state = found
            if entry.permanent or state & NUD_NOARP or entry.key in desired:
                known.setdefault(entry.key, entry)
    return known


def _read_neighbours(sock: NetlinkSocket, index: int, name: str) -> Iterator[Neighbour]:
    """Kernels without strict checking send those of all devices."""
    for message in sock.dump(partial(encode_neighbour_dump, index)):
        found = decode_neighbour(message.body, {index: name}) if message.type == RTM_NEWNEIGH else None
        if found is not None and found[0].dev == name:
            yield found[0]
