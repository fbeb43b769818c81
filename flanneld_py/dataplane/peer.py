"""The process at the other end of a UNIX socket. I/O."""

import socket
from pathlib import Path
from struct import Struct

_CREDENTIALS = Struct("=iII")  # include/linux/socket.h struct ucred


def peer_pid(sock: socket.socket) -> int:
    """The process that last called listen(2) on the other side (unix(7) SO_PEERCRED). 0: it is not seen from here."""
    pid, _, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(pid)


def is_elsewhere(pid: int) -> bool:
    """Whether the process, as `peer_pid` has it, is in a PID namespace other than ours: in another container, say."""
    if pid == 0:
        return True
    try:
        return not Path(f"/proc/{pid}/ns/pid").samefile("/proc/self/ns/pid")
    except OSError:
        return False
