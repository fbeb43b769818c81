"""The conversation with the API server, without a server."""

import json
from random import Random

import pytest

from flanneld_py.kube.listwatch import MAX_LINE_BYTES, PAGE, SILENCE_S, Deleted, Listed, ListWatch, Put, Told
from flanneld_py.kube.objects import Malformed, Node, Refusal


def read(node: Node) -> str:
    return node.name


def conversation(**options: object) -> ListWatch[str]:
    return ListWatch(read, Random(1), **options)  # type: ignore[arg-type]


def page(*names: str, revision: str = "7", more: str = "") -> bytes:
    metadata = {"resourceVersion": revision} | ({"continue": more} if more else {})
    return json.dumps({"metadata": metadata, "items": [{"metadata": {"name": name}} for name in names]}).encode()


def line(kind: str, name: str = "", revision: str = "") -> bytes:
    metadata = {"name": name, "resourceVersion": revision}
    return json.dumps({"type": kind, "object": {"kind": "Node", "metadata": metadata}}).encode() + b"\n"


def error(code: int, reason: str = "") -> bytes:
    return json.dumps({"type": "ERROR", "object": {"kind": "Status", "code": code, "reason": reason}}).encode() + b"\n"


def watching(revision: str = "7", **options: object) -> ListWatch[str]:
    made = conversation(**options)
    made.page(page(revision=revision))
    return made


def test_list_then_watch() -> None:
    made = conversation(params={"fieldSelector": "x"})
    first = made.request()
    assert (first.params, first.watch) == ({"fieldSelector": "x", "limit": str(PAGE)}, False)
    assert made.page(page("a", more="token")) == []
    assert made.request().params == {"fieldSelector": "x", "limit": str(PAGE), "continue": "token"}
    assert made.page(page("b", revision="9")) == [Listed(("a", "b"))]
    then = made.request()
    assert (then.watch, then.silence_s) == (True, SILENCE_S)
    assert then.params["resourceVersion"] == "9"
    assert then.params["allowWatchBookmarks"] == "true"
    assert 300 <= int(then.params["timeoutSeconds"]) <= 600


def test_changes() -> None:
    made = watching()
    told = made.data(line("ADDED", "a", "8") + line("MODIFIED", "a", "9") + line("DELETED", "a", "10"))
    assert told == Told[str]([Put("a"), Put("a"), Deleted("a")])
    assert made.request().params["resourceVersion"] == "10"


def test_a_bookmark_moves_the_version_on() -> None:
    made = watching()
    assert made.data(line("BOOKMARK", revision="99")) == Told([])
    assert made.request().params["resourceVersion"] == "99"


def test_a_line_that_was_cut_off_is_forgotten() -> None:
    made = watching()
    assert made.data(line("ADDED", "a", "8") + line("ADDED", "b", "9")[:20]) == Told([Put("a")])
    made.ended(60)
    assert made.request().params["resourceVersion"] == "8"
    assert made.data(line("ADDED", "b", "9")) == Told([Put("b")])


@pytest.mark.parametrize("status", [410, 400, 404, 422])
def test_what_cannot_be_resumed_is_listed_again(status: int) -> None:
    made = watching()
    told = made.data(line("ADDED", "a", "8") + error(status))
    assert told.messages == [Put("a")] and told.refusal is not None
    made.failed(told.refusal)
    assert not made.request().watch


@pytest.mark.parametrize("status", [401, 403, 408, 429, 500, 502, 503, 504])
def test_what_passes_is_resumed(status: int) -> None:
    made = watching()
    made.failed(Refusal(status))
    assert made.request().params["resourceVersion"] == "7"


def test_410_of_a_page_begins_the_list_again() -> None:
    made = conversation()
    made.page(page("a", more="token"))
    made.failed(Refusal(410, "Expired"))
    assert "continue" not in made.request().params
    assert made.page(page("a", "b")) == [Listed(("a", "b"))], "and what came of the first try is not told twice"


def test_a_version_that_never_comes_is_given_up() -> None:
    """A server restored from a backup: "Too large resource version", 504, each time."""
    made = watching("1000")
    for _ in range(3):
        made.failed(Refusal(504, "Timeout"))
        assert made.request().watch
    made.failed(Refusal(504, "Timeout"))
    assert not made.request().watch


def test_a_server_that_is_away_keeps_the_version() -> None:
    made = watching()
    for _ in range(50):
        made.failed()
    assert made.request().params["resourceVersion"] == "7"


@pytest.mark.parametrize("junk", [b"{\n", b"[]\n", b'{"type":"NEW","object":{}}\n', b'{"type":"ADDED"}\n', b"\xff\n"])
def test_a_line_that_says_nothing(junk: bytes) -> None:
    told = watching().data(line("ADDED", "a", "8") + junk + line("ADDED", "b", "9"))
    assert told.messages == [Put("a")]
    assert told.refusal is not None and told.refusal.reason == "Malformed"


def test_a_line_without_end() -> None:
    made = watching()
    told = Told[str]([])
    for _ in range(MAX_LINE_BYTES // (1 << 20) + 1):
        assert told.refusal is None
        told = made.data(b"x" * (1 << 20))
    assert told.refusal is not None


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"items":[]}', b'{"metadata":{},"items":[]}', b"\xff"])
def test_a_page_that_is_none(body: bytes) -> None:
    made = conversation()
    with pytest.raises(Malformed):
        made.page(body)
    assert made.page(page("a")) == [Listed(("a",))]


def test_waits_grow_and_end_with_a_change() -> None:
    made = watching()
    waits = [made.failed() for _ in range(12)]
    assert 0.12 <= waits[0] <= 0.25 and all(5 <= wait <= 10 for wait in waits[-3:])
    made.data(line("ADDED", "a", "8"))
    assert made.failed() <= 0.25


def test_lists_that_lead_to_nothing_do_not_shorten_the_waits() -> None:
    made = conversation()
    waits = []
    for _ in range(10):
        made.page(page())
        waits.append(made.failed(Refusal(410)))
    assert waits[-1] >= 5


def test_a_watch_that_ended_in_time_is_opened_at_once() -> None:
    made = watching()
    assert made.ended(300) == 0
    assert made.ended(0.1) > 0


def test_retry_after_is_the_least_and_is_spread() -> None:
    made = watching()
    waits = {made.failed(Refusal(429, retry_after_s=20)) for _ in range(20)}
    assert all(20 <= wait <= 30 for wait in waits) and len(waits) > 10
    assert made.failed(Refusal(429, retry_after_s=86_400)) <= 90
