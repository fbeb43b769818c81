from pathlib import Path

import pytest

from flanneld_py.store.base import Condition
from flanneld_py.store.conditions import Conditions
from flanneld_py.store.kube_config import ConfigFile

UNREGISTERED = Condition(False, "node n1 is not in the Kubernetes API")
WELL = Condition(True, "well")


async def test_a_file_that_can_be_read_takes_back_only_that_it_could_not(tmp_path: Path) -> None:
    told: list[Condition] = []
    conditions = Conditions(told.append, WELL.message)
    (tmp_path / "net-conf.json").write_text("{}")
    conditions.missing("node", UNREGISTERED)
    assert await ConfigFile(tmp_path / "net-conf.json", conditions).read() == "{}"
    assert told == [UNREGISTERED]
    conditions.missing("node", None)
    assert told == [UNREGISTERED, WELL]


async def test_a_file_that_comes_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Condition] = []
    path = tmp_path / "net-conf.json"

    def report(condition: Condition) -> None:
        told.append(condition)
        path.write_text("{}")

    monkeypatch.setattr("flanneld_py.store.kube_config._MISSING_S", 0)
    assert await ConfigFile(path, Conditions(report, WELL.message)).read() == "{}"
    assert told[0].message == f"cannot read the network configuration {path}: No such file or directory"
    assert told[1:] == [WELL]
