"""Messages to a service manager, on a real datagram socket."""

import socket
from pathlib import Path
from secrets import token_hex

from flanneld_py.observe.notify import notify


def test_the_lines_of_a_message_come_as_one_datagram(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        notify(str(tmp_path / "notify"), "STOPPING=1", "STATUS=stopped")
        assert manager.recv(4096) == b"STOPPING=1\nSTATUS=stopped"


def test_an_abstract_socket_is_named_with_an_at_sign() -> None:
    name = f"flanneld-test-{token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name)
        manager.settimeout(10)
        notify("@" + name, "READY=1")
        assert manager.recv(4096) == b"READY=1"


def test_nobody_who_listens_is_no_failure(tmp_path: Path) -> None:
    for address in (None, "", str(tmp_path / "nobody"), "@" + token_hex(8), "x" * 300):
        notify(address, "READY=1")
