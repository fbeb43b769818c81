"""`flanneld lab` with a list of backends: a lab for each, side by side."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from flanneld_py.cli import lab as command
from flanneld_py.errors import LabError, UsageError
from flanneld_py.lab import build
from flanneld_py.lab.progress import Silent
from tests.lab.conftest import Trace

BACKENDS = ("vxlan", "udp")


@pytest.fixture
def name() -> Iterator[str]:
    chosen = f"l{os.getpid()}"
    yield chosen
    for backend in BACKENDS:
        build.down(f"{chosen}-{backend}", Silent())


def call(*words: str) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-m", "flanneld_py", "lab", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False)


def test_one_command_builds_pings_and_removes_a_lab_for_each_backend(name: str) -> None:
    which = ("--name", name, "--backend", ",".join(BACKENDS))
    up = call("up", *which, "--nodes", "2", "--pods", "1")
    assert up.returncode == 0, up.stderr
    assert f"flanneld lab ping --name {name} --backend vxlan,udp" in up.stdout
    ping = call("ping", *which)
    assert ping.returncode == 0, ping.stderr
    for backend in BACKENDS:
        assert f"lab {name}-{backend}, backend {backend}" in ping.stdout
    assert ping.stdout.count("all 2 pairs answer, nothing lost") == 2
    down = call("down", *which)
    assert down.stdout.strip() == f"removed: {name}-vxlan, {name}-udp"
    for backend in BACKENDS:
        Trace(f"{name}-{backend}").assert_nothing()


def test_a_list_that_cannot_be_built_leaves_none_of_its_labs(name: str) -> None:
    up = call("up", "--name", name, "--backend", "udp,nonsense", "--nodes", "1", "--pods", "1")
    assert up.returncode != 0
    for backend in ("udp", "nonsense"):
        Trace(f"{name}-{backend}").assert_nothing()


@pytest.mark.parametrize("backends", ["vxlan,,udp", "udp,", "udp,udp"])
def test_a_list_with_holes_or_doubles_is_refused(backends: str) -> None:
    with pytest.raises(UsageError, match="a list of different backends is wanted"):
        command.run(["up", "--backend", backends])


def test_labs_that_are_not_up_are_named() -> None:
    with pytest.raises(LabError, match="no lab 'nobody-vxlan' is up"):
        command.run(["ping", "--name", "nobody", "--backend", "vxlan,udp"])
