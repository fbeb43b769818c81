"""Sysctl entries on a tree that stands for /proc/sys."""

import errno
from pathlib import Path
from unittest.mock import patch

import pytest

from flanneld_py.host.sysctl import SysctlApplier
from flanneld_py.model.entry import Desired, Op, Sysctl, Verb

FORWARD = Sysctl("net/ipv4/ip_forward", "1")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "sys/net/ipv4").mkdir(parents=True)
    (tmp_path / "sys/net/ipv4/ip_forward").write_text("0\n")
    (tmp_path / "sys/net/ipv4/tcp_rmem").write_text("4096\t131072\t6291456\n")
    (tmp_path / "secret").write_text("0")
    return tmp_path / "sys"


def desired(*entries: Sysctl) -> Desired:
    return Desired({entry.key: entry for entry in entries})


async def test_a_value_is_written_and_known(root: Path) -> None:
    applier = SysctlApplier(root=root)
    assert await applier.known(desired(FORWARD)) == {FORWARD.key: Sysctl(FORWARD.path, "0")}
    for _ in range(2):
        assert await applier.apply([Op(Verb.CHANGE, FORWARD)]) == []
    assert await applier.known(desired(FORWARD)) == {FORWARD.key: FORWARD}


async def test_blanks_do_not_make_values_differ(root: Path) -> None:
    entry = Sysctl("net/ipv4/tcp_rmem", "4096 131072 6291456", dev="eth0")
    assert await SysctlApplier(root=root).known(desired(entry)) == {entry.key: entry}


@pytest.mark.parametrize(
    "path", ["../secret", "net/../../secret", "/etc/passwd", "net/ipv4/", "", "net//x", "a\n/b", "net"]
)
async def test_a_path_that_leads_elsewhere_is_refused(root: Path, path: str) -> None:
    applier = SysctlApplier(root=root)
    entry = Sysctl(path, "1")
    assert await applier.known(desired(entry)) == {}
    (failure,) = await applier.apply([Op(Verb.ADD, entry)])
    assert failure.cannot
    assert (root.parent / "secret").read_text() == "0"


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EPERM])
async def test_a_read_only_tree_is_a_cannot_with_the_line_that_mends_it(root: Path, code: int) -> None:
    entry = Sysctl("net/ipv4/tcp_rmem", "1 2 3")
    with patch.object(Path, "open", side_effect=OSError(code, "refused")):
        (failure,) = await SysctlApplier(root=root).apply([Op(Verb.CHANGE, entry)])
    assert failure.cannot
    assert failure.hint == "set it on the host: sysctl -w net/ipv4/tcp_rmem='1 2 3'"


async def test_a_missing_setting_fails_and_one_of_a_missing_device_may_come(root: Path) -> None:
    ops = [Op(Verb.ADD, Sysctl("net/ipv4/none", "1")), Op(Verb.ADD, Sysctl("net/ipv4/conf/x.1/y", "1", dev="x.1"))]
    failures = await SysctlApplier(root=root).apply(ops)
    assert [(failure.errno, failure.cannot) for failure in failures] == [(errno.ENOENT, True), (errno.ENOENT, False)]
    assert not (root / "net/ipv4/none").exists()


async def test_deleting_a_setting_leaves_its_value(root: Path) -> None:
    assert await SysctlApplier(root=root).apply([Op(Verb.DELETE, FORWARD)]) == []
    assert (root / FORWARD.path).read_text() == "0\n"


async def test_the_real_tree_can_be_read() -> None:
    known = await SysctlApplier().known(desired(Sysctl("net/ipv4/ip_forward", "?")))
    (entry,) = known.values()
    assert isinstance(entry, Sysctl) and entry.value in {"0", "1"}
