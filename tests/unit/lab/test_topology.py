import json
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanneld_py.errors import LabError, UsageError
from flanneld_py.lab.speccodec import parse_mapping, parse_network, parse_option, spec_from_json, spec_to_json
from flanneld_py.lab.topology import (
    Firewall,
    Internet,
    LabSpec,
    Link,
    Node,
    PortMapping,
    Stack,
    Topology,
    Underlay,
    Wiring,
)
from flanneld_py.model.config import parse_config

specs = st.builds(
    LabSpec,
    name=st.from_regex(r"[a-z][a-z0-9-]{0,19}", fullmatch=True),
    nodes=st.integers(1, 200),
    pods=st.integers(1, 50),
    stack=st.sampled_from(Stack),
    underlay=st.sampled_from(Underlay),
    wiring=st.sampled_from((Wiring.CNI, Wiring.PLAIN, Wiring.DOCKER)),
    firewall=st.sampled_from(Firewall),
    backend_options=st.lists(st.tuples(st.text(min_size=1), st.one_of(st.text(), st.integers(), st.booleans()))).map(
        tuple
    ),
    daemon_flags=st.lists(st.text()).map(tuple),
)


@given(specs)
def test_names_addresses_and_macs_are_distinct(spec: LabSpec) -> None:
    topology = Topology(spec)
    assert len(set(topology.namespaces)) == len(topology.namespaces) == 2 + spec.nodes * (1 + spec.pods)
    places: list[Node | Internet] = [*topology.nodes, topology.internet]
    routers: list[Link | Internet] = [*topology.links, topology.internet]
    addresses = [a.ip for place in places for a in place.addresses] + [g.ip for k in routers for g in k.gateways]
    assert len(set(addresses)) == len(addresses)
    assert len({node.mac for node in topology.nodes}) == spec.nodes
    devices = [node.port for node in topology.nodes] + [link.name for link in topology.links] + [topology.internet.port]
    assert len(set(devices)) == len(devices)
    assert all(len(name) < 16 for name in devices + [pod.veth for pod in topology.pods])


@given(specs)
def test_node_is_on_its_links_network(spec: LabSpec) -> None:
    for node in Topology(spec).nodes:
        for address, gateway in zip(node.addresses, node.link.gateways, strict=True):
            assert address.network == gateway.network
            assert address.ip != gateway.ip


@given(specs)
def test_record_of_a_spec_reads_back(spec: LabSpec) -> None:
    assert spec_from_json(json.loads(json.dumps(spec_to_json(spec)))) == spec


def test_record_with_networks_reads_back() -> None:
    spec = LabSpec(
        stack=Stack.DUAL,
        networks=(ip_network("10.1.0.0/16"), ip_network("fd11::/56")),
        firewall=Firewall.NFT,
        published=(PortMapping("pod1-1", 8080, 80), PortMapping("pod2-1", 8080, 443)),
        go_nodes=(2,),
        go_binary="/usr/bin/flanneld",
    )
    assert spec_from_json(json.loads(json.dumps(spec_to_json(spec)))) == spec


def test_internet_is_outside_of_everything() -> None:
    topology = Topology(LabSpec(stack=Stack.DUAL))
    inner = (*topology.networks, *topology.underlays)
    assert [str(a) for a in topology.internet.addresses] == ["203.0.113.10/24", "2001:db8:203:113::a/64"]
    for address, gateway in zip(topology.internet.addresses, topology.internet.gateways, strict=True):
        assert gateway.network == address.network and gateway.ip != address.ip
        assert not any(net.version == address.version and address.network.overlaps(net) for net in inner)
    assert topology.namespace("internet") == "lab-internet"


def test_routed_underlay_puts_two_nodes_on_a_link() -> None:
    nodes = Topology(LabSpec(nodes=5, underlay=Underlay.ROUTED)).nodes
    assert [node.link.number for node in nodes] == [1, 1, 2, 2, 3]
    assert [str(node.addresses[0]) for node in nodes[:3]] == ["172.18.1.11/24", "172.18.1.12/24", "172.18.2.13/24"]


def test_l2_underlay_has_one_link() -> None:
    topology = Topology(LabSpec(nodes=5))
    assert len(topology.links) == 1
    assert topology.etcd_url == "http://172.18.1.1:2379"


def test_etcd_url_of_ipv6_has_brackets() -> None:
    assert Topology(LabSpec(stack=Stack.IPV6)).etcd_url == "http://[fd00:172:18:1::1]:2379"


def test_pod_address_follows_the_nodes_subnet() -> None:
    pod = Topology(LabSpec()).nodes[0].pods[1]
    assert pod.address_in(ip_interface("10.244.7.1/24")) == ip_interface("10.244.7.3/24")
    assert pod.address_in(ip_interface("fd00:1::1/64")) == ip_interface("fd00:1::3/64")


