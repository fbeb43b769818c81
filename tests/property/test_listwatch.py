"""However a stream is cut into pieces, and wherever it breaks, the same changes come out of it, once."""

import json
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from flanneld_py.kube.listwatch import Deleted, ListWatch, Message, Put

EVENTS = st.lists(
    st.tuples(st.sampled_from(["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]), st.integers(0, 9)), max_size=12
)


def watching() -> ListWatch[str]:
    made: ListWatch[str] = ListWatch(lambda node: node.name, Random(1))
    made.page(b'{"metadata":{"resourceVersion":"1"},"items":[]}')
    made.request()
    return made


def lines(events: list[tuple[str, int]]) -> list[bytes]:
    found = []
    for version, (kind, name) in enumerate(events, 2):
        metadata = {"name": f"n{name}", "resourceVersion": str(version)}
        found.append(json.dumps({"type": kind, "object": {"metadata": metadata}}).encode() + b"\n")
    return found


def meant(events: list[tuple[str, int]]) -> list[Message[str]]:
    return [
        Deleted(f"n{name}") if kind == "DELETED" else Put(f"n{name}") for kind, name in events if kind != "BOOKMARK"
    ]


@given(EVENTS, st.data())
def test_pieces(events: list[tuple[str, int]], data: st.DataObject) -> None:
    stream, made, heard = b"".join(lines(events)), watching(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        told = made.data(stream[:size])
        assert told.refusal is None
        heard += told.messages
        stream = stream[size:]
    assert heard == meant(events)


@given(EVENTS, st.data())
def test_breaks(events: list[tuple[str, int]], data: st.DataObject) -> None:
    """A server that goes on after the version that it is asked for."""
    all_lines, made, heard = lines(events), watching(), []
    while (done := int(made.request().params["resourceVersion"]) - 1) < len(all_lines):
        rest = b"".join(all_lines[done:])
        size = data.draw(st.integers(len(all_lines[done]), len(rest)))
        heard += made.data(rest[:size]).messages
        made.failed()
    assert heard == meant(events)


@given(st.binary(max_size=300))
def test_any_bytes(junk: bytes) -> None:
    made = watching()
    told = made.data(junk + b"\n")
    assert all(isinstance(message, Put | Deleted) for message in told.messages)
