"""A small run of `bench cni`: a real daemon, real plugins, and nothing left of it."""

from pathlib import Path

import pytest

from bench import cni
from cni_plugin import program
from flanneld_py.errors import FlannelError, UsageError
from flanneld_py.lab.namespaces import RUN_DIR


def names() -> set[str]:
    return {path.name for path in RUN_DIR.iterdir() if path.name.startswith("bench-cni")} if RUN_DIR.exists() else set()


def test_every_way_is_measured_and_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Our own plugin stands in for the Go flannel's: the bench calls both alike."""
    before = names()
    program.install(program.own_program(None), tmp_path)
    assert cni.run(["--rounds=2", "--crowds=1", "--pods=3", f"--go-plugin={tmp_path / 'flannel'}"]) == 0
    out = capsys.readouterr().out
    for name in (cni.BARE, cni.PLAIN, cni.RESIDENT, cni.GO):
        (line,) = [line for line in out.splitlines() if line.startswith(f"{name} ")]
        assert len(line.removeprefix(name).split()) == 7
    assert out.count("kept") + out.count("MISSED") == len(cni.GOALS)
    assert names() == before


def test_missing_plugins_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cni, "PLUGINS", tmp_path)
    with pytest.raises(FlannelError, match="containernetworking-plugins"):
        cni.run([])


def test_go_plugin_must_be_a_program(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a program"):
        cni.run([f"--go-plugin={tmp_path / 'none'}"])
