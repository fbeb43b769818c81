"""The command line's front door: commands, near misses, exit codes."""

import subprocess
import sys

import pytest

from flanneld_py.cli.main import main
from flanneld_py.version import VERSION


@pytest.mark.parametrize("words", [["--version"], ["-version"], ["version"], ["run", "--version"]])
def test_version_is_printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert capsys.readouterr().out == f"flanneld {VERSION}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stauts"], "there is no command 'stauts'; did you mean status?"),
        (["zzz"], "commands are run, status, cleanup"),
        (["--ifcae=eth0"], "did you mean --iface?"),
        (["--subnet-lease-renew-margin=x"], "is not a whole number"),
        (["--etcd-endpoints="], "names none"),
    ],
)
def test_a_wrong_word_is_one_line_and_2(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert shown.err.startswith("flanneld: ")
    assert said in shown.err


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m flanneld_py --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_the_version_imports_nothing_of_the_daemon() -> None:
    code = "import sys; from flanneld_py.cli.main import main; main(['--version']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    heavy = {"asyncio", "uvloop", "grpc", "pyroute2", "etcd3", "flanneld_py.daemon"}
    assert heavy.isdisjoint(done.stdout.split())
