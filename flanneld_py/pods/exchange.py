"""The conversation with the CNI plugin's launcher (cni_plugin/launcher has the other half). Sans-I/O.

One message of a SOCK_SEQPACKET socket each: a question with descriptors; then BEGIN, or DECLINED and a reason; after
BEGIN one of RESULT, ERROR, DECLINED. DECLINED always means that nothing is changed, or no longer, so that the plugin
proper may do the work. Before BEGIN nothing may be changed, and where it cannot be delivered, nothing ever.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

HEAD = b"flannel-cni 1"
"""What is spoken here, and its version; whoever says anything else is not understood."""
SOCKET = "cni.sock"
MAX_BYTES = 65536
_VARIABLES = {
    "SOCKET": "socket",
    "CNI_COMMAND": "command",
    "CNI_CONTAINERID": "container",
    "CNI_NETNS": "netns",
    "CNI_IFNAME": "ifname",
    "CNI_ARGS": "args",
}
BEGIN, RESULT, ERROR, DECLINED = b"B", b"R", b"E", b"N"

Object = dict[str, Any]


class NotForUs(Exception):
    """Nothing is changed; the plugin proper has to do it. The text says why."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a runtime asks the plugin. `socket`: where the launcher found us; `config`: what stood on standard input."""

    command: str
    container: str
    netns: str
    ifname: str
    args: str
    socket: str
    config: Object


def parse_question(data: bytes) -> Question:
    """NotForUs: it is none, or of another version."""
    head, end, config = data.partition(b"\0\0")
    lines = head.split(b"\0")
    if lines[0] != HEAD or not end:
        raise NotForUs(f"this daemon speaks {HEAD.decode()}")
    try:
        texts = [line.decode() for line in lines[1:]]
        found = json.loads(config.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise NotForUs(f"the question cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise NotForUs("the configuration is no object")
    values = dict(text.partition("=")[::2] for text in texts)
    missing = [name for name in _VARIABLES if name not in values]
    if missing:
        raise NotForUs(f"the question lacks {', '.join(missing)}")
    return Question(config=found, **{field: values[name] for name, field in _VARIABLES.items()})


def encode_document(document: Mapping[str, Any]) -> bytes:
    """A document as the plugin prints it: ASCII, no blanks, keys sorted, and a line's end."""
    return _encode(document) + b"\n"


def encode_record(content: Mapping[str, Any]) -> bytes:
    """The content of an attachment's record, byte for byte as the plugin writes it."""
    return _encode(content)


def _encode(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False).encode()


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")
