"""Annotations: names, what each backend writes, and what is read with distrust."""

from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest

from flanneld_py.errors import UsageError
from flanneld_py.kube.objects import Metadata, Node, NodeSpec
from flanneld_py.model.lease import Lease, LeaseAttrs
from flanneld_py.store.kube_codec import Names, cidrs_of, decode_attrs, decode_lease, encode_annotations, parse_prefix

FOUR, SIX = IPv4Address("192.0.2.1"), IPv6Address("fd00::1")
VTEP = '{"VNI":1,"VtepMAC":"0a:00:00:00:00:01"}'
NAMES = Names("a.b/")


def node(*cidrs: str, **annotations: str) -> Node:
    named = {NAMES.prefix + name.replace("_", "-"): text for name, text in annotations.items()}
    return Node(Metadata(name="n1", annotations=named), NodeSpec(pod_cidrs=list(cidrs)))


@pytest.mark.parametrize(
    ("given", "prefix"),
    [
        ("flannel.alpha.coreos.com", "flannel.alpha.coreos.com/"),
        ("flannel.alpha.coreos.com/", "flannel.alpha.coreos.com/"),
        ("a.b/x", "a.b/x-"),
        ("a.b/x-", "a.b/x-"),
        ("a.b/x_y", "a.b/x_y-"),
        ("a-1.b-2.c", "a-1.b-2.c/"),
    ],
)
def test_prefix(given: str, prefix: str) -> None:
    assert parse_prefix(given).prefix == prefix
    assert parse_prefix(given).data(6) == prefix + "backend-v6-data"


@pytest.mark.parametrize(
    "given", ["", "org", "org/", "org.COM", "a.b/c/d", "a.b/X", "-a.b", "a..b", "a.b/x y", "a.b\n"]
)
def test_prefix_that_is_none(given: str) -> None:
    with pytest.raises(UsageError, match="--kube-annotation-prefix="):
        parse_prefix(given)


def texts(attrs: LeaseAttrs, **overwrites: object) -> dict[str, str | None]:
    given = {int(name[1:]): address for name, address in overwrites.items()}
    found = encode_annotations(NAMES, attrs, given)  # type: ignore[arg-type]
    return {name.removeprefix(NAMES.prefix): text for name, text in found.items()}


GONE: dict[str, str | None] = {"backend-v6-data": None, "public-ipv6": None}


@pytest.mark.parametrize(
    ("attrs", "written"),
    [
        (
            LeaseAttrs(FOUR, None, "vxlan", VTEP),
            {"backend-type": "vxlan", "backend-data": VTEP, "public-ip": "192.0.2.1", **GONE},
        ),
        (
            LeaseAttrs(FOUR, SIX, "vxlan", VTEP, VTEP),
            {"backend-type": "vxlan", "backend-data": VTEP, "public-ip": "192.0.2.1", "backend-v6-data": VTEP,
             "public-ipv6": "fd00::1"},
        ),
        (
            LeaseAttrs(None, SIX, "vxlan", None, VTEP),
            {"backend-type": "vxlan", "backend-data": None, "public-ip": None, "backend-v6-data": VTEP,
             "public-ipv6": "fd00::1"},
        ),
        (
            LeaseAttrs(FOUR, SIX, "host-gw"),
            {"backend-type": "host-gw", "backend-data": "null", "public-ip": "192.0.2.1", "backend-v6-data": "null",
             "public-ipv6": "fd00::1"},
        ),
        (
            LeaseAttrs(None, SIX, "host-gw"),
            {"backend-type": "host-gw", "backend-data": "null", "public-ip": "0.0.0.0", "backend-v6-data": "null",
             "public-ipv6": "fd00::1"},
        ),
        (
            LeaseAttrs(FOUR, SIX, "wireguard", '{"PublicKey":"k"}', '{"PublicKey":"k"}'),
            {"backend-type": "wireguard", "backend-data": '{"PublicKey":"k"}', "public-ip": "192.0.2.1",
             "backend-v6-data": '{"PublicKey":"k"}', "public-ipv6": "fd00::1"},
        ),
        (
            LeaseAttrs(FOUR, None, ""),
            {"backend-type": "", "backend-data": "null", "public-ip": "192.0.2.1", **GONE},
        ),
        (
            LeaseAttrs(FOUR, SIX, ""),
            {"backend-type": "", "backend-data": "null", "public-ip": "192.0.2.1", **GONE},
        ),
        (
            LeaseAttrs(FOUR, None, "x", '{ "a" : "<&>" }'),
            {"backend-type": "x", "backend-data": '{"a":"\\u003c\\u0026\\u003e"}', "public-ip": "192.0.2.1", **GONE},
        ),
    ],
    ids=["vxlan", "vxlan-dual", "vxlan-six", "host-gw-dual", "host-gw-six", "wireguard", "udp", "alloc", "escapes"],
)  # fmt: skip
def test_what_a_backend_writes(attrs: LeaseAttrs, written: dict[str, str | None]) -> None:
    assert texts(attrs) == {"kube-subnet-manager": "true"} | written


