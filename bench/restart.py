"""Does a stream notice what happens to the daemon? Disturbed runs beside undisturbed ones, interleaved, in one lab.

A run is one TCP stream through the udp backend, and an echo 200 times a second the other way. In the middle of a
disturbed run the daemon of the sending node is killed (SIGKILL) and started again, or stopped and started from another
build, which hands the worker's descriptors over to a new one.
"""

import argparse
import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import flanneld_py
from bench.compare import ALPHA
from bench.generator import Generator, compile_load
from bench.report import facts
from bench.significance import mann_whitney
from bench.textgrid import Row, columns
from flanneld_py.daemon.control import ask
from flanneld_py.errors import FlannelError
from flanneld_py.lab import build
from flanneld_py.lab.build import Lab
from flanneld_py.lab.progress import Silent
from flanneld_py.lab.topology import LabSpec
from flanneld_py.lab.traffic import Endpoint, Probe

UNDISTURBED = "undisturbed"
_BEFORE_SHARE = 0.3
"""Of a run, before its disturbance."""
_LINGER_S = 0.5
"""For the last echoes."""


@dataclass(frozen=True, slots=True)
class Run:
    """`drops`: of both workers in that time, at any place. `lost`: echoes, of `echoes`."""

    gbit_s: float
    retransmits: int
    echoes: int
    lost: int
    drops: int


def run(argv: Sequence[str]) -> int:
    """0 if no disturbed run lost a packet by our fault, and retransmits stay within the undisturbed runs' spread."""
    parser = argparse.ArgumentParser(prog="bench restart", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one run (default %(default)g)")
    args = parser.parse_args(argv)
    build.require_root("python -m bench restart")
    generator = Generator(compile_load(), lambda: None)
    spec = LabSpec(name="bench-restart", nodes=2, pods=1, backend="udp")
    runs: dict[str, list[Run]] = {}
    with build.temporary(spec, Silent()) as lab, _other_build() as other:
        builds = [Path.cwd(), other]

        def upgrade() -> None:
            builds.reverse()
            _restart(lab, builds[0], hard=False)

        disturbances: Mapping[str, Callable[[], None]] = {
            UNDISTURBED: lambda: None,
            "daemon killed": lambda: _restart(lab, builds[0], hard=True),
            "worker upgraded": upgrade,
        }
        for _ in range(args.rounds):
            for name, disturb in disturbances.items():
                runs.setdefault(name, []).append(_run(lab, generator, args.seconds, disturb))
    print("\n".join([facts(), *columns(rows(runs))]))
    return 0 if all(is_within(found, runs[UNDISTURBED]) for found in runs.values()) else 1


def is_within(found: Sequence[Run], undisturbed: Sequence[Run]) -> bool:
    """Whether the runs lost nothing, and sent no more again than undisturbed ones may: their median is within the
    spread of those, or the difference no more than chance."""
    again, still = ([one.retransmits for one in some] for some in (found, undisturbed))
    more = median(again) > max(still) and mann_whitney(again, still) < ALPHA
    return not more and not any(one.lost or one.drops for one in found)


def rows(runs: Mapping[str, Sequence[Run]]) -> list[Row]:
    lines: list[Row] = [("runs", "Gbit/s", "retransmits", "spread", "chance", "echoes lost", "drops", "verdict")]
    still = runs[UNDISTURBED]
    for name, found in runs.items():
        again = [one.retransmits for one in found]
        chance = mann_whitney(again, [one.retransmits for one in still])
        lines.append(
            (
                f"{len(found)} {name}",
                f"{median(one.gbit_s for one in found):.2f}",
                f"{median(again):g}",
                f"{min(again)}..{max(again)}",
                "-" if name == UNDISTURBED else f"{chance:.2f}",
                f"{sum(one.lost for one in found)} of {sum(one.echoes for one in found)}",
                str(sum(one.drops for one in found)),
                "within the spread" if is_within(found, still) else "BEYOND",
            )
        )
    return lines


def _run(lab: Lab, generator: Generator, seconds: float, disturb: Callable[[], None]) -> Run:
    first, second = lab.topology.pods
    ends = [Endpoint(pod.name, pod.namespace, lab.record.pods[pod.name][0].ip) for pod in (first, second)]
    before = _drops(lab)
    with generator.serving(second.namespace) as server, Probe(ends[1], ends[0].address) as probe:
        words = ["tcp", str(ends[1].address), str(server.orders), f"{seconds:.3f}", "1"]
        with generator.running(first.namespace, words, seconds) as result:
            time.sleep(seconds * _BEFORE_SHARE)
            disturb()
            found = result()
        echoes = probe.stop(_LINGER_S)
    return Run(
        gbit_s=found["bytes"] * 8 / found["seconds"] / 1e9,
        retransmits=int(found["retransmits"]),
        echoes=echoes.sent,
        lost=len(echoes.lost),
        drops=_drops(lab) - before,
    )


def _restart(lab: Lab, directory: Path, *, hard: bool) -> None:
    """The first node's daemon ends, and starts from the package in `directory`."""
    node = lab.topology.nodes[0]
    lab.stop_daemon(node, hard=hard)
    with contextlib.chdir(directory):
        lab.start_daemon(node, Silent())


def _drops(lab: Lab) -> int:
    """All that the workers and their sockets and devices have dropped so far."""
    total = 0
    for node in lab.topology.nodes:
        answer = ask(lab.directory.node(node.name), "status")
        worker = None if answer is None else answer.get("worker")
        if not isinstance(worker, dict):
            raise FlannelError(f"the daemon on {node.name} has no worker")
        total += worker["socket_drops"] + worker["queue_drops"]
        total += sum(sum(worker[way]["drops"].values()) for way in ("outbound", "inbound"))
    return total


@contextlib.contextmanager
def _other_build() -> Iterator[Path]:
    """A directory in which `python -m flanneld_py` finds a copy of the package, which counts as another build."""
    (source,) = flanneld_py.__path__
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "flanneld_py"
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / "dataplane" / "worker.py").touch()
        yield Path(folder)
