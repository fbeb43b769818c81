"""What is read of the API's answers."""

import json

import pytest

from flanneld_py.kube.objects import Malformed, Refusal, decode_node, decode_pod_node, decode_refusal


def body(**members: object) -> bytes:
    return json.dumps(members).encode()


def test_node_has_no_more_than_we_use() -> None:
    node = decode_node(
        body(
            kind="Node",
            metadata={
                "name": "n1",
                "uid": "u",
                "resourceVersion": "5",
                "annotations": {"a": "b"},
                "labels": {"c": "d"},
            },
            spec={"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00::/64"], "taints": [{"key": "x"}]},
            status={"images": [{"names": ["x"], "sizeBytes": 1}]},
        )
    )
    assert (node.name, node.metadata.uid, node.annotations) == ("n1", "u", {"a": "b"})
    assert node.cidrs == ("10.1.0.0/24", "fd00::/64")


@pytest.mark.parametrize(
    ("spec", "cidrs"),
    [
        ({}, ()),
        ({"podCIDR": "10.1.0.0/24"}, ("10.1.0.0/24",)),
        ({"podCIDR": ""}, ()),
        ({"podCIDR": None, "podCIDRs": None}, ()),
        ({"podCIDRs": ["fd00::/64"]}, ("fd00::/64",)),
    ],
)
def test_cidrs_as_servers_of_all_ages_write_them(spec: dict[str, object], cidrs: tuple[str, ...]) -> None:
    assert decode_node(body(metadata={"name": "n"}, spec=spec)).cidrs == cidrs


def test_node_without_anything() -> None:
    node = decode_node(b"{}")
    assert (node.name, node.annotations, node.cidrs) == ("", {}, ())


@pytest.mark.parametrize(
    "text", [b"", b"[]", b'{"metadata": []}', b'{"metadata":{"annotations":{"a":1}}}', b"[" * 99999]
)
def test_malformed(text: bytes) -> None:
    with pytest.raises(Malformed):
        decode_node(text)


def test_pod() -> None:
    assert decode_pod_node(body(spec={"nodeName": "n1"})) == "n1"
    assert decode_pod_node(body(spec={})) == ""


@pytest.mark.parametrize(
    ("status", "text", "retry_after", "refusal"),
    [
        (403, body(kind="Status", code=403, reason="Forbidden", message="no"), None, Refusal(403, "Forbidden", "no")),
        (429, b"", "7", Refusal(429, retry_after_s=7)),
        (429, b"", "Wed, 21 Oct 2026 07:28:00 GMT", Refusal(429)),
        (429, b"", "-1", Refusal(429)),
        (504, body(kind="Status", code=504, details={"retryAfterSeconds": 1}), None, Refusal(504, retry_after_s=1)),
        (502, b"<html>", None, Refusal(502)),
        (500, b"\xff", None, Refusal(500)),
        (500, body(kind="Pod", message="no Status"), None, Refusal(500)),
        (500, body(kind="Status", message="x" * 9999), None, Refusal(500, "", "x" * 500)),
    ],
)
def test_refusal(status: int, text: bytes, retry_after: str | None, refusal: Refusal) -> None:
    assert decode_refusal(status, text, retry_after) == refusal
