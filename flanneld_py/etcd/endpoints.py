"""Endpoints as an operator writes them: `http://10.0.0.1:2379`, `https://etcd.example`, `[fd00::1]:2379`."""

from dataclasses import dataclass
from ipaddress import IPv6Address
from urllib.parse import urlsplit

from flanneld_py.errors import UsageError

DEFAULT_PORT = 2379
_FORM = "write http://HOST:PORT or https://HOST:PORT, with a comma between several"


@dataclass(frozen=True, slots=True)
class Endpoint:
    host: str
    port: int
    tls: bool

    @property
    def authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.authority}"


def parse_endpoint(text: str, *, tls: bool) -> Endpoint:
    """The endpoint that `text` names. Without a scheme it is TLS if `tls`, that is if TLS files were given.

    Raises UsageError. What stands before an @ is never repeated in the message, since it may be a password.
    """
    shown = text.strip().rpartition("@")[2]
    scheme, mark, rest = text.strip().partition("://")
    if not mark:
        scheme, rest = ("https" if tls else "http"), text.strip()
    if scheme not in ("http", "https"):
        raise UsageError(f"etcd endpoint {shown!r}: scheme {scheme!r} is not known", hint=_FORM)
    if "@" in rest:
        raise UsageError(f"etcd endpoint {shown!r} has a user in it", hint="give --etcd-username instead")
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port
        if host and ":" in host:
            IPv6Address(host)
    except ValueError as error:
        raise UsageError(f"etcd endpoint {shown!r}: {error}", hint=_FORM) from None
    if not host or any(c.isspace() or not c.isprintable() for c in host) or port == 0:
        raise UsageError(f"etcd endpoint {shown!r} names no host and port", hint=_FORM)
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise UsageError(f"etcd endpoint {shown!r} has a path", hint=_FORM)
    return Endpoint(host, port if port is not None else DEFAULT_PORT, scheme == "https")
