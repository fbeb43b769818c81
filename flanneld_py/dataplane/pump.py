"""The contract of the two pumps of the userspace data path, and the choice between its two implementations.

A *packet* is an inner IPv4 packet, and the whole payload of one UDP datagram. A *frame* is what the TUN device reads
and writes: a virtio_net_hdr (10 bytes) and a packet, or a super-packet that stands for several.

- `table(image)`: an immutable table made by `lpm.encode_table`; ValueError for an image that is not one.
- `encap(table, gso=...)`: frames from the TUN device leave as datagrams; one super-packet becomes many. Datagrams of
  equal size to one peer go out as one train (UDP_SEGMENT) while `gso` is set; an EIO or EINVAL for a train sends it
  again as single datagrams and clears `gso`, which may be set again after the cause is gone.
- `decap(table, tcp=..., udp=...)`: datagrams become frames. Packets of one flow are merged by the rules of the
  kernel's GRO while `tcp` or `udp` is set for their protocol; a refused super-packet is written again packet by
  packet, which clears the flag.
- `run(tun_fd, sock_fd, batches)`: to be called when the descriptor that is read is ready. Both must be non-blocking,
  the TUN device with IFF_NO_PI | IFF_VNET_HDR, the socket unconnected IPv4. A batch is some 128 KiB, and 64 packets or
  messages. OSError means that a descriptor is of no use any more (the TUN device is gone). Never runs twice at a time;
  an Encap and a Decap on the same descriptors may run in two threads.
  It returns a `Status`:
    - DRAINED: wait until readable.
    - MORE: the budget is used up; there may be more to read.
    - BLOCKED (Encap only): the socket is full. What it did not take is kept, in order: stop to read the TUN device, and
      call again when the socket is writable.
- `Encap.serve(decap, tun_fd, sock_fd, wake_fd)`: runs both in turn, waits for what their status asks for, and runs
  them again, until `wake_fd` is readable; that is left unread. A steady stream is interrupted within some 8 MiB.
- `table`: replaced as a whole by assignment; a call that is running goes on with the old one.
- `Encap.pending`: whether packets are kept that the socket did not take.
- `counters()`: as of the end of the last run. `drops` has one number for each `wire.Drop`.

The pure functions below the pumps (`segment`, `merge`, `outbound`, `inbound`, `icmp`) give the same bytes in both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from flanneld_py.dataplane import batch_portable, lpm, pump_portable, stamp, wire
from flanneld_py.errors import ConfigError

CHOICES = ("auto", "native", "portable")
Status = batch_portable.Status


class Pump(Protocol):
    table: Any

    def run(self, tun_fd: int, sock_fd: int, batches: int = 8) -> int: ...
    def counters(self) -> dict[str, int | tuple[int, ...]]: ...


class Encap(Pump, Protocol):
    gso: bool

    @property
    def pending(self) -> bool: ...
    def serve(self, decap: Any, tun_fd: int, sock_fd: int, wake_fd: int) -> None: ...


class Decap(Pump, Protocol):
    tcp: bool
    udp: bool


@dataclass(frozen=True, slots=True)
class Implementation:
    """One of the two, by name. `why`: what stands in the way of the native one, when "auto" had to do without."""

    name: str
    table: Callable[[bytes], Any]
    encap: Callable[..., Encap]
    decap: Callable[..., Decap]
    segment: Callable[[bytes, bytes], tuple[int, list[bytes]]]
    outbound: Callable[[Any, bytes], tuple[int, int, list[bytes]]]
    inbound: Callable[[Any, int, bytes], tuple[int, bytes]]
    merge: Callable[..., list[bytes]]
    icmp: Callable[[int, int, int, bytes], bytes]
    why: str = ""


def choose(wanted: str) -> Implementation:
    """The implementation for "auto" (native where it was built), "native" or "portable"; else ConfigError."""
    if wanted == "portable":
        return portable()
    if wanted not in CHOICES:
        raise ConfigError(f"pump {wanted!r} is unknown", hint=f"use one of {', '.join(CHOICES)}")
    try:
        return native()
    except ImportError as err:
        if wanted == "native":
            raise ConfigError(
                f"the native pump cannot be loaded: {err}", hint="reinstall where a C compiler is, or use portable"
            ) from err
        return portable(why=str(err))


def native() -> Implementation:
    """ImportError when the extension was not built here; ConfigError when it was built from other sources."""
    module = import_module("flanneld_py.dataplane._native")
    sources = stamp.sum_sources(Path(__file__).parent)
    if sources and getattr(module, "SOURCES", "") != sources:
        raise ConfigError(
            "the native pump was built from other sources than those beside it",
            hint="build it again: `pip install --editable .` in the checkout",
        )
    return Implementation(
        "native",
        module.Table,
        module.Encap,
        module.Decap,
        module.segment,
        module.outbound,
        module.inbound,
        module.merge,
        module.icmp,
    )


def portable(why: str = "") -> Implementation:
    return Implementation(
        "portable",
        lpm.Table,
        batch_portable.Encap,
        batch_portable.Decap,
        pump_portable.segment,
        pump_portable.outbound,
        pump_portable.inbound,
        pump_portable.merge,
        wire.icmp,
        why,
    )
