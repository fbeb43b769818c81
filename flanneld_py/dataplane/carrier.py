"""What carries packets in a worker: descriptors, a pump for each direction, and what they were loaded with. I/O."""

import fcntl
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from flanneld_py.dataplane import control, pump
from flanneld_py.dataplane.directions import Direction, Outbound
from flanneld_py.dataplane.offload import Offload
from flanneld_py.dataplane.strangers import Strangers, choose_socket, socket_drops
from flanneld_py.dataplane.wire import Drop

_TUNSETPERSIST = 0x400454CB
_TX_DROP = 11  # net/core/net-procfs.c dev_seq_printf_stats


class Sockets(NamedTuple):
    """The two of one port, in the order of their binding."""

    pump: socket.socket
    strangers: socket.socket


class Carrier:
    """The sockets are the carrier's own from now on, and so is the descriptor `tun`.

    `gone` is called, in any thread, when a descriptor is of no use any more.
    """

    def __init__(
        self, tun: int, sockets: Sockets, load: control.Load, base: dict[str, Any], gone: Callable[[OSError], None]
    ) -> None:
        self.tun, self.load = tun, load
        self.sock, self.strangers = sock, strangers = sockets
        self._base = base
        self._seen = Strangers(strangers, base.get("strangers", 0))
        worker, _ = control.decode_state(load.state)
        self._device = worker.dev
        self.implementation = pump.choose(worker.pump)
        offload = Offload(**{name: name in base["offload"] for name in ("tso", "uso", "gso", "gro")})
        table = self.implementation.table(load.image)
        self.encap = self.implementation.encap(table, gso=offload.gso)
        self.decap = self.implementation.decap(table, tcp=offload.tso, udp=offload.uso)
        self._offload = offload
        self.filtered = choose_socket(sock, load.filter)
        self.inbound = Direction("inbound", self.decap, tun, sock.fileno(), gone)
        self.outbound = Outbound(self.encap, tun, sock.fileno(), gone)

    def start(self) -> None:
        self.inbound.start()
        self.outbound.start()

    async def stop(self) -> None:
        await self.inbound.stop()
        await self.outbound.stop()

    async def reload(self, load: control.Load) -> None:
        table = self.implementation.table(load.image)
        self.filtered = choose_socket(self.sock, load.filter)

        def outbound() -> None:
            self.encap.table = table
            # Trains longer than a way's MTU are refused with an error that may also mean the device (EINVAL before
            # Linux 6.13): the new table may know the right MTU, so they are tried again.
            self.encap.gso = self._offload.gso

        def inbound() -> None:
            self.decap.table = table

        await self.outbound.between(outbound)
        await self.inbound.between(inbound)
        self.load = load

    async def base(self) -> dict[str, Any]:
        """What a worker that carries on after us begins with.

        The counters of both directions, on top of what a worker before us has counted, and the offloads that are in
        use now; a refusal of the kernel withdraws some of them while packets flow.
        """
        sent, gso = await self.outbound.between(lambda: (self.encap.counters(), self.encap.gso))
        received, tcp, udp = await self.inbound.between(lambda: (self.decap.counters(), self.decap.tcp, self.decap.udp))
        used = {"tso": tcp, "uso": udp, "gso": gso, "gro": self._offload.gro}
        return {
            "outbound": _added(_named(sent), self._base.get("outbound", {})),
            "inbound": _added(_named(received), self._base.get("inbound", {})),
            "offload": [name for name, on in used.items() if on],
            "strangers": self._seen.count,
        }

    async def stats(self) -> dict[str, Any]:
        """`socket_drops`: datagrams that the socket had no room for; `queue_drops`: packets that the device had none
        for; `strangers`: datagrams that the kernel kept from us, and `seen`, whose some of them were; `mean_train`:
        packets of an average train, of which a lone packet is none."""
        self._seen.look()
        base = await self.base()
        for direction in (base["outbound"], base["inbound"]):
            trains = direction["trains"]
            direction["mean_train"] = round(direction["train_packets"] / trains, 1) if trains else 0.0
        return base | {
            "pump": self.implementation.name,
            "why": self.implementation.why,
            "filtered": self.filtered,
            "seen": self._seen.places,
            "socket_drops": socket_drops(self.sock),
            "queue_drops": _queue_drops(self._device),
        }

    def remove_device(self) -> None:
        fcntl.ioctl(self.tun, _TUNSETPERSIST, 0)


def _queue_drops(device: str) -> int:
    """Packets for the device that found its queue full. Of /sys a process sees the namespace that mounted it."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, colon, columns = line.partition(":")
        if colon and name.strip() == device:
            return int(columns.split()[_TX_DROP])
    return 0


def _named(counters: dict[str, int | tuple[int, ...]]) -> dict[str, Any]:
    """`drops` by reason, without the reasons that did not occur."""
    drops = counters["drops"]
    counted = drops if isinstance(drops, tuple) else ()
    by_reason = {Drop(index).name.lower(): number for index, number in enumerate(counted) if number}
    return {name: number for name, number in counters.items() if name != "drops"} | {"drops": by_reason}


def _added(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    found = dict(other)
    for name, value in one.items():
        found[name] = _added(value, other.get(name, {})) if isinstance(value, dict) else value + other.get(name, 0)
    return found
