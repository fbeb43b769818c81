"""How soon is a node ready: from exec to subnet.env, with etcd near; and what the command line costs by itself."""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence

from bench.report import Figure, render
from flanneld_py.lab import build, servers
from flanneld_py.lab.build import Lab
from flanneld_py.lab.namespaces import inside
from flanneld_py.lab.progress import Silent
from flanneld_py.lab.topology import Firewall, LabSpec, Wiring

POLL_S = 0.001
DEADLINE_S = 30.0


def run(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench start", description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    args = parser.parse_args(argv)
    build.require_root("python -m bench start")
    version = [_seconds([sys.executable, "-m", "flanneld_py", "--version"]) for _ in range(args.rounds)]
    bare = [_seconds([sys.executable, "-c", ""]) for _ in range(args.rounds)]
    fresh, again = [], []
    with build.temporary(
        LabSpec(name="bench-start", nodes=1, pods=1, wiring=Wiring.PLAIN, firewall=Firewall.NONE), Silent()
    ) as lab:
        for _ in range(args.rounds):
            again.append(_daemon(lab, fresh=False))
            fresh.append(_daemon(lab, fresh=True))
    print(
        render(
            [
                Figure("python, nothing imported", "s", bare),
                Figure("flanneld --version", "s", version, 0.1),
                Figure("daemon to subnet.env, new device", "s", fresh, 0.8),
                Figure("daemon to subnet.env, device adopted", "s", again, 0.8),
            ]
        )
    )
    return 0


def _seconds(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def _daemon(lab: Lab, *, fresh: bool) -> float:
    """Seconds from starting the daemon to its subnet.env; `fresh`: as on a node that never ran one."""
    (node,) = lab.topology.nodes
    lab.stop_daemon(node, hard=False)
    path = lab.directory.subnet_file(node.name)
    if fresh:
        command = [sys.executable, "-m", "flanneld_py", "cleanup", "--subnet-file", str(path)]
        inside(
            node.namespace,
            lambda: subprocess.run(command, check=True, timeout=DEADLINE_S, stdout=subprocess.DEVNULL),
        )
    path.unlink(missing_ok=True)
    begin = time.perf_counter()
    daemon = servers.start_daemon(lab.topology, node, lab.directory)
    while not path.exists():
        if time.perf_counter() - begin > DEADLINE_S:
            raise TimeoutError(f"no {path} after {DEADLINE_S:.0f} s")
        time.sleep(POLL_S)
    taken = time.perf_counter() - begin
    lab.save(lab.record.with_process(node.name, daemon))
    return taken
