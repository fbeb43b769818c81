from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6EchoReply

from flanneld_py.lab.echo import EchoReply, checksum, decode_reply, encode_request

U16 = st.integers(0, 0xFFFF)


@given(U16, U16, st.binary(max_size=100))
def test_request_is_what_scapy_builds(ident: int, seq: int, payload: bytes) -> None:
    assert encode_request(4, ident, seq, payload) == bytes(ICMP(type=8, id=ident, seq=seq) / payload)


@given(U16, U16, st.binary(max_size=100))
def test_checksum_over_a_correct_message_is_zero(ident: int, seq: int, payload: bytes) -> None:
    message = encode_request(4, ident, seq, payload)
    assert checksum(message) == 0


@given(U16, U16, st.binary(max_size=100))
def test_reply_is_read(ident: int, seq: int, payload: bytes) -> None:
    four = bytes(IP(options=b"\x01" * 4) / ICMP(type=0, id=ident, seq=seq) / payload)
    six = bytes(ICMPv6EchoReply(id=ident, seq=seq, data=payload, cksum=0))
    assert decode_reply(4, four) == decode_reply(6, six) == EchoReply(ident, seq, payload)


@given(st.sampled_from([4, 6]), st.binary(max_size=60))
def test_any_bytes_are_a_reply_or_not(version: int, data: bytes) -> None:
    reply = decode_reply(version, data)
    assert reply is None or len(reply.payload) < len(data)


def test_request_is_no_reply() -> None:
    assert decode_reply(4, bytes(IP() / ICMP(type=8, id=1, seq=1))) is None
    assert decode_reply(6, encode_request(6, 1, 1, b"")) is None
