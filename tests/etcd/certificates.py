"""Certificates of an etcd on loopback, with paths as text, as flags take them."""

from ipaddress import ip_address
from pathlib import Path

from flanneld_py.lab import certificates


class Authority:
    """A CA whose certificate is at `path`; `issue` gives certificates for 127.0.0.1."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self._authority = certificates.Authority(folder, name)
        self.path = str(self._authority.path)

    def issue(self, name: str) -> tuple[str, str]:
        """Paths of a certificate, for server and client, and of its key."""
        made = self._authority.issue(name, name, hosts=["localhost"], addresses=[ip_address("127.0.0.1")])
        return str(made.certificate), str(made.key)

    def become(self, other: "Authority") -> None:
        """Put the other's certificate in the place of ours, as a renewal does."""
        Path(self.path).write_bytes(Path(other.path).read_bytes())