@pytest.mark.parametrize("stack", list(Stack))
def test_net_config_is_what_the_daemon_takes(stack: Stack) -> None:
    spec = LabSpec(stack=stack, backend="vxlan", backend_options=(("DirectRouting", True), ("VNI", 7)))
    config = json.loads(Topology(spec).net_config())
    assert config["Backend"] == {"Type": "vxlan", "DirectRouting": True, "VNI": 7}
    parsed, warnings = parse_config(Topology(spec).net_config(), "lab")
    assert warnings == ()
    assert tuple(net.version for net in parsed.networks) == stack.versions
    assert parsed.networks == Topology(spec).networks


def test_net_config_turns_to_nftables_with_go_nodes() -> None:
    config = json.loads(Topology(LabSpec(go_nodes=(1,), go_binary="/bin/flanneld")).net_config())
    assert config["EnableNFTables"] is True


@pytest.mark.parametrize("firewall", list(Firewall))
def test_net_config_names_the_packet_filter(firewall: Firewall) -> None:
    config = json.loads(Topology(LabSpec(firewall=firewall)).net_config())
    assert config.get("EnableNFTables", False) is (firewall is Firewall.NFT)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "Lab"}, "--name 'Lab'"),
        ({"name": "a/b"}, "--name 'a/b'"),
        ({"nodes": 0}, "--nodes 0"),
        ({"nodes": 201}, "--nodes 201"),
        ({"pods": 0}, "--pods 0"),
        ({"networks": (ip_network("fd00::/48"),)}, "no IPv6"),
        ({"networks": (ip_network("172.16.0.0/12"),)}, "underlay"),
        ({"networks": (ip_network("10.0.0.0/16"), ip_network("10.1.0.0/16"))}, "one network of each family"),
        ({"go_nodes": (4,), "go_binary": "/x"}, "--go-node 4"),
        ({"go_nodes": (1,)}, "no Go flanneld"),
        ({"go_nodes": (1,), "go_binary": "/x", "firewall": Firewall.IPTABLES}, "choose --firewall nft"),
        ({"networks": (ip_network("203.0.113.0/25"),)}, "internet"),
        ({"published": (PortMapping("pod4-1", 80, 80),)}, "pod4-1:80:80: there is no such pod"),
        ({"published": (PortMapping("pod1-1", 0, 80),)}, "between 1 and 65535"),
        ({"published": (PortMapping("pod1-1", 80, 65536),)}, "between 1 and 65535"),
        ({"published": (PortMapping("pod1-1", 80, 1), PortMapping("pod1-2", 80, 2))}, "given to another pod"),
        ({"published": (PortMapping("pod1-1", 80, 80),), "wiring": Wiring.PLAIN}, "only the CNI plugins map ports"),
    ],
)
def test_spec_refuses(fields: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        LabSpec(**fields)  # type: ignore[arg-type]


def test_find_takes_names_and_namespaces() -> None:
    topology = Topology(LabSpec(nodes=2))
    assert topology.find("node2") is topology.find("lab-node2") is topology.nodes[1]
    assert topology.find("pod2-1") is topology.nodes[1].pods[0]
    assert topology.node("2") is topology.nodes[1]
    assert topology.namespace("router") == "lab-router"
    assert topology.owner_of(ip_address("172.18.1.12")) is topology.nodes[1]
    assert topology.owner_of(ip_address("172.18.1.99")) is None
    with pytest.raises(LabError, match="no 'node9'") as caught:
        topology.find("node9")
    assert "node1 to node2" in str(caught.value)
    with pytest.raises(LabError, match="is a pod"):
        topology.node("pod1-1")


@pytest.mark.parametrize(
    ("text", "option"),
    [("VNI=7", ("VNI", 7)), ("Learning=true", ("Learning", True)), ("A=b=c", ("A", "b=c")), ("A=", ("A", ""))],
)
def test_parse_option(text: str, option: tuple[str, object]) -> None:
    assert parse_option(text) == option
    assert type(parse_option(text)[1]) is type(option[1])


@pytest.mark.parametrize("text", ["VNI", "=7", ""])
def test_parse_option_refuses(text: str) -> None:
    with pytest.raises(UsageError, match="KEY=VALUE"):
        parse_option(text)


@pytest.mark.parametrize(
    ("text", "mapping"),
    [("pod1-1:8080:80", PortMapping("pod1-1", 8080, 80)), ("pod2-1:53", PortMapping("pod2-1", 53, 53))],
)
def test_parse_mapping(text: str, mapping: PortMapping) -> None:
    assert parse_mapping(text) == mapping


@pytest.mark.parametrize("text", ["", "8080:80", "pod1-1", "pod1-1:a:b", "pod1-1:1:2:3", "pod1-1:-1:80", "pod1-1:٣:80"])
def test_parse_mapping_refuses(text: str) -> None:
    with pytest.raises(UsageError):
        LabSpec(published=(parse_mapping(text),))


def test_parse_network_refuses_host_bits() -> None:
    with pytest.raises(UsageError, match="host bits"):
        parse_network("10.0.0.1/16")
