"""The network configuration: the JSON text under `<prefix>/config` in etcd, and net-conf.json.

The keys, defaults and formulas are those of Go flannel (pkg/subnet/config.go), since its nodes read the same text.
Every rule is checked here, wherever the text comes from; what Go nodes would refuse or ignore is said in a warning.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Network, ip_address, ip_network
from typing import Final

from flanneld_py.errors import ConfigError
from flanneld_py.model.fields import ABSENT, Fields, decode_object
from flanneld_py.model.net import Addr, Net, Subnets, of_family

EXAMPLE: Final = '{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}'
DEFAULT_BACKEND: Final = "udp"
"""What a text without a Backend key means to Go flannel's code; its documentation says vxlan."""

_MAX_SUBNET_LEN = {4: 30, 6: 126}
_USUAL_SUBNET_LEN = {4: 24, 6: 64}
_EXAMPLES = {4: "10.244.0.0/16", 6: "fd00:10:244::/48"}
_GO_UINT_MAX = (1 << 64) - 1
_WRITTEN_AS_IPV4 = (IPv6Network("::/96"), IPv6Network("::ffff:0:0/96"))
"""Go flannel prints an address in these as dotted IPv4, so that its keys and files say something else."""

_OPTION_SPELLINGS: Final = {
    name.lower(): name
    for name in (
        *("VNI", "Port", "GBP", "Learning", "MTU", "DirectRouting", "MacPrefix", "Name"),
        *("ListenPort", "ListenPortV6", "PSK", "PersistentKeepaliveInterval", "Mode", "UDPEncap", "ESPProposal"),
        *("PreStartupCommand", "PostStartupCommand", "ShutdownCommand", "SubnetAddCommand", "SubnetRemoveCommand"),
    )
}
_BOOLEAN_OPTIONS = frozenset({"gbp", "learning", "directrouting", "udpencap"})


@dataclass(frozen=True, slots=True)
class FamilyConfig:
    """One family's network, and the base addresses of the first and the last subnet that nodes may lease."""

    network: Net
    subnet_len: int
    subnet_min: Addr
    subnet_max: Addr

    @property
    def version(self) -> int:
        return self.network.version

    @property
    def subnet_size(self) -> int:
        """Addresses in one subnet."""
        return 1 << (self.network.max_prefixlen - self.subnet_len)

    @property
    def subnet_count(self) -> int:
        """Subnets from `subnet_min` to `subnet_max`, both included."""
        return (int(self.subnet_max) - int(self.subnet_min)) // self.subnet_size + 1

    def fits(self, subnet: Net) -> bool:
        """Whether a node may lease `subnet`."""
        return (
            subnet.version == self.version
            and subnet.prefixlen == self.subnet_len
            and int(self.subnet_min) <= int(subnet.network_address) <= int(self.subnet_max)
        )


@dataclass(frozen=True, slots=True)
class BackendConfig:
    """`type` in lower case, not yet known to exist; `options`: the Backend object as written, `Type` included."""

    type: str
    options: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """`families`: the enabled ones, at least one, IPv4 first."""

    families: tuple[FamilyConfig, ...]
    backend: BackendConfig
    enable_nftables: bool = False

    @property
    def networks(self) -> tuple[Net, ...]:
        return tuple(family.network for family in self.families)

    def family(self, version: int) -> FamilyConfig | None:
        return next((family for family in self.families if family.version == version), None)

    def fits(self, subnets: Subnets) -> bool:
        """Whether a node may lease `subnets`: one for each enabled family, none else."""
        if len(subnets) != len(self.families):
            return False
        pairs = ((family, of_family(subnets, family.version)) for family in self.families)
        return all(subnet is not None and family.fits(subnet) for family, subnet in pairs)


@dataclass(frozen=True, slots=True)
class Checked:
    """`config` is None exactly if there are errors."""

    config: NetworkConfig | None
    errors: tuple[ConfigError, ...]
    warnings: tuple[str, ...]


