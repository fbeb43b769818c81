"""What carries packets in a worker: lanes, and what they were loaded with. I/O."""

import fcntl
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from flanneld_py.dataplane import control, pump
from flanneld_py.dataplane.lane import Lane, choose_processors
from flanneld_py.dataplane.offload import Offload
from flanneld_py.dataplane.strangers import Strangers, choose_socket, socket_drops
from flanneld_py.dataplane.wire import Drop

_TUNSETPERSIST = 0x400454CB
_TX_DROP = 11  # net/core/net-procfs.c dev_seq_printf_stats

Counters = dict[str, int | tuple[int, ...]]


class Descriptors(NamedTuple):
    """Queues of the TUN device, as many sockets, and the strangers' one."""

    tuns: Sequence[int]
    pumps: Sequence[socket.socket]
    strangers: socket.socket

    def filenos(self) -> tuple[int, ...]:
        return (*self.tuns, *(sock.fileno() for sock in self.pumps), self.strangers.fileno())


class Carrier:
    """The descriptors are the carrier's own from now on.

    `gone` is called, in any thread, when a descriptor is of no use any more.
    """

    def __init__(
        self, held: Descriptors, load: control.Load, base: dict[str, Any], gone: Callable[[OSError], None]
    ) -> None:
        self.held, self.load = held, load
        self._base = base
        self._seen = Strangers(held.strangers, base.get("strangers", 0))
        worker = control.decode_worker(load.state)
        self._device = worker.dev
        self.implementation = made = pump.choose(worker.pump)
        self._offload = offload = Offload(**{name: name in base["offload"] for name in ("tso", "uso", "gso", "gro")})
        table = made.table(load.image)
        self.filtered = self._by_sender = False
        self._lanes = [
            Lane(
                (made.encap(table, gso=offload.gso), made.decap(table, tcp=offload.tso, udp=offload.uso)),
                tun,
                sock,
                number=number,
                gone=gone,
            )
            for number, (tun, sock) in enumerate(zip(held.tuns, held.pumps, strict=True))
        ]

    def start(self) -> None:
        self._divide(self.load)
        for lane in self._lanes:
            lane.start()

    async def stop(self) -> None:
        for lane in self._lanes:
            await lane.stop()

    async def reload(self, load: control.Load) -> None:
        table = self.implementation.table(load.image)
        self._divide(load)
        for lane in self._lanes:
            await lane.between(partial(self._set_table, lane, table))
        self.load = load

    def _divide(self, load: control.Load) -> None:
        """Settle which lane gets which datagrams, and where its thread runs, which others may have changed."""
        worker = control.decode_worker(load.state)
        self._by_sender = worker.by_sender
        self.filtered = choose_socket(self.held.pumps, load.filter, by_sender=worker.by_sender)
        allowed = os.sched_getaffinity(0)
        own = choose_processors(len(self._lanes), allowed)
        for lane, processor in zip(self._lanes, own, strict=True):
            lane.stay_on(allowed if worker.by_sender else {processor})

    def _set_table(self, lane: Lane, table: Any) -> None:
        lane.encap.table = lane.decap.table = table
        # Trains longer than a way's MTU are refused with an error that may also mean the device (EINVAL before
        # Linux 6.13): the new table may know the right MTU, so they are tried again.
        lane.encap.gso = self._offload.gso

    async def base(self) -> dict[str, Any]:
        """What a worker that carries on after us begins with.

        The counters of both directions, on top of what a worker before us has counted, and the offloads that may be
        used: without those that the kernel has refused for good, and with trains, which it may take again.
        """
        base = await self._read_lanes()
        gso = ["gso"] if self._offload.gso else []
        return base | {"offload": [name for name in base["offload"] if name != "gso"] + gso}

    async def _read_lanes(self) -> dict[str, Any]:
        """As `base`, with the offloads in use; a refusal of the kernel withdraws some of them while packets flow."""
        sent, received = self._base.get("outbound", {}), self._base.get("inbound", {})
        used = asdict(self._offload)
        for lane in self._lanes:
            out, into, gso, tcp, udp = await lane.between(partial(_read, lane))
            sent, received = _added(_named(out), sent), _added(_named(into), received)
            for name, on in (("tso", tcp), ("uso", udp), ("gso", gso)):
                used[name] = used[name] and on
        return {
            "outbound": sent,
            "inbound": received,
            "offload": [name for name, on in used.items() if on],
            "strangers": self._seen.count,
        }

    async def stats(self) -> dict[str, Any]:
        """`socket_drops`: what the socket had no room for; `queue_drops`: what the device had none for; `strangers`:
        what the kernel kept from us, and `seen`, whose some of it was; `mean_train`: packets of an average train, of
        which a lone packet is none. The kernel counts a whole train as one in the first three."""
        self._seen.look()
        base = await self._read_lanes()
        for direction in (base["outbound"], base["inbound"]):
            trains = direction["trains"]
            direction["mean_train"] = round(direction["train_packets"] / trains, 1) if trains else 0.0
        return base | {
            "pump": self.implementation.name,
            "why": self.implementation.why,
            "filtered": self.filtered,
            "seen": self._seen.places,
            "lanes": len(self._lanes),
            "by_sender": self._by_sender,
            "socket_drops": sum(map(socket_drops, self.held.pumps)),
            "queue_drops": _queue_drops(self._device),
        }

    def remove_device(self) -> None:
        fcntl.ioctl(self.held.tuns[0], _TUNSETPERSIST, 0)


def _read(lane: Lane) -> tuple[Counters, Counters, bool, bool, bool]:
    return lane.encap.counters(), lane.decap.counters(), lane.encap.gso, lane.decap.tcp, lane.decap.udp


def _queue_drops(device: str) -> int:
    """Packets for the device that found its queue full. Of /sys a process sees the namespace that mounted it."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, colon, columns = line.partition(":")
        if colon and name.strip() == device:
            return int(columns.split()[_TX_DROP])
    return 0


def _named(counters: Counters) -> dict[str, Any]:
    """`drops` by reason, without the reasons that did not occur."""
    drops = counters["drops"]
    counted = drops if isinstance(drops, tuple) else ()
    by_reason = {Drop(index).name.lower(): number for index, number in enumerate(counted) if number}
    return {name: number for name, number in counters.items() if name != "drops"} | {"drops": by_reason}


def _added(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    found = dict(other)
    for name, value in one.items():
        if isinstance(value, dict):
            found[name] = _added(value, other.get(name, {}))
        elif name == "last_error":  # an errno
            found[name] = value or other.get(name, 0)
        else:
            found[name] = value + other.get(name, 0)
    return found
