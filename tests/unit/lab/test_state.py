from ipaddress import ip_interface
from pathlib import Path

import pytest

from flanneld_py.errors import LabError
from flanneld_py.lab.process import Process
from flanneld_py.lab.state import LabDirectory, LabRecord, Stage, lab_names
from flanneld_py.lab.topology import LabSpec

RECORD = LabRecord(
    LabSpec(name="one"),
    Stage.UP,
    {"etcd": Process(12, 345)},
    {"pod1-1": (ip_interface("10.244.1.2/24"), ip_interface("fd00::2/64"))},
)


def test_record_reads_back(tmp_path: Path) -> None:
    directory = LabDirectory("one", tmp_path)
    with directory.locked(create=True):
        directory.write(RECORD)
        assert directory.read() == RECORD
    assert lab_names(tmp_path) == ["one"]


def test_no_record_is_none(tmp_path: Path) -> None:
    assert LabDirectory("one", tmp_path).read() is None
    assert lab_names(tmp_path / "nowhere") == []


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"spec": {"name": "x"}, "stage": "up"}', '"x"'])
def test_broken_record_is_an_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    directory = LabDirectory("one", tmp_path)
    directory.path.mkdir()
    (directory.path / "lab.json").write_text(text)
    with pytest.raises(LabError, match=r"lab\.json"):
        directory.read()


def test_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    with LabDirectory("one", tmp_path).locked(create=True):
        with pytest.raises(LabError, match="another command"), LabDirectory("one", tmp_path).locked(create=True):
            pass
        with LabDirectory("two", tmp_path).locked(create=True) as there:
            assert there


def test_lock_of_nothing_makes_nothing(tmp_path: Path) -> None:
    with LabDirectory("one", tmp_path / "labs").locked(create=False) as there:
        assert not there
    assert list(tmp_path.iterdir()) == []


def test_empty_directory_goes_with_the_lock(tmp_path: Path) -> None:
    directory = LabDirectory("one", tmp_path / "labs")
    with directory.locked(create=True):
        directory.write(RECORD)
        directory.log("etcd").parent.mkdir()
        directory.log("etcd").write_text("x")
        directory.clear()
    assert list(tmp_path.iterdir()) == []
