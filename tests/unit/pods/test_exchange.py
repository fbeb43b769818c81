"""The launcher's question, whole and broken."""

import pytest

from flanneld_py.pods.exchange import NotForUs, parse_question

LINES = [
    b"flannel-cni 1",
    b"SOCKET=/run/flannel/cni.sock",
    b"CNI_COMMAND=ADD",
    b"CNI_CONTAINERID=pod1",
    b"CNI_NETNS=/run/netns/a=b",
    b"CNI_IFNAME=eth0",
    b"CNI_ARGS=",
    b"CNI_PATH=/opt/cni/bin",
]
QUESTION = b"\0".join(LINES) + b'\0\0{"name": "cbr0"}'


def test_question_has_what_the_runtime_gave() -> None:
    found = parse_question(QUESTION)
    assert (found.command, found.container, found.netns, found.ifname) == ("ADD", "pod1", "/run/netns/a=b", "eth0")
    assert (found.args, found.socket, found.config) == ("", "/run/flannel/cni.sock", {"name": "cbr0"})


BROKEN = {
    "nothing": b"",
    "another version": QUESTION.replace(b"cni 1", b"cni 2"),
    "no end of the variables": QUESTION.replace(b"\0\0", b"\0"),
    "no container": QUESTION.replace(b"CNI_CONTAINERID=", b"X="),
    "no text": QUESTION.replace(b"pod1", b"\xff"),
    "no JSON": QUESTION[:-1],
    "a list": QUESTION.replace(b'{"name": "cbr0"}', b"[]"),
    "no number": QUESTION.replace(b'"cbr0"', b"NaN"),
    "nested without end": QUESTION.replace(b'{"name": "cbr0"}', b"[" * 40_000),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_question_is_left_alone(what: str) -> None:
    with pytest.raises(NotForUs):
        parse_question(BROKEN[what])


def test_any_part_of_a_question_is_none() -> None:
    for size in range(len(QUESTION)):
        with pytest.raises(NotForUs):
            parse_question(QUESTION[:size])
