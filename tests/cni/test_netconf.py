"""The configuration that the delegate gets, and what an attachment's result says; pure."""

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugin import netconf, request, result, subnetenv
from cni_plugin.netconf import NetConf
from flanneld_py.model import subnetenv as daemon
from tests.cni.node import DUAL_STACK_ENV, SUBNET_ENV

V4_IPAM: dict[str, Any] = {
    "type": "host-local",
    "ranges": [[{"subnet": "10.77.9.0/24"}]],
    "routes": [{"dst": "10.77.0.0/16"}],
}


def assembled(env: str = SUBNET_ENV, **config: Any) -> dict[str, Any]:
    environment = request.Environment({b"CNI_COMMAND": b"ADD"})
    name, version = "cbr0", config.get("cniVersion") or "0.1.0"
    conf = NetConf(request.Request(environment, config, name, version))
    return netconf.delegate_config(conf, subnetenv.parse_subnet_env(env)[0])


def test_reference_configuration_of_a_dual_stack_node() -> None:
    delegate = {"hairpinMode": True, "isDefaultGateway": True}
    assert assembled(DUAL_STACK_ENV, cniVersion="1.0.0", delegate=delegate) == {
        "cniVersion": "1.0.0",
        "name": "cbr0",
        "type": "bridge",
        "hairpinMode": True,
        "isDefaultGateway": True,
        "isGateway": True,
        "ipMasq": False,
        "mtu": 1400,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": "10.77.9.0/24"}], [{"subnet": "fd77:0:0:9::/64"}]],
            "routes": [{"dst": "10.77.0.0/16"}, {"dst": "fd77::/48"}],
        },
    }


def test_defaults() -> None:
    plain = {"name": "cbr0", "type": "bridge", "ipMasq": False, "mtu": 1400, "isGateway": True, "ipam": V4_IPAM}
    assert assembled() == plain
    assert assembled(delegate=None, ipam=None, runtimeConfig=None) == plain


def test_the_daemon_masquerades_or_the_bridge_does() -> None:
    assert assembled(SUBNET_ENV.replace("IPMASQ=true", "IPMASQ=false"))["ipMasq"] is True


@pytest.mark.parametrize("value", [False, 0, None, ""])
def test_what_is_given_wins_also_if_it_is_nothing(value: Any) -> None:
    given_values = {"ipMasq": value, "mtu": value, "isGateway": value}
    found = assembled(delegate=given_values)
    assert {key: found[key] for key in given_values} == given_values


def test_other_delegates_are_no_gateways() -> None:
    assert "isGateway" not in assembled(delegate={"type": "ptp"})


def test_version_and_runtime_config_of_the_network_replace_the_delegate_s() -> None:
    found = assembled(
        cniVersion="1.0.0", runtimeConfig={"a": 1}, delegate={"cniVersion": "0.3.1", "runtimeConfig": {"b": 2}}
    )
    assert (found["cniVersion"], found["runtimeConfig"]) == ("1.0.0", {"a": 1})
    assert assembled(delegate={"cniVersion": "0.3.1"})["cniVersion"] == "0.3.1"


def test_top_level_keys_do_not_reach_the_delegate() -> None:
    extra: dict[str, Any] = {"args": {}, "dns": {}, "mtu": 9000, "bridge": "br7", "capabilities": {}, "prevResult": {}}
    assert assembled(**extra) == assembled()


def test_ipam_keeps_what_is_not_ours() -> None:
    given_ipam = {"type": "x", "dataDir": "/d", "subnet": "1.2.3.0/24", "ranges": "replaced", "odd": [1]}
    assert assembled(ipam=given_ipam)["ipam"] == V4_IPAM | {
        "type": "x",
        "dataDir": "/d",
        "subnet": "1.2.3.0/24",
        "odd": [1],
    }


def test_routes_come_first_and_clean() -> None:
    full = {"dst": "10.1.2.3/8", "gw": "10.0.0.1", "mtu": 1300, "advmss": 0, "priority": 5, "table": 100, "scope": 253}
    given_routes = [full | {"junk": 1}, {"dst": "fd00::/8", "gw": None}]
    found = assembled(ipam={"routes": given_routes})["ipam"]["routes"]
    assert found == [full, {"dst": "fd00::/8"}, {"dst": "10.77.0.0/16"}]


def test_release_needs_nothing_of_the_daemon() -> None:
    environment = request.Environment({b"CNI_COMMAND": b"DEL"})
    conf = NetConf(request.Request(environment, {"cniVersion": "1.0.0"}, "cbr0", "1.0.0"))
    found = netconf.release_config(conf, None)
    ipam: Any = found["ipam"]
    assert found["type"] == "bridge" and found["name"] == "cbr0" and ipam["ranges"] == [[{"subnet": "192.0.2.0/24"}]]


def test_version_is_the_first_absent_one() -> None:
    environment = request.Environment({b"CNI_COMMAND": b"ADD"})
    for text in (b'{"name": "a"}', b'{"name": "a", "cniVersion": ""}'):
        assert request.parse_request(environment, text).version == "0.1.0"


