"""Atomic writing: whole content, exact modes, nothing left behind."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from flanneld_py.host.files import write_atomic


@pytest.fixture(params=[0o000, 0o077], ids=["open umask", "strict umask"], autouse=True)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    old = os.umask(request.param)
    yield
    os.umask(old)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_directories_and_file_get_their_modes_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "run" / "flannel" / "subnet.env"
    write_atomic(path, "A=1\n")
    assert (path.read_text(), mode(path)) == ("A=1\n", 0o644)
    assert (mode(path.parent), mode(path.parent.parent)) == (0o755, 0o755)


def test_a_file_is_replaced_with_content_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_atomic(path, "old")
    before = path.open()
    write_atomic(path, b"\x00new", 0o600)
    assert (path.read_bytes(), mode(path)) == (b"\x00new", 0o600)
    with before:
        assert before.read() == "old"
    assert [child.name for child in tmp_path.iterdir()] == ["state"]


def test_a_symbolic_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    target, path = tmp_path / "target", tmp_path / "link"
    target.write_text("kept")
    path.symlink_to(target)
    write_atomic(path, "new")
    assert (path.is_symlink(), target.read_text(), path.read_text()) == (False, "kept", "new")


def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "name"
    path.mkdir()
    with pytest.raises(OSError):
        write_atomic(path, "new")
    assert [child.name for child in tmp_path.iterdir()] == ["name"]
