from ipaddress import IPv4Address, ip_network
from typing import Any

import pytest

from flanneld_py.daemon.elsewhere import MARK, MOST_NAMED, senders_elsewhere
from flanneld_py.model.lease import Lease, LeaseAttrs


def lease(third: int, length: int = 24) -> Lease:
    return Lease((ip_network(f"10.244.{third}.0/{length}"),), LeaseAttrs(IPv4Address(f"192.0.2.{third}"), None, "udp"))


LEASES = [lease(number) for number in range(2, 12)] + [lease(64, 20)]


def said(*seen: tuple[str, str, int]) -> str | None:
    stats: dict[str, Any] = {"seen": [{"outer": o, "inner": i, "datagrams": count} for o, i, count in seen]}
    return senders_elsewhere(stats, LEASES)


def test_a_peer_that_sends_from_elsewhere_is_named_with_the_mend() -> None:
    text = said(("198.51.100.9", "10.244.3.7", 3))
    assert text is not None
    assert "10.244.3.0/24 (192.0.2.3) from 198.51.100.9;" in text
    assert MARK in text and "--public-ip" in text and "SourceValidation" in text


def test_pods_of_one_peer_count_together() -> None:
    assert said(("198.51.100.9", "10.244.3.7", 1), ("198.51.100.9", "10.244.3.8", 2)) is not None
    assert said(("198.51.100.9", "10.244.3.7", 1), ("198.51.100.8", "10.244.3.8", 2)) is None


def test_leases_of_all_lengths_are_found() -> None:
    text = said(("198.51.100.9", "10.244.79.255", 9))
    assert text is not None and "10.244.64.0/20" in text
    assert said(("198.51.100.9", "10.244.80.0", 9)) is None


@pytest.mark.parametrize("inner", ["10.244.200.1", "0.0.0.0", "192.0.2.3"])
def test_a_stranger_is_no_finding(inner: str) -> None:
    assert said(("198.51.100.9", inner, 1000)) is None


def test_no_worker_and_no_stranger() -> None:
    assert senders_elsewhere(None, LEASES) is None
    assert said() is None


def test_the_text_stays_short_and_equal_whatever_comes() -> None:
    """A text that changes with each look would fill the log."""
    many = [(f"198.51.100.{n}", f"10.244.{n % 10 + 2}.1", 5) for n in range(64)]
    text = said(*many)
    assert text is not None and text.count(" from 198.51.100.") == MOST_NAMED and f"and {64 - MOST_NAMED} more" in text
    assert said(*((outer, inner, count + 9) for outer, inner, count in reversed(many))) == text
