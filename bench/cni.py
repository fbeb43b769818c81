"""What does connecting a pod cost: the bare plugins, ours, ours with the daemon's help, and Go flannel's?

Interleaved rounds: in each, every way adds and deletes a pod in a namespace of its own, and then a crowd of pods at
once. A comparison is the median of the comparisons within the rounds.
"""

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from bench.report import facts
from bench.textgrid import Row, columns
from cni_plugin import launcher, program
from flanneld_py.errors import FlannelError, UsageError
from flanneld_py.lab import build, namespaces
from flanneld_py.lab.build import Lab
from flanneld_py.lab.namespaces import inside
from flanneld_py.lab.progress import Silent
from flanneld_py.lab.topology import LabSpec
from flanneld_py.pods.exchange import SOCKET

PLUGINS = Path("/usr/lib/cni")
BARE, PLAIN, RESIDENT, GO = "bare bridge", "our plugin", "resident mode", "Go plugin"
TIMEOUT_S = 60
VERSION = "1.0.0"


@dataclass(frozen=True, slots=True)
class Way:
    """How pods are connected: by `program`, with the configuration `conf`, and plugins from `path`."""

    name: str
    program: Path
    conf: dict[str, Any]
    path: Path = PLUGINS


@dataclass(slots=True)
class Figures:
    """Milliseconds by round: of one pod, and of a crowd from the first start to the last end; KiB."""

    add: list[float] = field(default_factory=list)
    delete: list[float] = field(default_factory=list)
    add_crowd: list[float] = field(default_factory=list)
    delete_crowd: list[float] = field(default_factory=list)
    rss: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Goal:
    """`value` of the figures of all ways is at most `bound`; `value` raises KeyError if a way was not measured."""

    text: str
    bound: float
    value: Callable[[dict[str, Figures]], float]


def _each(value: Callable[[float, float], float], ours: Sequence[float], base: Sequence[float]) -> float:
    return median(value(one, other) for one, other in zip(ours, base, strict=True))


def _ratio(ours: Sequence[float], base: Sequence[float]) -> float:
    return _each(lambda one, other: one / other, ours, base)


def _more(ours: Sequence[float], base: Sequence[float]) -> float:
    return _each(lambda one, other: one - other, ours, base)


GOALS = (
    Goal("our ADD beyond bare bridge, ms", 12, lambda f: _more(f[PLAIN].add, f[BARE].add)),
    Goal("our DEL beyond bare bridge, ms", 12, lambda f: _more(f[PLAIN].delete, f[BARE].delete)),
    Goal("our crowd to bare bridge's", 2, lambda f: _ratio(f[PLAIN].add_crowd, f[BARE].add_crowd)),
    Goal("our peak RSS, MiB", 12, lambda f: max(f[PLAIN].rss) / 1024),
    Goal("resident ADD to bare bridge's", 0.7, lambda f: _ratio(f[RESIDENT].add, f[BARE].add)),
)


