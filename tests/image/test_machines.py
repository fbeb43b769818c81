"""The image of other machines, by an emulator of their programs: both pumps, and what decodes bytes of others.

The tests are those of this machine's own; here they run with the interpreter and the modules of the image.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EMULATORS = {"arm64": "qemu-aarch64", "s390x": "qemu-s390x"}
"""s390x is the one with big-endian numbers."""
CHOSEN = ("tests/unit/dataplane", "tests/property/test_pump_twins.py", "tests/unit/kube/test_objects.py")


class Machine:
    """`folder` holds `rootfs`, the image's, and `tests`: pytest and what else the tests import."""

    def __init__(self, folder: Path, emulator: str) -> None:
        self._rootfs, self._emulator, self._libraries = folder / "rootfs", emulator, folder / "tests"

    def python(self, *words: str, folder: Path) -> "subprocess.CompletedProcess[str]":
        python = self._rootfs / "usr/bin/python3.13"
        environ = {"PYTHONPATH": str(self._libraries), "PYTHONDONTWRITEBYTECODE": "1", "PATH": os.environ["PATH"]}
        return subprocess.run(
            [self._emulator, "-L", self._rootfs, python, "-s", *words],
            cwd=folder,
            env=environ,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )


@pytest.fixture(params=EMULATORS)
def machine(request: pytest.FixtureRequest) -> Machine:
    emulator = shutil.which(EMULATORS[request.param])
    folder = Path(os.environ.get("FLANNELD_MACHINES", "")) / request.param
    if emulator is None or not (folder / "rootfs").is_dir():
        reason = (
            f"without qemu-user and the image for {request.param}, nothing shows that it works; tests/run --kernels"
        )
        if request.config.getoption("--require-go"):
            pytest.fail(reason)
        pytest.skip(reason)
    return Machine(folder, emulator)


@pytest.mark.timeout(900)
def test_both_pumps_pass_their_tests(machine: Machine, tmp_path: Path) -> None:
    # Not in the checkout, whose modules would be found before the image's.
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    done = machine.python("-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=0", *CHOSEN, folder=tmp_path)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 200
    assert "skipped" not in done.stdout, "the native pump, too, must have been there"


def test_the_daemon_starts(machine: Machine, tmp_path: Path) -> None:
    program = (
        "from flanneld_py.dataplane.pump import choose; import flanneld_py.daemon.app, flanneld_py.store.kube\n"
        "from flanneld_py.cli.main import main; print(choose('auto').name, main(['--version']))"
    )
    done = machine.python("-c", program, folder=tmp_path)
    assert re.fullmatch(r"flanneld \S+\nnative 0\n", done.stdout), done.stdout + done.stderr
