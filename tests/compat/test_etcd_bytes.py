"""Keys and values in etcd, byte for byte those of Go flannel (pkg/subnet/etcd, pkg/lease)."""

from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest

from flanneld_py.model.lease import LeaseAttrs
from flanneld_py.store.etcd_keys import Keys
from flanneld_py.store.lease_codec import decode_attrs, encode_attrs

FOUR, SIX = IPv4Address("192.0.2.7"), IPv6Address("2001:db8::7")

VALUES = [
    (LeaseAttrs(FOUR), b'{"PublicIP":"192.0.2.7","PublicIPv6":null}'),
    (LeaseAttrs(FOUR, backend_type="host-gw"), b'{"PublicIP":"192.0.2.7","PublicIPv6":null,"BackendType":"host-gw"}'),
    (
        LeaseAttrs(FOUR, None, "vxlan", '{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"}'),
        b'{"PublicIP":"192.0.2.7","PublicIPv6":null,"BackendType":"vxlan",'
        b'"BackendData":{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"}}',
    ),
    (
        LeaseAttrs(FOUR, SIX, "vxlan", '{"VNI":1}', '{"VNI":2}'),
        b'{"PublicIP":"192.0.2.7","PublicIPv6":"2001:db8::7","BackendType":"vxlan",'
        b'"BackendData":{"VNI":1},"BackendV6Data":{"VNI":2}}',
    ),
    (
        LeaseAttrs(None, SIX, "vxlan", None, '{"VNI":1}'),
        b'{"PublicIP":"0.0.0.0","PublicIPv6":"2001:db8::7","BackendType":"vxlan","BackendV6Data":{"VNI":1}}',
    ),
    (
        LeaseAttrs(FOUR, None, "extension", '"a <b> & c"'),
        b'{"PublicIP":"192.0.2.7","PublicIPv6":null,"BackendType":"extension",'
        b'"BackendData":"a \\u003cb\\u003e \\u0026 c"}',
    ),
]


@pytest.mark.parametrize(("attrs", "value"), VALUES)
def test_value(attrs: LeaseAttrs, value: bytes) -> None:
    assert encode_attrs(attrs) == value
    assert decode_attrs(value) == attrs


def test_value_escapes_what_go_escapes() -> None:
    attrs = LeaseAttrs(FOUR, None, "extension", ' "caf\u00e9\u2028\u2029\\n" ')
    assert encode_attrs(attrs).endswith('"BackendData":"caf\u00e9\\u2028\\u2029\\n"}'.encode())


def test_value_keeps_the_text_of_data_but_for_white_space() -> None:
    attrs = LeaseAttrs(FOUR, None, "x", '{ "b" : 1.50 ,\n "a": "two  \\" spaces" }')
    assert encode_attrs(attrs).endswith(b'"BackendData":{"b":1.50,"a":"two  \\" spaces"}}')


@pytest.mark.parametrize(
    "value",
    [
        b'{"publicip":"192.0.2.7","PUBLICIPV6":null,"backendTYPE":"vxlan","BackendDATA":{"VNI":1}}',
        b' {"PublicIP" : "192.0.2.7",\n"BackendType":"vxlan", "BackendData": { "VNI" : 1 } , "more":[1]} ',
        b'{"PublicIP":"192.0.2.1","publicip":"192.0.2.7","BackendType":"vxlan","BackendData":{"VNI":1}}',
    ],
)
def test_value_is_read_as_go_reads_it(value: bytes) -> None:
    assert decode_attrs(value) == LeaseAttrs(FOUR, None, "vxlan", '{"VNI":1}')


@pytest.mark.parametrize(
    ("prefix", "config", "subnet"),
    [
        ("/coreos.com/network", b"/coreos.com/network/config", b"/coreos.com/network/subnets/10.5.34.0-24"),
        ("/coreos.com//network/", b"/coreos.com/network/config", b"/coreos.com/network/subnets/10.5.34.0-24"),
        ("net", b"net/config", b"net/subnets/10.5.34.0-24"),
        ("", b"config", b"subnets/10.5.34.0-24"),
        ("/", b"/config", b"/subnets/10.5.34.0-24"),
        ("//a/./b/../c", b"/a/c/config", b"/a/c/subnets/10.5.34.0-24"),
        ("/../a", b"/a/config", b"/a/subnets/10.5.34.0-24"),
        ("../a", b"../a/config", b"../a/subnets/10.5.34.0-24"),
    ],
)
def test_keys(prefix: str, config: bytes, subnet: bytes) -> None:
    keys = Keys(prefix)
    assert keys.config == config
    assert keys.subnet((ip_network("10.5.34.0/24"),)) == subnet


@pytest.mark.parametrize(
    ("subnets", "name"),
    [
        (("10.5.34.0/24", "fc00:0:0:5::/64"), b"10.5.34.0-24&fc00:0:0:5::-64"),
        (("fc00::/64",), b"0.0.0.0-0&fc00::-64"),
    ],
)
def test_keys_with_ipv6(subnets: tuple[str, ...], name: bytes) -> None:
    keys, nets = Keys("/n"), tuple(map(ip_network, subnets))
    assert keys.subnet(nets) == b"/n/subnets/" + name
    assert keys.node(nets) == b"/n/nodes/" + name
    assert keys.parse_subnet(b"/n/subnets/" + name) == nets