CheckBackend = Callable[[BackendConfig, tuple[int, ...]], tuple[list[ConfigError], list[str]]]
"""Errors and warnings about type and options of a backend, given the enabled families (4, 6); messages complete."""


def check_config(text: str, source: str, check_backend: CheckBackend | None = None) -> Checked:
    """All that can be said about the text. `source` (a file, a key) begins every message."""
    try:
        fields = Fields(decode_object(text, source), source)
    except ConfigError as err:
        return Checked(None, (err,), ())
    read = {version: _Family(fields, version) for version in (4, 6)}
    nftables, raw = fields.boolean("EnableNFTables", False), fields.take("Backend")
    unused = [name for family in read.values() if not family.enabled for name in family.names]
    fields.finish(harmless=("EnableNFTables", *unused))
    families = [config for family in read.values() if (config := family.check()) is not None]
    versions = tuple(version for version, family in read.items() if family.enabled)
    if not versions and not any(fields.mistaken(f"EnableIPv{version}") for version in read):
        fields.missing("EnableIPv4", "no address family is enabled", 'set "EnableIPv4" or "EnableIPv6" to true')
    backend = _backend(fields, raw, source)
    if backend is not None and check_backend is not None:
        errors, warnings = check_backend(backend, versions)
        fields.errors += errors
        fields.warnings += warnings
    if fields.errors or backend is None:
        return Checked(None, tuple(fields.errors), tuple(fields.warnings))
    return Checked(NetworkConfig(tuple(families), backend, nftables), (), tuple(fields.warnings))


def parse_config(text: str, source: str) -> tuple[NetworkConfig, tuple[str, ...]]:
    """The configuration and the warnings about it. ConfigError: the first of its errors."""
    checked = check_config(text, source)
    if checked.config is None:
        raise checked.errors[0]
    return checked.config, checked.warnings


def format_config(config: NetworkConfig) -> str:
    """The configuration as JSON in one line that Go nodes read too: keys as documented, defaults left out."""
    found: dict[str, object] = {}
    for version in (4, 6):
        family = config.family(version)
        if (family is not None) is not (version == 4):
            found[_names(version)["enable"]] = family is not None
        if family is not None:
            found |= _format_family(family)
    if config.enable_nftables:
        found["EnableNFTables"] = True
    found["Backend"] = {"Type": config.backend.type} | _canonical_options(config.backend.options)
    return json.dumps(found)


def _format_family(family: FamilyConfig) -> dict[str, object]:
    names = _names(family.version)
    low, high = _default_range(family.network, family.subnet_len)
    found: dict[str, object] = {names["network"]: str(family.network), names["len"]: family.subnet_len}
    if family.subnet_min != low:
        found[names["min"]] = str(family.subnet_min)
    if family.subnet_max != high:
        found[names["max"]] = str(family.subnet_max)
    return found


def _canonical_options(options: Mapping[str, object]) -> dict[str, object]:
    """Without `Type`; `null` and all but the last spelling of a key have no effect, and are left out."""
    found: dict[str, object] = {}
    for key, value in options.items():
        folded = key.lower()
        if folded == "type" or (folded in _OPTION_SPELLINGS and value is None):
            continue
        if folded in _BOOLEAN_OPTIONS and isinstance(value, str) and value.lower() in ("true", "false"):
            value = value.lower() == "true"  # noqa: PLW2901
        found[_OPTION_SPELLINGS.get(folded, key)] = value
    return found


def _names(version: int) -> dict[str, str]:
    """The keys of one family."""
    prefix = "" if version == 4 else "IPv6"
    return {
        "enable": f"EnableIPv{version}",
        "network": f"{prefix}Network",
        "len": f"{prefix}SubnetLen",
        "min": f"{prefix}SubnetMin",
        "max": f"{prefix}SubnetMax",
    }


def _default_range(network: Net, subnet_len: int) -> tuple[Addr, Addr]:
    """The first subnet is skipped: its base address would be that of the network."""
    size = 1 << (network.max_prefixlen - subnet_len)
    return network.network_address + size, network[-1] - (size - 1)


