"""Every rule of the network configuration, with the values that Go flannel computes."""

import json
from ipaddress import ip_network

import pytest

from flanneld_py.errors import ConfigError
from flanneld_py.model.config import BackendConfig, Checked, NetworkConfig, check_config, format_config, parse_config

VXLAN = {"Type": "vxlan"}


def check(**keys: object) -> Checked:
    return check_config(json.dumps({"Backend": VXLAN} | keys), "net.json")


def usable(**keys: object) -> NetworkConfig:
    checked = check(**keys)
    assert checked.config is not None, checked.errors
    return checked.config


def only_error(**keys: object) -> str:
    checked = check(**keys)
    assert checked.config is None
    assert len(checked.errors) == 1, checked.errors
    return str(checked.errors[0])


WORKED = [
    ("10.3.0.0/16", {}, "10.3.1.0", "10.3.255.0", 24),
    ("10.3.0.0/22", {}, "10.3.1.0", "10.3.3.0", 24),
    ("10.3.0.0/23", {}, "10.3.0.128", "10.3.1.128", 25),
    ("10.3.0.0/28", {}, "10.3.0.4", "10.3.0.12", 30),
    ("10.3.0.0/16", {"SubnetLen": 18}, "10.3.64.0", "10.3.192.0", 18),
    ("10.3.0.0/16", {"SubnetLen": 0}, "10.3.1.0", "10.3.255.0", 24),
    ("10.3.0.0/16", {"SubnetLen": None}, "10.3.1.0", "10.3.255.0", 24),
    ("10.3.7.9/16", {}, "10.3.1.0", "10.3.255.0", 24),
    ("255.0.0.0/8", {}, "255.0.1.0", "255.255.255.0", 24),
    ("10.3.0.0/16", {"SubnetMin": "10.3.0.0"}, "10.3.0.0", "10.3.255.0", 24),
    ("10.3.0.0/16", {"SubnetMin": "0.0.0.0"}, "10.3.1.0", "10.3.255.0", 24),
    ("10.3.0.0/16", {"SubnetMin": "10.3.5.0", "SubnetMax": "10.3.8.0", "SubnetLen": 28}, "10.3.5.0", "10.3.8.0", 28),
    ("10.3.0.0/16", {"SubnetMin": "10.3.5.0", "SubnetMax": "10.3.5.0"}, "10.3.5.0", "10.3.5.0", 24),
]
WORKED_6 = [
    ("fc00::/48", {}, "fc00:0:0:1::", "fc00:0:0:ffff::", 64),
    ("fc00::/62", {}, "fc00:0:0:1::", "fc00:0:0:3::", 64),
    ("fc00::/63", {}, "fc00::8000:0:0:0", "fc00:0:0:1:8000::", 65),
    ("fc00::/124", {}, "fc00::4", "fc00::c", 126),
    ("fc00::/48", {"IPv6SubnetMin": None, "IPv6SubnetMax": "::"}, "fc00:0:0:1::", "fc00:0:0:ffff::", 64),
    (
        "fc00::/48",
        {"IPv6SubnetMin": "fc00:0:0:1::", "IPv6SubnetMax": "fc00:0:0:f::", "IPv6SubnetLen": 124},
        "fc00:0:0:1::",
        "fc00:0:0:f::",
        124,
    ),
]


@pytest.mark.parametrize(("network", "more", "low", "high", "length"), WORKED)
def test_ipv4_values(network: str, more: dict[str, object], low: str, high: str, length: int) -> None:
    family = usable(Network=network, **more).families[0]
    assert (str(family.subnet_min), str(family.subnet_max), family.subnet_len) == (low, high, length)
    assert family.network == ip_network(network, strict=False)


@pytest.mark.parametrize(("network", "more", "low", "high", "length"), WORKED_6)
def test_ipv6_values(network: str, more: dict[str, object], low: str, high: str, length: int) -> None:
    config = usable(EnableIPv4=False, EnableIPv6=True, IPv6Network=network, **more)
    family = config.families[0]
    assert (str(family.subnet_min), str(family.subnet_max), family.subnet_len) == (low, high, length)
    assert [one.version for one in config.families] == [6]


def test_dual_stack_has_ipv4_first() -> None:
    config = usable(IPv6Network="fd00::/48", EnableIPv6=True, Network="10.3.0.0/16")
    assert list(map(str, config.networks)) == ["10.3.0.0/16", "fd00::/48"]
    assert config.family(6) is config.families[1]
    assert usable(Network="10.3.0.0/16").family(6) is None


