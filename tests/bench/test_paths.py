"""Small runs of `bench paths`: real labs, real load, and nothing left of them."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from bench import paths, publish
from bench.datapaths import KINDS, Context
from bench.generator import Generator, LoadError, compile_load
from bench.measure import METRICS, Bench, answers
from bench.results import Results, read
from flanneld_py.lab import build
from flanneld_py.lab.namespaces import RUN_DIR
from flanneld_py.lab.progress import Silent
from flanneld_py.lab.state import STATE_DIR

NUMBERS = count(1)
DEADLINE_S = 90.0
PATIENCE = "--seconds=0.1"


@pytest.fixture
def prefix() -> Iterator[str]:
    """Of labs that no other run has; none of them is there at the end, and none has to be removed."""
    chosen = f"b{os.getpid() % 10000}x{next(NUMBERS)}"
    yield chosen
    left = traces(chosen)
    for kind in KINDS:
        build.down(f"{chosen}-{kind.name}", Silent())
    assert left == []


def traces(prefix: str) -> list[str]:
    found = [path.name for folder in (RUN_DIR, STATE_DIR) for path in folder.glob(f"{prefix}-*")]
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if f"{prefix}-".encode() in words:
            found.append(words.replace(b"\0", b" ").decode())
    return found


def run(prefix: str, out: Path, *words: str) -> tuple[int, Results]:
    code = paths.run(["--prefix", prefix, "--rounds=1", PATIENCE, "--out", str(out), *words])
    return code, read(out / publish.JSON)


def test_two_paths_are_measured(prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = run(prefix, tmp_path, "--paths=vxlan,udp")
    assert code == 0
    assert [(path.name, path.status) for path in found.paths] == [
        ("direct", "measured"), ("vxlan", "measured"), ("udp", "measured"),
    ]  # fmt: skip
    direct, vxlan, udp = ({turn.path: turn for turn in found.rounds}[name] for name in ("direct", "vxlan", "udp"))
    assert not direct.failures and not vxlan.failures and not udp.failures
    assert direct.values.keys() | udp.values.keys() == METRICS.keys()
    may_be_none = {"loss10k", "loss40k", "tcp1_retrans", "tcp4_retrans", "cpu_carrier", "cpu_daemon"}
    assert all(turn.values[name] > 0 for turn in (direct, vxlan, udp) for name in turn.values.keys() - may_be_none)
    # Packets go through the worker in the one, and through the kernel alone in the other.
    assert udp.values["cpu_carrier"] > 0
    assert vxlan.values["cpu_carrier"] == 0
    shown = capsys.readouterr().out
    assert "ratio to kernel vxlan" in shown and "TCP, 1 stream against vxlan" in shown
    assert (tmp_path / publish.MARKDOWN).read_text().startswith("# Data paths side by side")


def test_path_that_fails_does_not_end_the_run(prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = run(prefix, tmp_path, "--paths=host-gw,go-udp", "--flanneld-go=/bin/false")
    assert code == 1
    reports = {path.name: path for path in found.paths}
    assert reports["host-gw"].status == "measured"
    assert reports["go-udp"].status == "failed"
    assert reports["go-udp"].reason is not None and "ended by itself" in reports["go-udp"].reason
    assert "go-udp: failed" in capsys.readouterr().out


def test_peer_that_is_missing_is_listed(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.peers.find_fastd", lambda: None)
    code, found = run(prefix, tmp_path, "--paths=fastd")
    assert code == 0
    assert {path.name: path.status for path in found.paths} == {"direct": "measured", "fastd": "missing"}
    assert "fastd: missing" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_removes_everything(prefix: str, tmp_path: Path, number: signal.Signals) -> None:
    words = ["paths", "--prefix", prefix, "--paths=vxlan", "--seconds=5", "--out", str(tmp_path)]
    child = subprocess.Popen(
        [sys.executable, "-m", "bench", *words],
        cwd=Path(paths.__file__).parents[1], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        text = read_until(child, b"round 1")
        assert traces(prefix), text
        child.send_signal(number)
        assert child.stderr is not None
        rest = child.stderr.read()
        assert child.wait(DEADLINE_S) == 130, rest
        assert b"interrupted" in rest and b"Traceback" not in rest
    finally:
        child.kill()
        child.wait()
        if child.stderr is not None:
            child.stderr.close()


def read_until(child: "subprocess.Popen[bytes]", words: bytes) -> bytes:
    """What the child says up to these words."""
    assert child.stderr is not None
    text, poll = b"", select.poll()
    poll.register(child.stderr, select.POLLIN)
    while words not in text:
        assert poll.poll(DEADLINE_S * 1000), f"it only says: {text.decode()}"
        chunk = os.read(child.stderr.fileno(), 4096)
        assert chunk, f"it ended: {text.decode()}"
        text += chunk
    return text


def test_generator_counts_what_arrives(prefix: str) -> None:
    generator = Generator(compile_load(), lambda: None)
    kind = next(kind for kind in KINDS if kind.name == "direct")
    with kind.build(Context(Silent(), prefix)) as path, generator.serving(path.target) as server:
        bench = Bench(path, server, generator, 0.1)
        answers(bench)
        paced = bench.ask("udp", 512, 1000, seconds=0.5)
        assert paced["delivered"] == paced["sent"]
        # A slow machine sends fewer than it should, never more.
        assert 0 < paced["sent"] <= 500
        limited = bench.ask("rr", 20, "apart", seconds=30)
        assert limited["answered"] == limited["asked"] == 20
        assert 0 < limited["p50_us"] <= limited["p99_us"]
        stream = bench.ask("tcp", 4)
        assert stream["bytes"] >= 4 * (128 << 10)
        subprocess.run(["ip", "-n", path.target, "link", "set", "bare0", "down"], check=True)
        with pytest.raises(LoadError):
            bench.ask("tcp", 1)
