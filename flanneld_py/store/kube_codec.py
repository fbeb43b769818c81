"""A node's lease as annotations of its Node object, as Go flannel writes and reads them (pkg/subnet/kube). sans-I/O.

Who may patch a node's status chooses these texts: they are read with distrust, like a lease in etcd.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Final

from flanneld_py.errors import UsageError
from flanneld_py.kube.objects import Node
from flanneld_py.model.lease import Lease, LeaseAttrs
from flanneld_py.model.net import Addr, Net, Subnets, of_family
from flanneld_py.store.lease_codec import decode_data, encode_data, parse_address, parse_name

FAMILIES: Final = (4, 6)
_MOST_CIDRS: Final = 2
_LONGEST: Final = {4: 31, 6: 127}
_NO_IPV4: Final = "0.0.0.0"  # noqa: S104 - what Go prints for an address that was never set
_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_PREFIX = re.compile(rf"{_LABEL}(?:\.{_LABEL})+/(?:[a-z0-9_-]*-)?")


@dataclass(frozen=True, slots=True)
class Names:
    """The annotations of one network. Those by family: IPv4's, then IPv6's."""

    prefix: str

    @property
    def managed(self) -> str:
        return self.prefix + "kube-subnet-manager"

    @property
    def backend_type(self) -> str:
        return self.prefix + "backend-type"

    def data(self, version: int) -> str:
        return self.prefix + ("backend-data" if version == 4 else "backend-v6-data")

    def public(self, version: int) -> str:
        return self.prefix + _public(version)

    def overwrite(self, version: int) -> str:
        """What an operator wants published instead of the address that was found."""
        return self.prefix + _public(version) + "-overwrite"

    def wished(self, version: int) -> str:
        """What an operator gives instead of the flag --public-ip or --public-ipv6."""
        return self.prefix + "node-" + _public(version)


def _public(version: int) -> str:
    return "public-ip" if version == 4 else "public-ipv6"


def parse_prefix(text: str) -> Names:
    """The names under --kube-annotation-prefix: `a.b` gives `a.b/backend-type`, `a.b/x` gives `a.b/x-backend-type`."""
    prefix = text if "/" in text else text + "/"
    if not prefix.endswith(("/", "-")):
        prefix += "-"
    if not _PREFIX.fullmatch(prefix):
        raise UsageError(
            f"--kube-annotation-prefix={text[:60]!a}: is no prefix of an annotation",
            hint="a domain in lower case, and perhaps / and a name: flannel.alpha.coreos.com or net.example.org/lab",
        )
    return Names(prefix)


def cidrs_of(node: Node) -> Subnets:
    """The slice that the cluster's controller gave to the node, IPv4 first; () if none yet. ValueError: it is none."""
    texts = node.cidrs
    if len(texts) > _MOST_CIDRS:
        raise ValueError(f"it has {len(texts)} podCIDRs, and can have one of each family")
    found = tuple(_cidr(text) for text in texts)
    return tuple(net for version in FAMILIES if (net := of_family(found, version)) is not None)


def _cidr(text: str) -> Net:
    try:
        net = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"its podCIDR {text[:64]!r} is no network") from None
    if net.prefixlen > _LONGEST[net.version]:
        raise ValueError(f"its podCIDR {net} has no room for pods")
    return net


def encode_annotations(names: Names, attrs: LeaseAttrs, overwrites: Mapping[int, Addr]) -> dict[str, str | None]:
    """What the node's annotations must be; None: must not be there, since it is of another backend or family."""
    texts: dict[str, str | None] = {names.managed: "true", names.backend_type: attrs.backend_type}
    for version in FAMILIES:
        shown = _shows(attrs, version)
        data = attrs.data(version)
        public = overwrites.get(version, attrs.public(version))
        texts[names.data(version)] = (encode_data(data) if data is not None else "null") if shown else None
        texts[names.public(version)] = str(public or _NO_IPV4) if shown else None
    return texts


def _shows(attrs: LeaseAttrs, version: int) -> bool:
    """Whether upstream writes that family: vxlan where it has data, IPv6 for backends that route it."""
    if attrs.backend_type == "vxlan" or (attrs.backend_type == "wireguard" and version == 6):
        return attrs.data(version) is not None
    return version == 4 or (attrs.public_ipv6 is not None and attrs.backend_type in ("host-gw", "extension"))


def decode_attrs(names: Names, annotations: Mapping[str, str], versions: tuple[int, ...] = FAMILIES) -> LeaseAttrs:
    """What a node publishes for these families. ValueError says which annotation is wrong, and how."""
    publics: dict[int, Addr | None] = {}
    data: dict[int, str | None] = {}
    for version in versions:
        publics[version] = decode_address(names.public(version), annotations, version)
        text = annotations.get(names.data(version), "null")
        try:
            data[version] = None if text == "null" else decode_data(text)
        except ValueError as error:
            raise ValueError(f"its annotation {names.data(version)}: {error}") from None
    four, six = publics.get(4), publics.get(6)
    return LeaseAttrs(
        four if isinstance(four, IPv4Address) else None,
        six if isinstance(six, IPv6Address) else None,
        parse_name(names.backend_type, annotations.get(names.backend_type, "")),
        data.get(4),
        data.get(6),
    )


def decode_lease(names: Names, node: Node, versions: tuple[int, ...]) -> Lease | None:
    """The lease of a node, in those of the families `versions` in which it has a slice and an address; None: no node of
    ours, or nothing in common. ValueError says what is wrong with it."""
    if node.annotations.get(names.managed) != "true":
        return None
    attrs = decode_attrs(names, node.annotations, versions)
    subnets = tuple(net for net in cidrs_of(node) if attrs.public(net.version) is not None)
    return Lease(subnets, attrs) if subnets else None


def decode_address(name: str, annotations: Mapping[str, str], version: int) -> Addr | None:
    """The address in an annotation; None: there is none. ValueError says what is wrong with it."""
    text = annotations.get(name, "")
    if text in ("", _NO_IPV4):
        return None
    try:
        return parse_address(IPv4Address, name, text) if version == 4 else parse_address(IPv6Address, name, text)
    except ValueError as error:
        raise ValueError(f"its annotation {error}") from None
