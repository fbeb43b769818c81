from pathlib import Path

import pytest

from flanneld_py.host.snmp import bad_udp_checksums

SNMP = """\
Ip: Forwarding DefaultTTL
Ip: 1 64
Icmp: InMsgs InErrors InCsumErrors
Icmp: 2 0 9
Udp: InDatagrams NoPorts InErrors InCsumErrors MemErrors
Udp: 460992 0 2196 7 0
UdpLite: InDatagrams NoPorts InErrors InCsumErrors MemErrors
UdpLite: 1 0 2 100 0
"""
SNMP6 = "Udp6InDatagrams     \t12\nUdp6InCsumErrors    \t30\nUdpLite6InCsumErrors\t400\n"


def test_both_families_are_counted_together(tmp_path: Path) -> None:
    (tmp_path / "snmp").write_text(SNMP)
    assert bad_udp_checksums(tmp_path) == 7
    (tmp_path / "snmp6").write_text(SNMP6)
    assert bad_udp_checksums(tmp_path) == 37


@pytest.mark.parametrize("text", ["", "Udp:\n", "Udp: InCsumErrors\nUdp:\n", "Udp: InCsumErrors\nUdp: x\n", "\n\n"])
def test_what_cannot_be_read_counts_nothing(tmp_path: Path, text: str) -> None:
    assert bad_udp_checksums(tmp_path) == 0
    (tmp_path / "snmp").write_text(text)
    (tmp_path / "snmp6").write_text("Udp6InCsumErrors\n\nUdp6InCsumErrors x\n")
    assert bad_udp_checksums(tmp_path) == 0


def test_this_kernel_has_the_counter() -> None:
    names = next(line for line in Path("/proc/self/net/snmp").read_text().splitlines() if line.startswith("Udp:"))
    assert "InCsumErrors" in names.split()