class _Family:
    """One family's keys: taken from the object at once, checked against each other by `check`."""

    def __init__(self, fields: Fields, version: int) -> None:
        self._fields = fields
        self._version = version
        self._key = _names(version)
        self.names = tuple(name for role, name in self._key.items() if role != "enable")
        self.enabled = fields.boolean(self._key["enable"], version == 4)
        self._network_text = fields.required_text(self._key["network"], f"an IPv{version} network")
        limit = _MAX_SUBNET_LEN[version] if self.enabled else _GO_UINT_MAX
        self._len = fields.integer(self._key["len"], 0, low=0, high=limit)
        self._ends = {role: self._end_text(role) for role in ("min", "max")}

    def _end_text(self, role: str) -> str | None:
        # Go flannel holds the IPv6 ends as pointers, which `null` leaves unset; the IPv4 ones refuse it.
        if self._version == 6 and self._fields.take(self._key[role]) is None:
            return None
        return self._fields.required_text(self._key[role], f"an IPv{self._version} address")

    def check(self) -> FamilyConfig | None:
        """None: the family is not enabled, or something is wrong, and noted."""
        if not self.enabled:
            self._check_unused()
            return None
        before = len(self._fields.errors)
        network = self._network()
        subnet_len = None if network is None else self._subnet_len(network)
        if network is None or subnet_len is None:
            return None
        low, high = _default_range(network, subnet_len)
        low = self._end("min", network, subnet_len) or low
        high = self._end("max", network, subnet_len) or high
        if len(self._fields.errors) > before:
            return None
        if int(low) > int(high):
            role = "min" if self._ends["min"] is not None else "max"
            relation = f"{self._key['min']} {low} lies above {self._key['max']} {high}: no subnet is left"
            self._fields.fail(self._key[role], self._ends[role], relation, "exchange them, or leave one out")
            return None
        return FamilyConfig(network, subnet_len, low, high)

    def _check_unused(self) -> None:
        """Go nodes refuse the whole text if an address in it cannot be read, even where it has no effect."""
        if self._network_text is not None and self._read_network(self._network_text) is not None:
            reason = f"has no effect without {self._key['enable']} = true"
            self._fields.warn(self._key["network"], self._network_text, reason)
        for role, text in self._ends.items():
            if text is not None:
                self._read_end(role, text)

    def _network(self) -> Net | None:
        key, text = self._key["network"], self._network_text
        if text is None:
            if not self._fields.given(key) and not self._fields.mistaken(key):
                reason = f"is missing, and {self._key['enable']} is true"
                self._fields.missing(key, reason, f'add "{key}": "{_EXAMPLES[self._version]}"')
            return None
        network = self._read_network(text)
        return network if network is not None and self._usable(key, text, network) else None

    def _read_network(self, text: str) -> Net | None:
        network = _parse_network(text)
        if network is not None and network.version == self._version:
            return network
        mend = f"write it like {_EXAMPLES[self._version]}"
        self._fields.fail(self._key["network"], text, f"is not an IPv{self._version} network", mend)
        return None

    def _usable(self, key: str, text: str, network: Net) -> bool:
        if network.prefixlen == 0:
            self._fields.fail(key, text, "is every address there is", "choose a network of your own")
            return False
        if isinstance(network, IPv6Network) and any(network.overlaps(odd) for odd in _WRITTEN_AS_IPV4):
            reason = "overlaps addresses that Go nodes write as IPv4"
            self._fields.fail(key, text, reason, f"choose a unique local network such as {_EXAMPLES[6]}")
            return False
        if _parse_address(text.partition("/")[0]) != network.network_address:
            self._fields.warn(key, text, f"has host bits; it is read as {network}")
        if network.is_multicast or network.is_loopback or network.is_link_local:
            self._fields.warn(key, text, "is no network that packets for pods can be routed to")
        return True

    def _subnet_len(self, network: Net) -> int | None:
        widest, limit = network.prefixlen + 2, _MAX_SUBNET_LEN[self._version]
        if widest > limit:
            reason = "is too small for four subnets of four addresses"
            mend = f"the smallest useful network is a /{limit - 2}"
            self._fields.fail(self._key["network"], self._network_text, reason, mend)
            return None
        if self._len == 0:
            return max(_USUAL_SUBNET_LEN[self._version], widest)
        if self._len < widest:
            reason = f"{network} does not hold four subnets of /{self._len}"
            self._fields.fail(self._key["len"], self._len, reason, f"use {widest} to {limit}, or a larger network")
            return None
        return self._len

    def _end(self, role: str, network: Net, subnet_len: int) -> Addr | None:
        """The address given for one end of the range. None: not given, or wrong and noted."""
        key, text = self._key[role], self._ends[role]
        if text is None:
            return None
        address = self._read_end(role, text)
        if address is None:
            return None
        _, slash, length = text.partition("/")
        if slash and int(length) != subnet_len:
            reason = f"its length is not {self._key['len']}, which is {subnet_len}"
            self._fields.fail(key, text, reason, f'write the address alone: "{address}"')
            return None
        if slash:
            self._fields.warn(key, text, f'Go nodes refuse this form; write the address alone: "{address}"')
        if int(address) == 0:
            return None
        if address not in network:
            self._fields.fail(key, text, f"lies outside {self._key['network']} {network}")
            return None
        subnet = ip_network((address, subnet_len), strict=False)
        if subnet.network_address != address:
            mend = f"the nearest below is {subnet.network_address}"
            self._fields.fail(key, text, f"is not the first address of a /{subnet_len}", mend)
            return None
        return address

    def _read_end(self, role: str, text: str) -> Addr | None:
        plain, slash, length = text.partition("/")
        address = _parse_address(plain)
        if address is not None and address.version == self._version and (not slash or _is_length(length)):
            return address
        mend = f"write it like {_EXAMPLES[self._version].partition('/')[0]}"
        self._fields.fail(self._key[role], text, f"is not an IPv{self._version} address", mend)
        return None