ROUTES = [{"dst": "10.77.0.0/16"}, {"dst": "fd77::/48"}, {"dst": "0.0.0.0/0", "gw": "10.77.9.9"}]
ADDRESSES = [{"address": "10.77.9.2/24", "gateway": "10.77.9.1"}, {"address": "fd77:0:0:9::2/64"}]


def test_routes_without_a_gateway_get_that_of_their_family() -> None:
    found = result.with_gateways({"ips": ADDRESSES, "routes": ROUTES})
    assert found["routes"] == [{"dst": "10.77.0.0/16", "gw": "10.77.9.1"}, {"dst": "0.0.0.0/0", "gw": "10.77.9.9"}]
    assert result.with_gateways({"ips": ADDRESSES}) == {"ips": ADDRESSES}


def test_addresses_are_those_of_the_containers_interface() -> None:
    interfaces = [{"name": "cni0"}, {"name": "eth0", "sandbox": "/x"}, {"name": "eth0"}]
    ips = [{"address": f"10.0.0.{number}/24", "interface": number} for number in range(4)] + [
        {"address": "10.0.1.1/24"},
        7,
    ]
    assert result.addresses_of({"interfaces": interfaces, "ips": ips}, "eth0") == ["10.0.0.1/24", "10.0.1.1/24"]


def as_networks(env: subnetenv.SubnetEnv) -> tuple[Any, ...]:
    nets = [ipaddress.ip_network(net.text) for net in env.networks]
    return tuple(nets), tuple(ipaddress.ip_network(net.text) for net in env.subnets), env.mtu, env.ipmasq


def both(text: str) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    ours, _ = subnetenv.parse_subnet_env(text)
    theirs, _ = daemon.parse_subnet_env(text)
    networks = tuple(dict.fromkeys(theirs.networks))
    return as_networks(ours), (networks, daemon.previous_subnets(theirs), theirs.mtu, theirs.ipmasq)


@pytest.mark.parametrize(
    "text",
    [
        SUBNET_ENV,
        DUAL_STACK_ENV,
        SUBNET_ENV.replace("\n", "\r\n"),
        "\ufeff" + SUBNET_ENV,
        "".join(f"export {line}\n" for line in SUBNET_ENV.splitlines()),
        "FLANNEL_NETWORK=\"10.0.0.0/8\"  # quoted\nFLANNEL_SUBNET='10.1.2.3/24' \nFLANNEL_MTU= 1400 #x",
        "FLANNEL_NETWORK=10.0.0.0/8,10.0.0.5/8, 11.0.0.0/8\nFLANNEL_SUBNET=10.1.2.3/24\nFLANNEL_SUBNET=10.1.3.3/24",
        "FLANNEL_SUBNET=10.1.2.3/255.255.255.0\nFLANNEL_IPV6_SUBNET=fe80::1%eth0/64\nFLANNEL_MTU=1_400",
        "FLANNEL_SUBNET=010.1.2.3/24\nFLANNEL_NETWORK=::ffff:1.2.3.4/96\nFLANNEL_IPV6_NETWORK=::ffff:1.2.3.4/96",
    ],
)
def test_subnet_env_is_read_as_the_daemon_reads_it(text: str) -> None:
    ours, theirs = both(text)
    assert ours == theirs


PIECES = [
    *(
        "FLANNEL_NETWORK",
        "FLANNEL_SUBNET",
        "FLANNEL_IPV6_NETWORK",
        "FLANNEL_IPV6_SUBNET",
        "FLANNEL_MTU",
        "FLANNEL_IPMASQ",
    ),
    *(
        "=",
        "=",
        "\n",
        "\n",
        ",",
        "/",
        ".",
        ":",
        '"',
        "'",
        "\\",
        "#",
        " ",
        "\t",
        "\r",
        "export ",
        "\ufeff",
        "\x00",
        "\u00a0",
    ),
    *(
        "10.77.0.0/16",
        "10.77.9.1/24",
        "fd77::1/64",
        "::",
        "1400",
        "0",
        "70000",
        "true",
        "false",
        "True",
        "٣",
        "-1",
        "%",
    ),
]


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join) | st.text())
def test_any_subnet_env_is_read_as_the_daemon_reads_it(text: str) -> None:
    ours, theirs = both(text)
    assert ours == theirs


@given(st.ip_addresses(), st.integers(0, 140))
def test_networks_are_those_of_the_standard_module(address: Any, length: int) -> None:
    text = f"{address}/{length}"
    if length > address.max_prefixlen:
        with pytest.raises(ValueError, match="/"):
            subnetenv.parse_net(text, address.version)
        return
    net = subnetenv.parse_net(text, address.version)
    wanted = ipaddress.ip_network(text, strict=False)
    assert ipaddress.ip_network(net.text) == wanted
    assert text in net and f"{wanted.network_address}/{length}" in net
    outside = int(wanted.broadcast_address) + 1
    if length and outside < 1 << address.max_prefixlen:
        assert f"{type(address)(outside)}/{length}" not in net
