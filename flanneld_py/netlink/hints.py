"""What the kernel's error numbers mean for our objects, and what mends them."""

import errno
import os

from flanneld_py.model.entry import Address, Failure, Link, LinkUp, Op, Route, Verb

_GONE = frozenset({errno.ESRCH, errno.ENOENT, errno.ENODEV, errno.EADDRNOTAVAIL, errno.ENXIO})
_CANNOT = frozenset({errno.EPERM, errno.EROFS})


def already_done(op: Op, code: int) -> bool:
    """Whether the refusal means that there was nothing to do: what is to be deleted is not there."""
    return op.verb is Verb.DELETE and code in _GONE


def failure(op: Op, code: int, text: str = "", hint: str | None = None) -> Failure:
    """The Failure for a refusal. `text`: the kernel's own words (extended acknowledgement), if it had any."""
    reason = os.strerror(code)
    if text and text.lower() != reason.lower():
        reason = f"{text} ({reason})"
    return Failure(op, reason, errno=code, hint=hint or _hint(op, code), cannot=code in _CANNOT)


def no_device(op: Op, name: str) -> Failure:
    return failure(op, errno.ENODEV, f"there is no interface {name}", hint=f"see: ip link show {name}")


def _hint(op: Op, code: int) -> str | None:
    entry = op.entry
    if code == errno.EPERM:
        return "run with CAP_NET_ADMIN in this network namespace"
    if code in {errno.ENOENT, errno.ENXIO, errno.EACCES} and isinstance(entry, Link) and entry.kind == "tun":
        return "there must be a device /dev/net/tun that we may open: modprobe tun, or mount it into the container"
    if code == errno.EOPNOTSUPP and isinstance(entry, Link):
        return f"the kernel has no {entry.kind} devices here: modprobe {entry.kind}"
    if code == errno.EADDRINUSE and isinstance(entry, LinkUp):
        return "another program or device holds the UDP port: see ss -ulnp, or set another Port in the network config"
    if code == errno.EINVAL and isinstance(entry, Link):
        return f"mtu {entry.mtu} may exceed what the interface below it carries"
    if code == errno.EACCES and isinstance(entry, Address) and entry.interface.version == 6:
        return f"IPv6 is switched off on the device: sysctl -w net/ipv6/conf/{entry.dev}/disable_ipv6=0"
    if code == errno.ENETDOWN:
        return f"the device is down: ip link set {entry.dev} up"
    if code in {errno.ENETUNREACH, errno.EHOSTUNREACH} and isinstance(entry, Route):
        return f"the gateway {entry.via} is not on a link of {entry.dev}"
    if code == errno.ENOBUFS and isinstance(entry, Route) and entry.dst.version == 6:
        return "the IPv6 routing table is full: raise net.ipv6.route.max_size"
    if code in {errno.ENOBUFS, errno.ENOMEM}:
        return "the kernel is out of memory for it: see net.ipv4.neigh.default.gc_thresh3 and dmesg"
    return None
