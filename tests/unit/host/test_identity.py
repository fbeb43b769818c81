"""The machine's identity: stable, not the id itself, with fallbacks."""

import socket
from pathlib import Path

import pytest

from flanneld_py.host.identity import read_identity

MACHINE_ID = "0123456789abcdef0123456789abcdef"


def tree(root: Path, machine_id: str | None, uuid: str | None) -> Path:
    for name, text in (("etc/machine-id", machine_id), ("sys/class/dmi/id/product_uuid", uuid)):
        if text is not None:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
    return root


def test_the_machine_id_is_hashed(tmp_path: Path) -> None:
    identity = read_identity("1.2.3", root=tree(tmp_path, f"{MACHINE_ID}\n", None))
    assert (identity.host_name, identity.version) == (socket.gethostname(), "1.2.3")
    assert len(identity.machine) == 64 and MACHINE_ID not in identity.machine
    assert identity == read_identity("1.2.3", root=tmp_path)


@pytest.mark.parametrize("machine_id", [None, "", "uninitialized\n", "0" * 32])
def test_the_firmware_stands_in_for_a_missing_machine_id(tmp_path: Path, machine_id: str | None) -> None:
    one = read_identity("1", root=tree(tmp_path / "a", machine_id, "1111-22\n"))
    two = read_identity("1", root=tree(tmp_path / "b", MACHINE_ID, "1111-22\n"))
    three = read_identity("1", root=tree(tmp_path / "c", machine_id, "3333-44\n"))
    assert len({one.machine, two.machine, three.machine}) == 3


def test_the_host_name_is_the_last_resort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machines = []
    for name in ("node-a", "node-b"):
        monkeypatch.setattr(socket, "gethostname", lambda name=name: name)
        machines.append(read_identity("1", root=tmp_path).machine)
    assert machines[0] != machines[1]
