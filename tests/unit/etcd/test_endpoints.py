import pytest

from flanneld_py.errors import UsageError
from flanneld_py.etcd.endpoints import Endpoint, parse_endpoint


@pytest.mark.parametrize(
    ("text", "tls", "endpoint", "shown"),
    [
        ("http://10.0.0.1:2379", True, Endpoint("10.0.0.1", 2379, False), "http://10.0.0.1:2379"),
        ("https://etcd.example", False, Endpoint("etcd.example", 2379, True), "https://etcd.example:2379"),
        (" http://etcd:4001/ ", False, Endpoint("etcd", 4001, False), "http://etcd:4001"),
        ("10.0.0.1:1", False, Endpoint("10.0.0.1", 1, False), "http://10.0.0.1:1"),
        ("10.0.0.1:1", True, Endpoint("10.0.0.1", 1, True), "https://10.0.0.1:1"),
        ("[fd00::1]", False, Endpoint("fd00::1", 2379, False), "http://[fd00::1]:2379"),
        ("https://[fd00::1]:7", False, Endpoint("fd00::1", 7, True), "https://[fd00::1]:7"),
    ],
)
def test_endpoint(text: str, tls: bool, endpoint: Endpoint, shown: str) -> None:
    assert parse_endpoint(text, tls=tls) == endpoint
    assert str(endpoint) == shown


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "http://",
            "ftp://a",
            "unix:///run/etcd",
            "http://a:port",
            "http://a:99999",
            "http://a:0",
            "http://:2379",
        ),
        *("http://a/v2", "http://a?x", "http://[fd00::1", "http://[x::y]", "fd00::1", "http://a b"),
    ],
)
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_endpoint(text, tls=False)
    assert caught.value.hint


@pytest.mark.parametrize("text", ["http://root:hunter2@etcd:2379", "root:hunter2@etcd", "ftp://root:hunter2@etcd"])
def test_password_in_an_endpoint_is_not_repeated(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_endpoint(text, tls=False)
    assert "hunter2" not in str(caught.value)