@pytest.mark.parametrize("spelling", ["Network", "network", "NETWORK"])
@pytest.mark.parametrize("backend", ["Backend", "backend"])
def test_keys_match_in_any_case(spelling: str, backend: str) -> None:
    text = json.dumps({spelling: "10.3.0.0/16", backend: {"type": "VXLAN"}})
    config, warnings = parse_config(text, "x")
    assert config.backend.type == "vxlan"
    assert warnings == ()


def test_of_two_spellings_the_last_counts() -> None:
    config = usable(**{"Network": "10.3.0.0/16", "network": "10.4.0.0/16"})
    assert str(config.networks[0]) == "10.4.0.0/16"


def test_subnet_count_counts_both_ends() -> None:
    assert usable(Network="10.3.0.0/16").families[0].subnet_count == 255
    assert usable(Network="10.3.0.0/28").families[0].subnet_count == 3
    assert usable(Network="10.3.0.0/16", SubnetMin="10.3.5.0", SubnetMax="10.3.5.0").families[0].subnet_count == 1


ERRORS = [
    ({}, "Network: is missing, and EnableIPv4 is true"),
    ({"Network": None}, "Network = null: is not an IPv4 network"),
    ({"Network": ""}, 'Network = "": is not an IPv4 network'),
    ({"Network": 10}, "Network = 10: is not an IPv4 network"),
    ({"Network": "010.3.0.0/16"}, "is not an IPv4 network"),
    ({"Network": "10.3.0.0"}, "is not an IPv4 network"),
    ({"Network": "10.3.0.0/255.255.0.0"}, "is not an IPv4 network"),
    ({"Network": "10.3.0.0/33"}, "is not an IPv4 network"),
    ({"Network": "10.3.0.0/-1"}, "is not an IPv4 network"),
    ({"Network": "fd00::/48"}, "is not an IPv4 network"),
    ({"Network": "0.0.0.0/0"}, "is every address there is"),
    ({"Network": "10.3.0.0/29"}, "is too small for four subnets"),
    ({"Network": "10.3.0.0/16", "SubnetLen": 31}, "SubnetLen = 31: is not from 0 to 30"),
    ({"Network": "10.3.0.0/16", "SubnetLen": 17}, "does not hold four subnets of /17; use 18 to 30"),
    ({"Network": "10.3.0.0/16", "SubnetLen": -1}, "SubnetLen = -1: is not from 0 to 30"),
    ({"Network": "10.3.0.0/16", "SubnetLen": "24"}, "is not a whole number; write 24 without quotes"),
    ({"Network": "10.3.0.0/16", "SubnetLen": 24.0}, "is not a whole number"),
    ({"Network": "10.3.0.0/16", "SubnetMin": "10.4.0.0"}, "lies outside Network 10.3.0.0/16"),
    ({"Network": "10.3.0.0/16", "SubnetMax": "10.2.0.0"}, "lies outside Network 10.3.0.0/16"),
    ({"Network": "10.3.0.0/16", "SubnetMin": "10.3.5.7"}, "is not the first address of a /24; the nearest below is"),
    ({"Network": "10.3.0.0/16", "SubnetMax": "10.3.5.7"}, "is not the first address of a /24"),
    ({"Network": "10.3.0.0/16", "SubnetMin": "10.3.9.0", "SubnetMax": "10.3.5.0"}, "10.3.9.0 lies above SubnetMax"),
    ({"Network": "10.3.0.0/16", "SubnetMax": "10.3.0.0"}, "10.3.1.0 lies above SubnetMax 10.3.0.0"),
    ({"Network": "10.3.0.0/16", "SubnetMin": None}, "SubnetMin = null: is not an IPv4 address"),
    ({"Network": "10.3.0.0/16", "SubnetMin": ""}, 'SubnetMin = "": is not an IPv4 address'),
    ({"Network": "10.3.0.0/16", "SubnetMin": "fd00::"}, "is not an IPv4 address"),
    ({"Network": "10.3.0.0/16", "SubnetMin": "10.3.5.0/25"}, "its length is not SubnetLen, which is 24"),
    ({"Network": "10.3.0.0/16", "SubnetMin": "10.3.5.0/x"}, "is not an IPv4 address"),
    ({"Network": "10.3.0.0/16", "EnableIPv4": 1}, "EnableIPv4 = 1: is not a boolean"),
    ({"EnableIPv4": False}, "no address family is enabled"),
    ({"EnableIPv6": True, "Network": "10.3.0.0/16"}, "IPv6Network: is missing, and EnableIPv6 is true"),
    ({"Network": "10.3.0.0/16", "IPv6Network": "fe80::1%eth0/64"}, "is not an IPv6 network"),
    ({"Network": "10.3.0.0/16", "Backend": {}}, "Backend = {}: has no Type"),
    ({"Network": "10.3.0.0/16", "Backend": None}, "Backend = null: has no Type"),
    (
        {"Network": "10.3.0.0/16", "Backend": "vxlan"},
        'Backend = "vxlan": is not a JSON object; write {"Type": "vxlan"}',
    ),
    ({"Network": "10.3.0.0/16", "Backend": {"Type": 5}}, "Backend: Type = 5: is not a text"),
    ({"Network": "10.3.0.0/16", "Backend": {"Type": None}}, "names no backend"),
    ({"Network": "10.3.0.0/16", "Backend": {"Tpye": "vxlan"}}, "did you mean Type?"),
    ({"Netwrok": "10.3.0.0/16"}, "did you mean Network?"),
    ({"Network": "10.3.0.0/16", "EnableIPV6s": True}, "did you mean EnableIPv6?"),
    ({"Network": "10.3.0.0/16", "SubnetLenn": 25}, "did you mean SubnetLen?"),
    ({"Network": "10.3.0.0/16", "SubnetMn": "10.3.5.0"}, "did you mean SubnetMin?"),
]
ERRORS_6 = [
    ({"IPv6Network": "::/0"}, "is every address there is"),
    ({"IPv6Network": "10.3.0.0/16"}, "is not an IPv6 network"),
    ({"IPv6Network": "::1.2.0.0/112"}, "overlaps addresses that Go nodes write as IPv4"),
    ({"IPv6Network": "::ffff:10.0.0.0/104"}, "overlaps addresses that Go nodes write as IPv4"),
    ({"IPv6Network": "fc00::/125"}, "is too small for four subnets"),
    ({"IPv6Network": "fc00::/48", "IPv6SubnetLen": 127}, "is not from 0 to 126"),
    ({"IPv6Network": "fc00::/48", "IPv6SubnetLen": 49}, "does not hold four subnets of /49"),
    ({"IPv6Network": "fc00::/48", "IPv6SubnetMin": "fd00::"}, "lies outside IPv6Network"),
    ({"IPv6Network": "fc00::/48", "IPv6SubnetMin": "fc00:0:0:1::1"}, "is not the first address of a /64"),
    ({"IPv6Network": "fc00::/48", "IPv6SubnetMin": "fc00:0:0:9::", "IPv6SubnetMax": "fc00:0:0:5::"}, "lies above"),
    ({"IPv6Netwok": "fc00::/48"}, "did you mean IPv6Network?"),
]


