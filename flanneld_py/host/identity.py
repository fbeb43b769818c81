"""Which machine this is, for the record beside a lease."""

import hashlib
import socket
from pathlib import Path

from flanneld_py.model.lease import NodeIdentity

_SALT = b"flanneld_py lease holder\0"
"""machine-id(5): the id must not leave the machine, only a hash with something of the application's own in it."""
_SOURCES = ("etc/machine-id", "sys/class/dmi/id/product_uuid")
_UNSET = frozenset({"", "uninitialized", "0" * 32, "00000000-0000-0000-0000-000000000000"})


def read_identity(version: str, *, root: Path = Path("/")) -> NodeIdentity:
    """Host name and hashed machine id. Without a machine id (a bare container) the firmware's id stands for it, and
    without that the host name."""
    host_name = socket.gethostname()
    found = (_read(root / source) for source in _SOURCES)
    machine = next((text for text in found if text not in _UNSET), host_name)
    return NodeIdentity(host_name, hashlib.sha256(_SALT + machine.encode()).hexdigest(), version)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip().lower()
    except (OSError, UnicodeDecodeError):
        return ""
