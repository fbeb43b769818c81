"""The bytes that Go flannel writes to subnet.env (pkg/subnet/subnet.go)."""

from ipaddress import ip_network

import pytest

from flanneld_py.model.subnetenv import SubnetEnv, format_subnet_env, parse_subnet_env

CASES = [
    (
        (["10.1.0.0/16"], ["10.1.74.0/24"], 1472, False),
        "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.74.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n",
    ),
    (
        (["fd00::/48"], ["fd00:0:0:5::/64"], 1430, True),
        "FLANNEL_IPV6_NETWORK=fd00::/48\nFLANNEL_IPV6_SUBNET=fd00:0:0:5::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=true\n",
    ),
    (
        (["10.3.0.0/16", "fd00::/48"], ["10.3.4.0/24", "fd00:0:0:4::/64"], 1450, True),
        "FLANNEL_NETWORK=10.3.0.0/16\nFLANNEL_SUBNET=10.3.4.1/24\n"
        "FLANNEL_IPV6_NETWORK=fd00::/48\nFLANNEL_IPV6_SUBNET=fd00:0:0:4::1/64\n"
        "FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
    ),
]


@pytest.mark.parametrize(("values", "text"), CASES)
def test_subnet_env_both_ways(values: tuple[list[str], list[str], int, bool], text: str) -> None:
    networks, subnets, mtu, ipmasq = values
    env = SubnetEnv.of(tuple(map(ip_network, networks)), tuple(map(ip_network, subnets)), mtu, ipmasq=ipmasq)
    assert format_subnet_env(env) == text
    assert parse_subnet_env(text) == (env, ())
