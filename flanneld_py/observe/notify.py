"""Tell systemd how we are (sd_notify(3)): one datagram to the socket that it names; nothing where it names none."""

import contextlib
import socket


def notify(address: str | None, *lines: str) -> None:
    """Send `lines` to NOTIFY_SOCKET's `address`. A service manager that does not listen is no reason to fail."""
    if not address:
        return
    target = "\0" + address[1:] if address.startswith("@") else address
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.sendto("\n".join(lines).encode(), target)
