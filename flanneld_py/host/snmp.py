"""The kernel's counters of this network namespace below /proc/net."""

from contextlib import suppress
from pathlib import Path

_ROOT = Path("/proc/self/net")
_UDP, _NAME, _NAME6 = "Udp:", "InCsumErrors", "Udp6InCsumErrors"


def bad_udp_checksums(root: Path = _ROOT) -> int:
    """UDP datagrams of both families that were dropped for their checksum (RFC 4113 knows no such counter: Linux's own,
    Documentation/networking/snmp_counter.rst). 0 where it cannot be read."""
    return _ipv4(_read(root / "snmp")) + _ipv6(_read(root / "snmp6"))


def _read(path: Path) -> list[list[str]]:
    with suppress(OSError):
        return [line.split() for line in path.read_text().splitlines()]
    return []


def _ipv4(lines: list[list[str]]) -> int:
    """A line of names, then one of values, each beginning with the protocol."""
    rows = [words for words in lines if words[:1] == [_UDP]]
    if len(rows) != 2 or _NAME not in rows[0] or len(rows[0]) != len(rows[1]):
        return 0
    value = rows[1][rows[0].index(_NAME)]
    return int(value) if value.isdecimal() else 0


def _ipv6(lines: list[list[str]]) -> int:
    return next((int(words[1]) for words in lines if words[:1] == [_NAME6] and words[1:2] and words[1].isdecimal()), 0)
