"""`flanneld cleanup`: the files and the lock. What it removes from a kernel is shown in tests/daemon."""

import fcntl
import resource
from pathlib import Path

import pytest

from flanneld_py.cli.cleanup import _networks, run
from flanneld_py.daemon import rundir
from flanneld_py.errors import FlannelError, UsageError


def test_only_networks_of_subnet_env_are_searched(tmp_path: Path) -> None:
    path = tmp_path / "subnet.env"
    assert _networks(path) == ()
    path.write_text("FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.7.1/24\n")
    assert [str(net) for net in _networks(path)] == ["10.5.0.0/16"]
    path.write_text("nonsense\n")
    assert _networks(path) == ()


def test_a_network_that_is_none_is_a_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--network 10\.5\.0\.1/16"):
        run(["--dry-run", f"--subnet-file={tmp_path}/subnet.env", "--network", "10.5.0.1/16"])


def test_one_at_a_time_may_hold_a_directory(tmp_path: Path) -> None:
    refused = pytest.raises(FlannelError, match=r"another flanneld \(pid \d+\)")
    with rundir.hold(tmp_path / "run"), refused, rundir.hold(tmp_path / "run"):
        pass
    with rundir.hold(tmp_path / "run"):
        pass


def test_a_lock_that_was_removed_locks_nobody_out_and_lets_no_two_in(tmp_path: Path) -> None:
    """Two that opened different files of one name must not both hold it."""
    with rundir.hold(tmp_path):
        rundir.remove_lock(tmp_path)
        with rundir.hold(tmp_path), pytest.raises(FlannelError), rundir.hold(tmp_path):
            pass


def test_a_lock_that_is_removed_while_it_is_taken_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock

    def late(descriptor: int, how: int) -> None:
        """The holder before removes the file between our opening and our locking it."""
        monkeypatch.setattr(fcntl, "flock", lock)
        rundir.remove_lock(tmp_path)
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with rundir.hold(tmp_path), pytest.raises(FlannelError), rundir.hold(tmp_path):
        pass


def test_a_directory_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FlannelError, match="cannot use") as caught, rundir.hold(tmp_path / "file"):
        pass
    assert caught.value.hint == "give another --subnet-file"


def test_a_lock_that_cannot_be_written_is_told_and_let_go(tmp_path: Path) -> None:
    """As on a file system that is full: here the process may not make files longer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(FlannelError) as caught, rundir.hold(tmp_path):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.message == f"cannot write {tmp_path / rundir.LOCK}: File too large"
    assert caught.value.hint == f"see: df {tmp_path}; make room there, or give another --subnet-file"
    with rundir.hold(tmp_path):
        pass
