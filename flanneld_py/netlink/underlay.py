"""The network below the overlay, as the daemon asks about it while it runs."""

from collections.abc import Collection

from flanneld_py.model.net import Addr
from flanneld_py.model.node import Interface, Reaches
from flanneld_py.netlink.interfaces import read_interfaces
from flanneld_py.netlink.links import read_links
from flanneld_py.netlink.routes import reaches
from flanneld_py.netlink.socket import NetlinkSocket


class KernelUnderlay:
    """`overlay`: names of our own devices, through which nothing counts as reached."""

    def __init__(self, sock: NetlinkSocket, overlay: tuple[str, ...]) -> None:
        self._sock = sock
        self._overlay = overlay

    async def interface(self, name: str) -> Interface | None:
        return next((found for found in read_interfaces(self._sock) if found.name == name), None)

    def holder(self, addresses: Collection[Addr]) -> str | None:
        """The device that has one of `addresses`."""
        for found in read_interfaces(self._sock):
            if any(one.ip in addresses for one in found.addresses):
                return found.name
        return None

    async def reaches(self, addresses: frozenset[Addr]) -> Reaches:
        names = {state.index: state.name for state in read_links(self._sock)}
        return await reaches(self._sock, sorted(addresses, key=str), names, self._overlay)
