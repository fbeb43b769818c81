"""Any text is judged, none brings the reader down; a usable configuration survives being written and read."""

import json

from hypothesis import given
from hypothesis import strategies as st

from flanneld_py.model.config import check_config, format_config, parse_config
from flanneld_py.model.subnetenv import format_subnet_env, parse_subnet_env

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(
    (
        *("Network", "network", "IPv6Network", "EnableIPv4", "EnableIPv6", "EnableNFTables", "SubnetLen"),
        *("IPv6SubnetLen", "SubnetMin", "SubnetMax", "IPv6SubnetMin", "IPv6SubnetMax", "Backend", "Bacend", "Type"),
        "Other",
    )
)
addresses = st.sampled_from(
    ["10.3.0.0/16", "10.3.0.0/28", "10.3.5.0", "10.3.5.0/24", "fd00::/48", "fd00:0:0:5::", "0.0.0.0", "::", "10.3.0.4"]
)
backends = st.fixed_dictionaries(
    {"Type": st.sampled_from(["vxlan", "HOST-GW", ""]) | json_values},
    optional={"vni": json_values, "DIRECTROUTING": st.sampled_from(["true", True, None]), "x": json_values},
)
configs = st.dictionaries(keys, addresses | st.booleans() | st.integers(0, 128) | json_values | backends, max_size=8)


def judge(text: str) -> None:
    checked = check_config(text, "source")
    assert (checked.config is None) == bool(checked.errors)
    for line in [*map(str, checked.errors), *checked.warnings]:
        assert line.startswith("source: ")
        assert line.isprintable()
    if checked.config is None:
        return
    written = format_config(checked.config)
    again, warnings = parse_config(written, "source")
    assert again.families == checked.config.families
    assert again.backend.type == checked.config.backend.type
    assert again.enable_nftables == checked.config.enable_nftables
    assert format_config(again) == written
    assert not any("Go nodes" in warning for warning in warnings)
    for family in again.families:
        assert int(family.network[0]) <= int(family.subnet_min) <= int(family.subnet_max)
        assert family.subnet_count >= 1


@given(st.text())
def test_any_text_is_judged(text: str) -> None:
    judge(text)


@given(json_values)
def test_any_json_is_judged(value: object) -> None:
    judge(json.dumps(value))


@given(configs)
def test_any_object_with_our_keys_is_judged(value: dict[str, object]) -> None:
    judge(json.dumps(value))


@given(
    length=st.integers(8, 28),
    address=st.integers(1 << 24, (1 << 32) - 1),
    more=st.integers(2, 22),
    ends=st.tuples(st.integers(0, 1 << 20), st.integers(0, 1 << 20)),
)
def test_a_range_on_boundaries_is_usable_as_it_is(length: int, address: int, more: int, ends: tuple[int, int]) -> None:
    subnet_len = min(length + more, 30)
    base = address >> (32 - length) << (32 - length)
    low, high = sorted(base + (end % (1 << (subnet_len - length)) << (32 - subnet_len)) for end in ends)

    def dotted(value: int) -> str:
        return ".".join(str(value >> shift & 255) for shift in (24, 16, 8, 0))

    raw = {"Network": f"{dotted(address)}/{length}", "SubnetLen": subnet_len, "Backend": {"Type": "vxlan"}}
    config, _ = parse_config(json.dumps(raw | {"SubnetMin": dotted(low), "SubnetMax": dotted(high)}), "x")
    family = config.families[0]
    assert (int(family.network.network_address), family.network.prefixlen) == (base, length)
    assert (int(family.subnet_min), int(family.subnet_max)) == (low, high)
    assert parse_config(format_config(config), "x")[0].families == config.families


@given(st.text() | st.from_regex(r"(export )?FLANNEL_(SUBNET|MTU|IPMASQ|NETWORK) ?= ?['\"]?[^\n]*\n"))
def test_any_subnet_env_is_read(text: str) -> None:
    env, problems = parse_subnet_env(text)
    assert parse_subnet_env(format_subnet_env(env)) == (env, ())
    assert all(problem.isprintable() for problem in problems)