def _backend(fields: Fields, raw: object, source: str) -> BackendConfig | None:
    """None: the Backend object cannot be used, and that is noted."""
    mend = 'write {"Type": "vxlan"} or another backend'
    if raw is ABSENT:
        if fields.mistaken("Backend"):
            return None
        if fields.given("Type"):
            fields.missing("Backend", "is missing, and Type stands outside of it", mend)
            return None
        fields.note(f'Backend is missing, so that the backend is "{DEFAULT_BACKEND}"; to choose one, {mend}')
        return BackendConfig(DEFAULT_BACKEND, {})
    if raw is not None and not isinstance(raw, dict):
        fields.fail("Backend", raw, "is not a JSON object", mend)
        return None
    inner = Fields(raw or {}, f"{source}: Backend")
    kind = inner.text("Type", "")
    if inner.given("Type") and not _could_be_type(kind) and not inner.errors:
        inner.fail("Type", kind, "names no backend", mend)
    if not inner.given("Type"):
        inner.finish(known=_OPTION_SPELLINGS.values())
        if not inner.errors:
            fields.fail("Backend", raw, "has no Type", mend)
    fields.errors += inner.errors
    fields.warnings += inner.warnings
    return BackendConfig(kind.lower(), raw or {}) if kind and not inner.errors else None


def _could_be_type(text: str) -> bool:
    """Which backends there are is not known here; but messages repeat the name, so that it must be a plain word."""
    return 0 < len(text) <= 40 and text.isascii() and text.isprintable()


def _is_length(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 3


def _parse_network(text: str) -> Net | None:
    """`address/length` with host bits masked off, and no other form that Python would take (no netmask, no zone)."""
    address, slash, length = text.partition("/")
    if not slash or not _is_length(length) or "%" in address:
        return None
    try:
        return ip_network((address, int(length)), strict=False)
    except ValueError:
        return None


def _parse_address(text: str) -> Addr | None:
    try:
        return None if "%" in text else ip_address(text)
    except ValueError:
        return None
