from ipaddress import ip_network

import pytest

from flanneld_py.model.net import (
    format_subnet_key,
    host_interface,
    inside,
    of_family,
    overlaps,
    parse_mac,
    parse_subnet_key,
)

KEYS = [
    ("10.12.13.0-24", ["10.12.13.0/24"]),
    ("10.12.13.0-24&fd00:12:13::-56", ["10.12.13.0/24", "fd00:12:13::/56"]),
    ("0.0.0.0-0&fc00::-64", ["fc00::/64"]),
]


@pytest.mark.parametrize(("key", "nets"), KEYS)
def test_subnet_key_parses_and_formats_to_itself(key: str, nets: list[str]) -> None:
    subnets = tuple(map(ip_network, nets))
    assert parse_subnet_key(key) == subnets
    assert format_subnet_key(subnets) == key


@pytest.mark.parametrize(
    "key",
    [
        "10",
        "10.12.13.0",
        "10.12.13-24",
        "10.12.13.300-24",
        "10.12.13.0-24hi",
        "&2001::-56",
        "10.12.13.0-24&:12:13:-56",
        "10.12.13.0-24&20011::-56",
        "10.12.13.0-24&2001-56",
        "10.12.13.0-24&2001::",
        "10.12.13.0-24&2001::-56hi",
        "10.12.13.0-32",
        "10.12.13.0-24&fd00::-128",
        "10.12.13.0-24&FD00::-64",
        "",
        "10.12.13.0-٢٤",
    ],
)
def test_subnet_key_that_flannel_refuses_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_subnet_key(key)


def test_subnet_key_masks_host_bits() -> None:
    assert parse_subnet_key("10.12.13.7-24") == (ip_network("10.12.13.0/24"),)


def test_mac_is_lowered_and_must_be_of_one_device() -> None:
    assert parse_mac("AA-BB-CC-DD-EE-FF") == "aa:bb:cc:dd:ee:ff"
    for wrong in (
        "01:00:5e:00:00:01",
        "ff:ff:ff:ff:ff:ff",
        "00:00:00:00:00:00",
        "aa:bb:cc:dd:ee",
        "",
        "aa:bb:cc:dd:ee:fg",
    ):
        with pytest.raises(ValueError, match="MAC"):
            parse_mac(wrong)


def test_families_never_mix() -> None:
    four, six = ip_network("10.0.0.0/8"), ip_network("fd00::/8")
    assert not inside(four, six)
    assert not overlaps(four, six)
    assert inside(ip_network("10.1.0.0/16"), four)
    assert of_family((four, six), 6) == six
    assert of_family((four,), 6) is None
    assert str(host_interface(ip_network("10.244.3.0/24"))) == "10.244.3.0/32"
