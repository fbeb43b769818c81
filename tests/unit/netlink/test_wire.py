"""Framing: lengths are claims, and an error's words are found wherever the kernel put them."""

import errno
import struct

import pytest

from flanneld_py.netlink import wire
from flanneld_py.netlink.wire import Message, Refusal

ACK_OF_SEQ_7 = struct.pack("=IHHII", 36, wire.NLMSG_ERROR, wire.NLM_F_CAPPED, 7, 0) + struct.pack(
    "=iIHHII", 0, 28, 24, 5, 7, 0
)


def refusal_bytes(code: int, flags: int, echoed: bytes, tail: bytes) -> Message:
    request = wire.HEADER.pack(16 + len(echoed), 24, 5, 7, 0) + echoed
    return Message(wire.NLMSG_ERROR, flags, 7, struct.pack("=i", -code) + request + tail)


def test_headers_have_the_kernels_sizes() -> None:
    assert (wire.HEADER.size, wire.ATTR.size) == (16, 4)


def test_messages_of_a_datagram_come_apart_in_order() -> None:
    one, two = wire.encode_message(24, 5, 1, b"abc"), wire.encode_message(25, 5, 2, b"")
    assert list(wire.messages(one + two)) == [Message(24, 5, 1, b"abc"), Message(25, 5, 2, b"")]


@pytest.mark.parametrize("data", [b"\x10", bytes(16), struct.pack("=IHHII", 20, 24, 0, 1, 0), ACK_OF_SEQ_7 + b"x"])
def test_a_message_that_lies_about_its_length_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="netlink"):
        list(wire.messages(data))


ATTRIBUTES = wire.encode_u32(1, 7) + wire.encode_attr(2, b"abcde")


@pytest.mark.parametrize("cut", range(4))
def test_the_last_attribute_may_lack_its_padding(cut: int) -> None:
    assert wire.attributes(ATTRIBUTES[: 20 - cut]) == {1: struct.pack("=I", 7), 2: b"abcde"}


@pytest.mark.parametrize("cut", range(4, 12))
def test_cut_attributes_are_refused(cut: int) -> None:
    with pytest.raises(ValueError, match="attribute"):
        wire.attributes(ATTRIBUTES[:-cut])


def test_numbers_take_the_width_they_come_in() -> None:
    attrs = {1: b"\x05", 2: struct.pack("=H", 513), 3: struct.pack("=I", 70000), 4: b"abc"}
    assert [wire.number(attrs, kind, 9) for kind in (1, 2, 3, 5)] == [5, 513, 70000, 9]
    with pytest.raises(ValueError, match="3 bytes"):
        wire.number(attrs, 4)


def test_an_acknowledgement_is_no_refusal() -> None:
    (message,) = wire.messages(ACK_OF_SEQ_7)
    assert wire.decode_refusal(message) is None


TEXT = wire.encode_attr(1, b"Nexthop has invalid gateway\0")


@pytest.mark.parametrize(
    ("flags", "echoed", "tail", "text"),
    [
        (wire.NLM_F_CAPPED, b"", b"", ""),
        (wire.NLM_F_CAPPED | wire.NLM_F_ACK_TLVS, b"", TEXT, "Nexthop has invalid gateway"),
        (wire.NLM_F_ACK_TLVS, b"request!", TEXT, "Nexthop has invalid gateway"),
        (wire.NLM_F_CAPPED | wire.NLM_F_ACK_TLVS, b"", wire.encode_u32(2, 24), ""),
    ],
)
def test_a_refusal_carries_the_kernels_words(flags: int, echoed: bytes, tail: bytes, text: str) -> None:
    message = refusal_bytes(errno.ENETUNREACH, flags, echoed, tail)
    assert wire.decode_refusal(message) == Refusal(errno.ENETUNREACH, text)


def test_a_refusal_without_its_request_is_refused() -> None:
    with pytest.raises(ValueError, match="error of 8 bytes"):
        wire.decode_refusal(Message(wire.NLMSG_ERROR, 0, 1, bytes(8)))
