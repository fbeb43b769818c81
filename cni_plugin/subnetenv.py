"""subnet.env: the node's networks, subnets, MTU and who masquerades, as flanneld writes it; sans-I/O.

Quotes, `export`, comments and blanks are understood, because people edit the file; the daemon reads it likewise.
"""

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton

NETWORK = {4: "FLANNEL_NETWORK", 6: "FLANNEL_IPV6_NETWORK"}
SUBNET = {4: "FLANNEL_SUBNET", 6: "FLANNEL_IPV6_SUBNET"}
MTU = "FLANNEL_MTU"
IPMASQ = "FLANNEL_IPMASQ"

_FAMILY = {4: AF_INET, 6: AF_INET6}
_BITS = {4: 32, 6: 128}
_BOOLEANS = {"true": True, "false": False}
_MAX_MTU = 65535
_BLANKS = " \t"
_NAME = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789")


class Net:
    """A network. `text` as CIDR without host bits, `gateway` the first address in it, with its length."""

    __slots__ = ("first", "length", "version")

    def __init__(self, version: int, address: int, length: int) -> None:
        host_bits = _BITS[version] - length
        self.version = version
        self.first = address >> host_bits << host_bits
        self.length = length

    @property
    def text(self) -> str:
        return f"{_format_address(self.version, self.first)}/{self.length}"

    @property
    def gateway(self) -> str:
        return f"{_format_address(self.version, self.first + 1)}/{self.length}"

    def __contains__(self, cidr: str) -> bool:
        try:
            other = parse_net(cidr, 6 if ":" in cidr else 4)
        except ValueError:
            return False
        host_bits = _BITS[self.version] - self.length
        whole = _address(cidr.partition("/")[0], other.version)
        return other.version == self.version and whole >> host_bits == self.first >> host_bits


class SubnetEnv:
    """`networks` without repeats and `subnets` (the first of each family), IPv4 first. None: the file does not say."""

    __slots__ = ("ipmasq", "mtu", "networks", "subnets")

    def __init__(self, networks: list[Net], subnets: list[Net], mtu: int | None, ipmasq: bool | None) -> None:
        self.networks = networks
        self.subnets = subnets
        self.mtu = mtu
        self.ipmasq = ipmasq

    def missing(self) -> list[str]:
        """The variables without which no pod can be connected. One family is enough."""
        found: list[str] = []
        if not self.networks:
            found += NETWORK.values()
        if not self.subnets:
            found += SUBNET.values()
        if self.mtu is None:
            found.append(MTU)
        if self.ipmasq is None:
            found.append(IPMASQ)
        return found


def parse_subnet_env(text: str) -> tuple[SubnetEnv, list[str]]:
    """All that can be read from the text, and a line for each value that cannot. Never raises."""
    values, problems = _parse_dotenv(text)
    networks: list[Net] = []
    subnets: list[Net] = []
    for version in (4, 6):
        for net in _nets(values, NETWORK[version], version, problems):
            if net.text not in [known.text for known in networks]:
                networks.append(net)
        subnets += _nets(values, SUBNET[version], version, problems)[:1]
    mtu, ipmasq = values.get(MTU, ""), values.get(IPMASQ, "")
    number = int(mtu) if mtu.isascii() and mtu.isdigit() and len(mtu) <= 5 else 0
    if mtu and not 0 < number <= _MAX_MTU:
        problems.append(f"{MTU}: cannot use {mtu[:60]!a}")
        number = 0
    if ipmasq and ipmasq not in _BOOLEANS:
        problems.append(f"{IPMASQ}: cannot use {ipmasq[:60]!a}, only true or false")
    return SubnetEnv(networks, subnets, number or None, _BOOLEANS.get(ipmasq)), problems


def parse_net(text: str, version: int) -> Net:
    """The network of ADDRESS/LENGTH. ValueError for any other form: a netmask, a zone, no length at all."""
    address, _, length = text.partition("/")
    if not (length.isascii() and length.isdigit() and len(length) <= 3 and int(length) <= _BITS[version]):
        raise ValueError(text)
    return Net(version, _address(address, version), int(length))


def is_address(text: str) -> bool:
    try:
        _address(text, 6 if ":" in text else 4)
    except ValueError:
        return False
    return True


def _nets(values: dict[str, str], name: str, version: int, problems: list[str]) -> list[Net]:
    found = []
    for part in values.get(name, "").split(","):
        if piece := part.strip():
            try:
                found.append(parse_net(piece, version))
            except ValueError:
                problems.append(f"{name}: cannot use {piece[:60]!a}")
    return found


def _address(text: str, version: int) -> int:
    try:
        return int.from_bytes(inet_pton(_FAMILY[version], text), "big")
    except OSError:
        raise ValueError(text) from None


def _format_address(version: int, address: int) -> str:
    return inet_ntop(_FAMILY[version], (address % (1 << _BITS[version])).to_bytes(_BITS[version] // 8, "big"))


def _parse_dotenv(text: str) -> tuple[dict[str, str], list[str]]:
    found: dict[str, str] = {}
    problems = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, equals, rest = stripped.partition("=")
        words = name.split()
        if len(words) == 2 and words[0] == "export":
            del words[0]
        value = _value(rest.strip())
        if not equals or len(words) != 1 or not _NAME.issuperset(words[0]) or words[0][0].isdigit():
            problems.append(f"line {number} is not an assignment")
        elif value is None:
            problems.append(f"line {number}: the value of {words[0]} has an open quote")
        else:
            found[words[0]] = value
    return found, problems


def _value(text: str) -> str | None:
    """The value before a comment, without its quotes; None if a quote is not closed."""
    if text.startswith("#"):
        return ""
    if text[:1] not in ("'", '"'):
        for blank in _BLANKS:
            text = text.split(blank + "#", 1)[0]
        return text.rstrip()
    quote, out, escaped = text[0], "", False
    for char in text[1:]:
        if escaped:
            out += char if char in '"\\$`' else "\\" + char
            escaped = False
        elif char == "\\" and quote == '"':
            escaped = True
        elif char == quote:
            return out
        else:
            out += char
    return None