@pytest.mark.parametrize(("keys", "words"), ERRORS)
def test_error_names_source_key_value_and_reason(keys: dict[str, object], words: str) -> None:
    error = only_error(**keys)
    assert error.startswith("net.json: ")
    assert words in error
    assert "\n" not in error


@pytest.mark.parametrize(("keys", "words"), ERRORS_6)
def test_ipv6_errors(keys: dict[str, object], words: str) -> None:
    error = only_error(EnableIPv4=False, EnableIPv6=True, **keys)
    assert error.startswith("net.json: ")
    assert words in error


def test_all_problems_are_reported_at_once() -> None:
    checked = check(Network="10.3.0.0/16", SubnetMin="10.9.0.0", SubnetMax="10.3.0.1", EnableIPv6=3, Backend=[])
    assert [str(error).split(":")[1].split("=")[0].strip() for error in checked.errors] == [
        "EnableIPv6",
        "SubnetMin",
        "SubnetMax",
        "Backend",
    ]


def test_parse_config_raises_the_first_error() -> None:
    with pytest.raises(ConfigError, match="Network: is missing"):
        parse_config("null", "net.json")


def test_without_a_backend_the_type_is_udp_and_that_is_said() -> None:
    config, warnings = parse_config('{"Network": "10.3.0.0/16"}', "net.json")
    assert config.backend == BackendConfig("udp", {})
    assert len(warnings) == 1
    assert 'the backend is "udp"' in warnings[0]


@pytest.mark.parametrize("key", ["Bacend", "backends", "BackendType", "Type", "type"])
def test_a_near_miss_of_backend_does_not_become_udp(key: str) -> None:
    checked = check_config(json.dumps({"Network": "10.3.0.0/16", key: "vxlan"}), "net.json")
    assert checked.config is None
    assert len(checked.errors) == 1
    assert "Backend" in str(checked.errors[0])


