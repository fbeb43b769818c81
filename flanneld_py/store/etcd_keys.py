"""Where things are in etcd: `<prefix>/config`, `<prefix>/subnets/<subnet key>`, `<prefix>/nodes/<subnet key>`.

The first two are flannel's. The third is ours: who wrote the lease. Go flannel never looks there.
"""

from flanneld_py.model.net import Subnets, format_subnet_key, parse_subnet_key


class Keys:
    """Keys below a prefix, joined as Go's path.Join does: no empty part, no `.`, `..` resolved."""

    def __init__(self, prefix: str) -> None:
        self.config = _join(prefix, "config")
        self.subnets = _join(prefix, "subnets") + b"/"
        self.nodes = _join(prefix, "nodes") + b"/"

    def subnet(self, subnets: Subnets) -> bytes:
        return self.subnets + format_subnet_key(subnets).encode()

    def node(self, subnets: Subnets) -> bytes:
        return self.nodes + format_subnet_key(subnets).encode()

    def parse_subnet(self, key: bytes) -> Subnets:
        """The subnets that a key below `subnets` names. ValueError: it is none that a node would write.

        Only the exact form counts: flannel also takes `10.5.1.7-24` or `x10.5.1.0-24` for 10.5.1.0/24, so that one
        stray key could speak for the lease of another.
        """
        text = self._name(key)
        subnets = parse_subnet_key(text)
        if not subnets or any(net.prefixlen == 0 for net in subnets):
            raise ValueError(f"{text!r} names no subnet of a node")
        if format_subnet_key(subnets) != text:
            raise ValueError(f"{text!r} is not the exact form of a subnet key, {format_subnet_key(subnets)!r}")
        return subnets

    def touched_by(self, key: bytes) -> Subnets:
        """The subnets that a key keeps others from leasing: also a key that flannel alone would understand."""
        try:
            return tuple(net for net in parse_subnet_key(self._name(key)) if net.prefixlen > 0)
        except ValueError:
            return ()

    def _name(self, key: bytes) -> str:
        return key.removeprefix(self.subnets).decode()


def _join(prefix: str, name: str) -> bytes:
    parts: list[str] = []
    rooted = prefix.startswith("/")
    for part in (*prefix.split("/"), name):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part == ".." and rooted:
            continue
        elif part not in ("", "."):
            parts.append(part)
    return ("/" * rooted + "/".join(parts)).encode(errors="surrogateescape")


def shown(key: bytes) -> str:
    """The key for a message or a command line."""
    text = key.decode(errors="backslashreplace")
    return text if text.isprintable() and len(text) <= 200 else repr(text[:200])
