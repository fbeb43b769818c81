"""Rules as nf_tables expressions: whatever is written is read back, and whatever comes from the kernel is survived."""

from ipaddress import IPv4Address, ip_network
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanneld_py.model.net import Net
from flanneld_py.model.ruleset import Destination, Mark, Masquerade, Match, Rule, Source, Verdict
from flanneld_py.netfilter.expressions import decode_rule, encode_rule
from flanneld_py.netfilter.judge import Judge
from flanneld_py.netfilter.nftcodec import RuleState, decode_expressions
from flanneld_py.netfilter.walk import Packet

U32 = st.integers(0, 0xFFFFFFFF)


def nets(version: Literal[4, 6]) -> st.SearchStrategy[Match]:
    net = st.ip_addresses(v=version).flatmap(
        lambda address: st.integers(0, address.max_prefixlen).map(lambda length: _net(str(address), length))
    )
    return st.builds(Source, net, st.booleans()) | st.builds(Destination, net, st.booleans())


def _net(address: str, length: int) -> Net:
    return ip_network(f"{address}/{length}", strict=False)


def rules(version: Literal[4, 6]) -> st.SearchStrategy[Rule]:
    matches = st.lists(nets(version) | st.builds(Mark, U32, U32), max_size=4).map(tuple)
    return st.builds(Rule, matches, st.sampled_from(Verdict) | st.builds(Masquerade, st.booleans()))


@pytest.mark.parametrize("version", [4, 6])
@given(data=st.data())
def test_a_rule_comes_back_as_it_went(version: Literal[4, 6], data: st.DataObject) -> None:
    rule = data.draw(rules(version))
    assert decode_rule(version, list(decode_expressions(b"".join(encode_rule(rule))))) == rule


@given(data=st.binary(max_size=300), address=st.ip_addresses(v=4), other=st.ip_addresses(v=4))
def test_any_bytes_are_read_or_refused(data: bytes, address: IPv4Address, other: IPv4Address) -> None:
    try:
        steps = tuple(decode_expressions(data))
        decode_rule(4, steps)
        packet = Packet(address, other, "flannel.1", "cni0")
        Judge(packet)(RuleState(2, "t", "c", 1, steps, ""))
    except ValueError:
        pass