def test_an_operators_address_stands_in_the_place_of_ours() -> None:
    found = texts(LeaseAttrs(FOUR, SIX, "vxlan", VTEP, VTEP), _4=IPv4Address("203.0.113.1"))
    assert (found["public-ip"], found["public-ipv6"]) == ("203.0.113.1", "fd00::1")


@pytest.mark.parametrize(
    "attrs",
    [
        LeaseAttrs(FOUR, None, "vxlan", VTEP),
        LeaseAttrs(FOUR, SIX, "vxlan", VTEP, VTEP),
        LeaseAttrs(None, SIX, "vxlan", None, VTEP),
        LeaseAttrs(FOUR, SIX, "host-gw"),
        LeaseAttrs(FOUR, None, ""),
    ],
)
def test_what_is_written_is_read(attrs: LeaseAttrs) -> None:
    written = {name: text for name, text in encode_annotations(NAMES, attrs, {}).items() if text is not None}
    assert decode_attrs(NAMES, written) == attrs


def test_lease() -> None:
    found = node("10.1.0.0/24", kube_subnet_manager="true", backend_type="vxlan", backend_data=VTEP,
                 public_ip="192.0.2.1")  # fmt: skip
    assert decode_lease(NAMES, found, (4,)) == Lease(
        (ip_network("10.1.0.0/24"),), LeaseAttrs(FOUR, None, "vxlan", VTEP)
    )


@pytest.mark.parametrize("managed", ["false", "True", "", "true "])
def test_a_node_that_is_not_managed(managed: str) -> None:
    assert decode_lease(NAMES, node("10.1.0.0/24", kube_subnet_manager=managed, public_ip="192.0.2.1"), (4,)) is None


def test_a_node_of_one_family_in_a_network_of_two() -> None:
    """Go flannel skips it whole: a cluster on its way to dual stack would lose its IPv4 network."""
    found = node("10.1.0.0/24", "fd00:1::/64", kube_subnet_manager="true", backend_type="x", public_ip="192.0.2.1")
    lease = decode_lease(NAMES, found, (4, 6))
    assert lease is not None and lease.subnets == (ip_network("10.1.0.0/24"),)
    assert decode_lease(NAMES, found, (6,)) is None


def test_what_is_of_a_family_that_is_not_used_harms_nothing() -> None:
    found = node("10.1.0.0/24", kube_subnet_manager="true", backend_type="x", public_ip="192.0.2.1",
                 public_ipv6="nonsense", backend_v6_data="{")  # fmt: skip
    assert decode_lease(NAMES, found, (4,)) is not None


@pytest.mark.parametrize(
    ("annotations", "reason"),
    [
        ({"public_ip": "300.0.0.1"}, "its annotation a.b/public-ip '300.0.0.1': Octet 300"),
        ({"public_ip": "fd00::1"}, "its annotation a.b/public-ip 'fd00::1'"),
        ({"public_ip": "224.0.0.1"}, "is not the address of one node"),
        ({"public_ip": "192.0.2.1\n"}, "its annotation a.b/public-ip"),
        ({"backend_data": "{"}, "its annotation a.b/backend-data: "),
        ({"backend_data": "[" * 60000}, "its annotation a.b/backend-data: it is nested too deeply"),
        ({"backend_data": '"' + "x" * 70000 + '"'}, "its annotation a.b/backend-data: it is 70002 characters long"),
        ({"backend_data": "NaN"}, "its annotation a.b/backend-data: NaN is not JSON"),
        ({"backend_type": "a\nb"}, "a.b/backend-type is too long or has unprintable characters"),
    ],
)
def test_hostile_annotations(annotations: dict[str, str], reason: str) -> None:
    hostile = node("10.1.0.0/24", **({"kube_subnet_manager": "true", "public_ip": "192.0.2.1"} | annotations))
    with pytest.raises(ValueError) as caught:
        decode_lease(NAMES, hostile, (4,))
    assert reason in str(caught.value) and len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("cidrs", "subnets"),
    [
        ([], ()),
        (["10.1.0.0/24"], ("10.1.0.0/24",)),
        (["fd00::/64", "10.1.0.0/24"], ("10.1.0.0/24", "fd00::/64")),
        (["10.1.0.0/24", "10.2.0.0/24"], ("10.1.0.0/24",)),
        (["10.1.0.7/24"], ("10.1.0.0/24",)),
    ],
)
def test_cidrs(cidrs: list[str], subnets: tuple[str, ...]) -> None:
    assert cidrs_of(node(*cidrs)) == tuple(map(ip_network, subnets))


@pytest.mark.parametrize("cidrs", [["x"], ["10.1.0.0/32"], ["fd00::/128"], ["10.1.0.0/24", "fd00::/64", "10.2.0.0/24"]])
def test_cidrs_that_are_none(cidrs: list[str]) -> None:
    with pytest.raises(ValueError):
        cidrs_of(node(*cidrs))