def test_what_go_nodes_refuse_is_a_warning() -> None:
    checked = check(Network="10.3.0.0/16", SubnetMin="10.3.10.0/24", SubnetMax="10.3.20.0/24", EnableIPv4="true")
    assert checked.config is not None
    assert str(checked.config.families[0].subnet_min) == "10.3.10.0"
    assert sum("Go nodes refuse" in warning for warning in checked.warnings) == 3


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"Network": "10.3.7.9/16"}, "has host bits; it is read as 10.3.0.0/16"),
        ({"Network": "127.0.0.0/8"}, "is no network that packets for pods can be routed to"),
        ({"Network": "10.3.0.0/16", "IPv6Network": "fd00::/48"}, "has no effect without EnableIPv6 = true"),
        ({"Network": "10.3.0.0/16", "EnableNFTable": True}, "did you mean EnableNFTables?"),
        ({"Network": "10.3.0.0/16", "Backoff": 3}, 'unknown key "Backoff" has no effect'),
        ({"Network": "10.3.0.0/16", "network": "10.3.0.0/16"}, "one key in several spellings"),
        ({"Network": "10.3.0.0/16", "IPv6Netwok": "fd00::/48"}, "did you mean IPv6Network?"),
    ],
)
def test_warnings_leave_a_usable_configuration(keys: dict[str, object], words: str) -> None:
    checked = check(**keys)
    assert checked.config is not None
    assert len(checked.warnings) == 1
    assert words in checked.warnings[0]


def test_values_of_a_disabled_family_need_not_fit() -> None:
    assert usable(EnableIPv4=False, SubnetLen=64, EnableIPv6=True, IPv6Network="fd00::/48").families[0].version == 6


def test_check_backend_is_asked_with_the_enabled_families() -> None:
    asked: list[tuple[BackendConfig, tuple[int, ...]]] = []

    def judge(backend: BackendConfig, versions: tuple[int, ...]) -> tuple[list[ConfigError], list[str]]:
        asked.append((backend, versions))
        return [ConfigError("net.json: Backend: VNI = 0: no")], ["odd"]

    text = json.dumps({"Network": "10.3.0.0/16", "Backend": {"type": "VXLAN", "VNI": 0}})
    checked = check_config(text, "net.json", judge)
    assert asked == [(BackendConfig("vxlan", {"type": "VXLAN", "VNI": 0}), (4,))]
    assert checked.config is None
    assert [error.message for error in checked.errors] == ["net.json: Backend: VNI = 0: no"]
    assert checked.warnings == ("odd",)


@pytest.mark.parametrize(
    ("subnets", "fits"),
    [
        (("10.3.1.0/24",), True),
        (("10.3.255.0/24",), True),
        (("10.3.0.0/24",), False),
        (("10.3.1.0/25",), False),
        (("10.4.1.0/24",), False),
        (("fd00:0:0:1::/64",), False),
        (("10.3.1.0/24", "fd00:0:0:1::/64"), False),
        ((), False),
    ],
)
def test_fits(subnets: tuple[str, ...], fits: bool) -> None:
    assert usable(Network="10.3.0.0/16").fits(tuple(map(ip_network, subnets))) is fits


def test_fits_asks_for_every_enabled_family() -> None:
    config = usable(Network="10.3.0.0/16", EnableIPv6=True, IPv6Network="fd00::/48")
    four, six = ip_network("10.3.1.0/24"), ip_network("fd00:0:0:1::/64")
    assert config.fits((four, six))
    assert not config.fits((four,))
    assert not config.fits((six,))
    assert not config.fits((four, four))


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (
            {"network": "10.3.7.9/16", "backend": {"type": "VXLAN", "vni": 5, "Directrouting": "true", "mtu": None}},
            '{"Network": "10.3.0.0/16", "SubnetLen": 24, '
            '"Backend": {"Type": "vxlan", "VNI": 5, "DirectRouting": true}}',
        ),
        (
            {"Network": "10.3.0.0/16", "SubnetMin": "10.3.5.0/24", "SubnetMax": "10.3.255.0"},
            '{"Network": "10.3.0.0/16", "SubnetLen": 24, "SubnetMin": "10.3.5.0", "Backend": {"Type": "vxlan"}}',
        ),
        (
            {"EnableIPv4": False, "EnableIPv6": "true", "IPv6Network": "fd00::/48", "EnableNFTables": True},
            '{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00::/48", "IPv6SubnetLen": 64, '
            '"EnableNFTables": true, "Backend": {"Type": "vxlan"}}',
        ),
    ],
)
def test_format_config_is_what_go_nodes_read(keys: dict[str, object], text: str) -> None:
    backend = {} if "backend" in keys else {"Backend": VXLAN}
    config, _ = parse_config(json.dumps(backend | keys), "x")
    assert format_config(config) == text
