"""`flanneld bench` in a checkout and outside of one."""

from pathlib import Path

import pytest

from flanneld_py.cli import bench
from flanneld_py.errors import UsageError


def test_checkout_has_the_benchmarks(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.run([]) == 0
    assert "usage: flanneld bench NAME" in capsys.readouterr().out


def test_unknown_benchmark_is_named() -> None:
    with pytest.raises(UsageError, match="there is no benchmark 'speed'"):
        bench.run(["speed"])


def test_outside_of_a_checkout_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not part of the installed package") as caught:
        bench.run(["paths"], root=tmp_path)
    assert caught.value.exit_code == 2
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "table.py").touch()
    with pytest.raises(UsageError):
        bench.run(["paths"], root=tmp_path)
