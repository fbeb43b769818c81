"""subnet.env is read whoever wrote it, and never brings a reader down."""

from dataclasses import replace
from ipaddress import ip_interface, ip_network

import pytest

from flanneld_py.model.dotenv import is_name, parse_dotenv
from flanneld_py.model.subnetenv import SubnetEnv, format_subnet_env, parse_subnet_env, previous_subnets

DUAL = SubnetEnv.of(
    (ip_network("10.3.0.0/16"), ip_network("fd00::/48")),
    (ip_network("10.3.4.0/24"), ip_network("fd00:0:0:4::/64")),
    1450,
    ipmasq=True,
)


def test_of_gives_the_bridge_the_address_after_the_base() -> None:
    assert DUAL.subnets == (ip_interface("10.3.4.1/24"), ip_interface("fd00:0:0:4::1/64"))


def test_parse_reads_what_format_writes() -> None:
    assert parse_subnet_env(format_subnet_env(DUAL)) == (DUAL, ())


def test_the_super_packets_size_is_a_line_of_its_own() -> None:
    env = replace(DUAL, gso_max_size=63329)
    assert format_subnet_env(env) == format_subnet_env(DUAL) + "FLANNEL_GSO_MAX_SIZE=63329\n"
    assert parse_subnet_env(format_subnet_env(env)) == (env, ())
    env, problems = parse_subnet_env("FLANNEL_GSO_MAX_SIZE=65537\n")
    assert env.gso_max_size is None
    assert problems == ("FLANNEL_GSO_MAX_SIZE: cannot use '65537'",)


def test_previous_subnets_are_the_leased_ones() -> None:
    assert previous_subnets(DUAL) == (ip_network("10.3.4.0/24"), ip_network("fd00:0:0:4::/64"))
    assert previous_subnets(parse_subnet_env("")[0]) == ()


def test_previous_subnets_is_one_of_each_family_ipv4_first() -> None:
    text = "FLANNEL_IPV6_SUBNET=fd00::1/64,fd01::1/64\nFLANNEL_SUBNET=10.3.4.1/24,10.3.5.1/24\n"
    env, problems = parse_subnet_env(text)
    assert problems == ()
    assert previous_subnets(env) == (ip_network("10.3.4.0/24"), ip_network("fd00::/64"))


def test_several_networks_are_read_and_the_unreadable_ones_named() -> None:
    env, problems = parse_subnet_env(
        "FLANNEL_NETWORK=10.244.1.0/24,not-a-cidr,10.244.2.0/24\nFLANNEL_IPV6_NETWORK=fd00::/64,x,fd01::/64\n"
    )
    assert list(map(str, env.networks)) == ["10.244.1.0/24", "10.244.2.0/24", "fd00::/64", "fd01::/64"]
    assert problems == ("FLANNEL_NETWORK: cannot use 'not-a-cidr'", "FLANNEL_IPV6_NETWORK: cannot use 'x'")


@pytest.mark.parametrize(
    "value",
    [
        "x",
        "10.3.4.1",
        "10.3.4.1/33",
        "10.3.4.1/255.255.255.0",
        "fd00::1/64",
        "010.3.4.1/24",
        "10.3.4.1/" + "9" * 5000,
        "10.3.4.1/²",
        "\x00",
    ],
)
def test_a_subnet_that_cannot_be_read_is_a_problem_and_none(value: str) -> None:
    env, problems = parse_subnet_env(f"FLANNEL_SUBNET={value}\nFLANNEL_MTU=1450\n")
    assert env.subnets == ()
    assert env.mtu == 1450
    assert len(problems) == 1


@pytest.mark.parametrize("value", ["0", "-5", "65536", "1e3", "0x10", "٣", "9" * 5000])
def test_an_mtu_that_cannot_be_is_a_problem(value: str) -> None:
    env, problems = parse_subnet_env(f"FLANNEL_MTU={value}")
    assert env.mtu is None
    assert len(problems) == 1


def test_what_the_file_does_not_say_is_none() -> None:
    env, problems = parse_subnet_env("FLANNEL_IPMASQ=maybe\n")
    assert (env.mtu, env.ipmasq) == (None, None)
    assert problems == ("FLANNEL_IPMASQ: cannot use 'maybe'",)
    assert format_subnet_env(env) == ""


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=b", "b"),
        ("A = b", "b"),
        ("export A=b", "b"),
        ("  export   A=b  ", "b"),
        ("A='b c'", "b c"),
        ('A="b c" # why', "b c"),
        (r'A="b\"c\\d\e"', r'b"c\d\e'),
        (r"A='b\c'", r"b\c"),
        ("A=b # why", "b"),
        ("A=b#c", "b#c"),
        ("A=# why", ""),
        ("A=", ""),
        ("A=b=c", "b=c"),
        ("\ufeffA=b", "b"),
        ("A=b\r", "b"),
        ("A=old\nA=b", "b"),
        ("# A=x\n\n\nA=b", "b"),
    ],
)
def test_dotenv_syntax(line: str, value: str) -> None:
    assert parse_dotenv(line) == ({"A": value}, ())


@pytest.mark.parametrize(
    "line", ["A", "=b", "1A=b", "A B=c", "Ä=b", "export export A=b", "A='b", 'A="b\\"', "\x00\x01"]
)
def test_a_line_that_is_no_assignment_is_named(line: str) -> None:
    found, problems = parse_dotenv(f"B=1\n{line}\nC=2")
    assert found == {"B": "1", "C": "2"}
    assert len(problems) == 1
    assert problems[0].startswith("line 2")


def test_is_name() -> None:
    assert all(map(is_name, ("A", "_a1", "DOCKER_OPTS")))
    assert not any(map(is_name, ("", "1A", "A-B", "A B", "Ä", "A=")))