def run(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench cni", description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=60, help="of one pod (default %(default)s)")
    parser.add_argument("--crowds", type=int, default=5, help="rounds of a crowd (default %(default)s)")
    parser.add_argument("--pods", type=int, default=20, help="in a crowd (default %(default)s)")
    parser.add_argument("--go-plugin", type=Path, metavar="PATH", help="the Go flannel's CNI plugin")
    args = parser.parse_args(argv)
    build.require_root("python -m bench cni")
    _check(args.go_plugin)
    with (
        build.temporary(LabSpec(name="bench-cni", nodes=1, pods=1), Silent()) as lab,
        TemporaryDirectory(prefix="flannel-bench-") as folder,
    ):
        bench = Bench(lab, Path(folder), args.go_plugin)
        try:
            inside(lab.topology.nodes[0].namespace, lambda: bench.measure(args.rounds, args.crowds, args.pods))
        finally:
            bench.clean()
    print("\n".join(render(bench.figures, args.pods)))
    return 0


def _check(go_plugin: Path | None) -> None:
    for path in (PLUGINS / "bridge", PLUGINS / "host-local"):
        if not path.is_file():
            raise FlannelError(f"{path} is missing", hint="apt install containernetworking-plugins")
    if go_plugin is not None and not os.access(go_plugin, os.X_OK):
        raise UsageError(f"--go-plugin={go_plugin}: is not a program")


class Bench:
    """`measure` fills `figures`, in the node's namespace."""

    def __init__(self, lab: Lab, folder: Path, go_plugin: Path | None) -> None:
        self._folder = folder
        subnet_file = lab.directory.subnet_file(lab.topology.nodes[0].name)
        if not subnet_file.with_name(SOCKET).is_socket():
            raise FlannelError("the daemon does not answer the plugin", hint="its log says why")
        self._names: list[str] = []
        plain, resident = folder / "plain", folder / "resident"
        for directory, entry in ((plain, program.own_program(None)), (resident, launcher.launched(None))):
            directory.mkdir()
            program.install(entry, directory)
        self.ways = [
            Way(BARE, PLUGINS / "bridge", self._bare(subnet_file)),
            Way(PLAIN, plain / program.NAME, self._conf(PLAIN, subnet_file)),
            # Without plugins, so that nothing but the daemon can have done it.
            Way(RESIDENT, resident / program.NAME, self._conf(RESIDENT, subnet_file), path=resident),
        ]
        if go_plugin is not None:
            self.ways.append(Way(GO, go_plugin.resolve(), self._conf(GO, subnet_file)))
        self.figures = {way.name: Figures() for way in self.ways}

    def measure(self, rounds: int, crowds: int, pods: int) -> None:
        for way in self.ways:  # bridges are made, and programs read from the disk
            self._one(way, Figures())
        for _ in range(rounds):
            for way in self.ways:
                self._one(way, self.figures[way.name])
        for _ in range(crowds):
            for way in self.ways:
                self._crowd(way, pods)

    def clean(self) -> None:
        """The namespaces of pods are gone, also after an interruption."""
        for name in self._names:
            if namespaces.exists(name):
                subprocess.run(["ip", "netns", "del", name], check=True)

    def _one(self, way: Way, figures: Figures) -> None:
        """Looking at the memory costs time, so that another pod is timed."""
        watched, timed = self._make(2)
        figures.rss.append(self._call(way, "ADD", watched, watch=True)[1])
        self._call(way, "DEL", watched)
        figures.add.append(self._call(way, "ADD", timed)[0])
        figures.delete.append(self._call(way, "DEL", timed)[0])
        self._remove([watched, timed])

    def _crowd(self, way: Way, pods: int) -> None:
        figures, names = self.figures[way.name], self._make(pods)
        with ThreadPoolExecutor(pods) as pool:
            for verb, taken in (("ADD", figures.add_crowd), ("DEL", figures.delete_crowd)):
                begin = time.perf_counter()
                processes = [self._start(way, verb, name) for name in names]
                list(pool.map(lambda process: _finish(process, way), processes))
                taken.append((time.perf_counter() - begin) * 1000)
        self._remove(names)

    def _call(self, way: Way, verb: str, name: str, *, watch: bool = False) -> tuple[float, float]:
        """Milliseconds, and KiB if they were watched."""
        begin = time.perf_counter()
        process = self._start(way, verb, name)
        rss = _peak_kib(process.pid) if watch else 0.0
        _finish(process, way)
        return (time.perf_counter() - begin) * 1000, rss

    def _start(self, way: Way, verb: str, name: str) -> "subprocess.Popen[bytes]":
        environ = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": name,
            "CNI_NETNS": str(namespaces.RUN_DIR / name),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(way.path),
            "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=bench",
            "PATH": os.environ.get("PATH", os.defpath),
        }
        pipe = subprocess.PIPE
        process = subprocess.Popen([way.program], stdin=pipe, stdout=pipe, stderr=pipe, env=environ)
        assert process.stdin is not None
        process.stdin.write(json.dumps(way.conf).encode())
        process.stdin.close()
        process.stdin = None
        return process

    def _make(self, count: int) -> list[str]:
        names = [f"bench-cni-{os.getpid()}-{len(self._names) + number}" for number in range(count)]
        self._names += names
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
        return names

    def _remove(self, names: Sequence[str]) -> None:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=True)

    def _conf(self, name: str, subnet_file: Path) -> dict[str, Any]:
        state = self._folder / name.replace(" ", "-")
        return {
            "cniVersion": VERSION,
            "name": name.replace(" ", "-"),
            "type": "flannel",
            "subnetFile": str(subnet_file),
            "dataDir": str(state / "data"),
            "ipam": {"dataDir": str(state / "networks")},
            "delegate": {"bridge": "bench0", "hairpinMode": True, "isDefaultGateway": True, "ipMasq": False},
        }

    def _bare(self, subnet_file: Path) -> dict[str, Any]:
        """What the flannel plugin would give to bridge."""
        env = dict(line.partition("=")[::2] for line in subnet_file.read_text().splitlines())
        ipam = {
            "type": "host-local",
            "dataDir": str(self._folder / "bare" / "networks"),
            "ranges": [[{"subnet": env["FLANNEL_SUBNET"].replace(".1/", ".0/")}]],
            "routes": [{"dst": env["FLANNEL_NETWORK"]}],
        }
        flannel = self._conf("bare", subnet_file)
        more = {"type": "bridge", "isGateway": True, "mtu": int(env["FLANNEL_MTU"]), "ipam": ipam}
        return {"cniVersion": VERSION, "name": "bare", **flannel["delegate"], **more}


