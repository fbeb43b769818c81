"""Lease values and records: round trips, and any bytes at all."""

import json
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanneld_py.model.lease import LeaseAttrs, NodeIdentity
from flanneld_py.store.etcd_keys import Keys, shown
from flanneld_py.store.lease_codec import MAX_VALUE_BYTES, decode_attrs, decode_identity, encode_attrs, encode_identity

names = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=20)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]))
json_values = st.recursive(
    st.booleans() | numbers | texts, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=10
)
data = st.none() | json_values.map(lambda v: json.dumps(v, separators=(",", ":"), ensure_ascii=False))
hosts4 = st.ip_addresses(v=4).filter(lambda a: not a.is_multicast and int(a) not in (0, 0xFFFFFFFF))
hosts6 = st.ip_addresses(v=6).filter(lambda a: not a.is_multicast and int(a) != 0)
attrs = st.builds(LeaseAttrs, hosts4, st.none() | hosts6, names, data, data) | st.builds(
    LeaseAttrs, st.none(), hosts6, names, data, data
)


@given(attrs)
def test_value_comes_back(value: LeaseAttrs) -> None:
    assert decode_attrs(encode_attrs(value)) == value


@given(attrs)
def test_value_is_what_a_json_reader_sees(value: LeaseAttrs) -> None:
    seen = json.loads(encode_attrs(value))
    assert seen["PublicIP"] == str(value.public_ip or IPv4Address(0))
    for name, text in (("BackendData", value.backend_data), ("BackendV6Data", value.backend_v6_data)):
        assert (name in seen) == (text is not None)
        assert text is None or seen[name] == json.loads(text)


@given(st.builds(NodeIdentity, names, names.filter(bool), names))
def test_record_comes_back(value: NodeIdentity) -> None:
    assert decode_identity(encode_identity(value)) == value


hostile = st.one_of(
    st.binary(),
    json_values.map(lambda v: json.dumps(v).encode()),
    st.dictionaries(
        st.sampled_from(["PublicIP", "publicIP", "PublicIPv6", "BackendType", "BackendData", "Machine", "HostName"]),
        json_values | st.sampled_from(["192.0.2.1", "fe80::1%eth0", "::", "255.255.255.255", "a\nb", "\ud800"]),
    ).map(lambda v: json.dumps(v).encode()),
)


@given(hostile)
def test_any_bytes_give_a_value_or_a_value_error(raw: bytes) -> None:
    try:
        value = decode_attrs(raw)
    except ValueError as error:
        assert str(error)
    else:
        assert decode_attrs(encode_attrs(value)) == value
    try:
        decode_identity(raw)
    except ValueError as error:
        assert str(error)


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * 50_000,
        b'{"PublicIP":"192.0.2.1","BackendData":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        b'{"PublicIP":"192.0.2.1","BackendData":1e999}',
        b'{"PublicIP":"192.0.2.1","BackendData":NaN}',
        b'{"PublicIP":"192.0.2.1","BackendData":' + b"9" * 5_000 + b"}",
        b'{"PublicIP":"192.0.2.1","BackendData":"\\ud800"}',
        b'{"PublicIP":"192.0.2.1","BackendType":"a\\nb"}',
        b'{"PublicIP":null}',
        b'{"PublicIP":"0.0.0.0"}',
        b'{"PublicIP":"192.0.2.1","PublicIPv6":"fe80::1%eth0"}',
        b'{"PublicIP":"192.0.2.1"}' + b" " * MAX_VALUE_BYTES,
    ],
)
def test_hostile_value_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_attrs(raw)


@given(st.binary())
def test_any_key_names_subnets_in_their_exact_form_or_none(name: bytes) -> None:
    keys = Keys("/n")
    key = keys.subnets + name
    keys.touched_by(key)
    assert shown(key).isprintable()
    try:
        subnets = keys.parse_subnet(key)
    except ValueError:
        return
    assert keys.subnet(subnets) == key
