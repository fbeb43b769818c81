"""A lease's value in etcd, and the record that our nodes keep beside it. sans-I/O.

Values are written as Go's encoding/json writes flannel's LeaseAttrs (pkg/lease/lease.go), byte for byte. They are read
as it reads them, names in any case, and with distrust: whoever may write below the prefix chooses these bytes.
"""

import json
import re
from collections.abc import Callable
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Any, TypeVar

from flanneld_py.model.lease import LeaseAttrs, NodeIdentity

MAX_VALUE_BYTES = 64 << 10
"""More than any backend publishes; a longer value is somebody's mistake."""
_MAX_NAME = 253

_Address = TypeVar("_Address", IPv4Address, IPv6Address)

# Go escapes these so that JSON may stand inside HTML, and two line ends for JavaScript (encoding/json HTMLEscape).
_GO_ESCAPES = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})
_STRING_OR_SPACE = re.compile(r'("(?:[^"\\]|\\.)*")|[ \t\r\n]+')
_NO_IPV4 = IPv4Address("0.0.0.0")  # noqa: S104
_BROADCAST = IPv4Address("255.255.255.255")


def encode_attrs(attrs: LeaseAttrs) -> bytes:
    """The value of the lease's key."""
    parts = [
        f'"PublicIP":"{attrs.public_ip or _NO_IPV4}"',
        '"PublicIPv6":null' if attrs.public_ipv6 is None else f'"PublicIPv6":"{attrs.public_ipv6}"',
    ]
    if attrs.backend_type:
        parts.append(f'"BackendType":{_quote(attrs.backend_type)}')
    if attrs.backend_data is not None:
        parts.append(f'"BackendData":{encode_data(attrs.backend_data)}')
    if attrs.backend_v6_data is not None:
        parts.append(f'"BackendV6Data":{encode_data(attrs.backend_v6_data)}')
    return ("{" + ",".join(parts) + "}").encode()


def encode_data(text: str) -> str:
    """A backend's data as Go writes them."""
    return _compact(text).translate(_GO_ESCAPES)


def decode_data(text: str) -> str | None:
    """A backend's data in a text of their own, where "null" says that there are none. ValueError: what is wrong."""
    if len(text) > MAX_VALUE_BYTES:
        raise ValueError(f"it is {len(text)} characters long")
    try:
        return _data(json.loads(text, parse_constant=_refuse_constant))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def decode_attrs(value: bytes) -> LeaseAttrs:
    """What a node publishes. ValueError says what is wrong with the value.

    The backends' data come as compact texts without Go's escapes, so that equal data compare equal whoever wrote them.
    """
    fields = _decode_object(value)
    public_ip = parse_address(IPv4Address, "PublicIP", fields.get("publicip", str(_NO_IPV4)))
    six = fields.get("publicipv6")
    attrs = LeaseAttrs(
        public_ip=None if public_ip == _NO_IPV4 else public_ip,
        public_ipv6=None if six is None else parse_address(IPv6Address, "PublicIPv6", six),
        backend_type=parse_name("BackendType", "" if fields.get("backendtype") is None else fields["backendtype"]),
        backend_data=_data(fields.get("backenddata")),
        backend_v6_data=_data(fields.get("backendv6data")),
    )
    if attrs.public_ip is None and attrs.public_ipv6 is None:
        raise ValueError("it has no public address")
    return attrs


def encode_identity(identity: NodeIdentity) -> bytes:
    """The record beside the lease: who wrote it."""
    record = {"HostName": identity.host_name, "Machine": identity.machine, "Version": identity.version}
    return json.dumps(record, separators=(",", ":"), ensure_ascii=True).encode()


def decode_identity(value: bytes) -> NodeIdentity:
    """ValueError says what is wrong with the record."""
    fields = _decode_object(value)
    host_name, machine, version = (
        parse_name(key, fields.get(key.lower(), "")) for key in ("HostName", "Machine", "Version")
    )
    if not machine:
        raise ValueError("it names no Machine")
    return NodeIdentity(host_name, machine, version)


def _decode_object(value: bytes) -> dict[str, Any]:
    """Members by lower-case name; of several spellings the last counts, as in Go."""
    if len(value) > MAX_VALUE_BYTES:
        raise ValueError(f"it is {len(value)} bytes long")
    try:
        decoded = json.loads(value.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(decoded, dict):
        raise ValueError("it is not a JSON object")
    return {name.lower(): member for name, member in decoded.items()}


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def parse_address(kind: Callable[[str], _Address], name: str, text: object) -> _Address:
    if not isinstance(text, str):
        raise ValueError(f"{name} is not a string")
    try:
        address = kind(text)
    except AddressValueError as error:
        raise ValueError(f"{name} {text[:64]!r}: {error}") from None
    if address.is_multicast or address == _BROADCAST or getattr(address, "scope_id", None):
        raise ValueError(f"{name} {text!r} is not the address of one node")
    if address.version == 6 and address.is_unspecified:
        raise ValueError(f"{name} {text!r} is not the address of one node")
    return address


def parse_name(name: str, text: object) -> str:
    if not isinstance(text, str):
        raise ValueError(f"{name} is not a string")
    if not text.isprintable() or len(text) > _MAX_NAME:
        raise ValueError(f"{name} is too long or has unprintable characters")
    return text


def _data(member: object) -> str | None:
    if member is None:
        return None
    try:
        text = json.dumps(member, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        text.encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("it has half a surrogate pair") from None
    return text


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).translate(_GO_ESCAPES)


def _compact(text: str) -> str:
    """The JSON text without white space between its parts, all else as it was."""
    json.loads(text, parse_constant=_refuse_constant)
    return _STRING_OR_SPACE.sub(lambda found: found[1] or "", text)