def _finish(process: "subprocess.Popen[bytes]", way: Way) -> None:
    out, err = process.communicate(timeout=TIMEOUT_S)
    if process.returncode != 0:
        said = (out or err).decode(errors="replace").strip()[:300]
        raise FlannelError(f"{way.name} failed: {said}", hint="the figures would mean nothing")


def _peak_kib(pid: int) -> float:
    """The process's own highest resident size, without what it starts. Read until it has none any more."""
    peak = 0.0
    status = Path(f"/proc/{pid}/status")
    while True:
        try:
            line = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM:")), None)
        except OSError:
            return peak
        if line is None:
            return peak
        peak = float(line.split()[1])


def render(figures: dict[str, Figures], pods: int) -> list[str]:
    """The table, and what is promised."""
    rows: list[Row] = [("way", "ADD ms", "spread", "DEL ms", "spread", f"{pods} ADD ms", f"{pods} DEL ms", "RSS MiB")]
    for name, one in figures.items():
        crowd = [f"{median(two):.0f}" if two else "-" for two in (one.add_crowd, one.delete_crowd)]
        rows.append((name, *_spread(one.add), *_spread(one.delete), *crowd, f"{max(one.rss) / 1024:.1f}"))
    lines = [facts(), f"medians; spread: 10 % to 90 %, of {len(next(iter(figures.values())).add)} rounds"]
    lines += ["", *columns(rows)]
    if GO not in figures:
        lines.append(f"{GO}: not measured: name it with --go-plugin PATH")
    promises: list[Row] = [("promise", "value", "bound", "verdict")]
    for goal in GOALS:
        value = goal.value(figures)
        promises.append((goal.text, f"{value:.3g}", f"<= {goal.bound:g}", "kept" if value <= goal.bound else "MISSED"))
    return [*lines, "", *columns(promises)]


def _spread(samples: Sequence[float]) -> tuple[str, str]:
    ordered = sorted(samples)
    low, high = ordered[len(ordered) // 10], ordered[-1 - len(ordered) // 10]
    return f"{median(ordered):.1f}", f"{low:.1f}..{high:.1f}"
