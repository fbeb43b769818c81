"""A lab whose nodes run the udp backend, and what there is to ask of its workers."""

import socket
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from flanneld_py.lab import etcd, process, traffic
from flanneld_py.lab.namespaces import inside, processes
from flanneld_py.lab.process import Process
from flanneld_py.lab.progress import Silent
from flanneld_py.lab.topology import ETCD_PREFIX, Topology
from tests.daemon.field import Field, link
from tests.waiting import eventually

DEVICE = "flannel0"
PORT = 8285
CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


class UdpField(Field):
    """Our daemons only, with the backend udp."""

    def worker(self, number: int) -> dict[str, Any]:
        """What the node's worker counts, as the daemon says when it is asked."""
        found = self.ask(number)["worker"]
        assert found is not None, f"no worker carries packets on node {number}: {self.log(number)[-2000:]}"
        return dict(found)

    def worker_process(self, number: int) -> Process:
        found = process.find(self.worker(number)["pid"])
        assert found is not None
        return found

    def drops(self, number: int) -> dict[str, int]:
        """All that the node lost, by place and reason; {} if nothing."""
        found = self.worker(number)
        lost = {
            f"{way} {reason}": count for way in ("outbound", "inbound") for reason, count in found[way]["drops"].items()
        }
        lost |= {name: found[name] for name in ("socket_drops", "queue_drops") if found[name]}
        return lost

    def kill(self, number: int) -> None:
        assert self.lab.stop_daemon(self.node(number), hard=True), f"no daemon ran on node {number}"

    def restart(self, number: int, *flags: str) -> None:
        """Start the node's daemon with these flags of its own."""
        spec = self.lab.topology.spec
        self.lab.topology = Topology(replace(spec, daemon_flags=(*spec.daemon_flags, *flags)))
        try:
            self.lab.start_daemon(self.node(number), Silent())
        finally:
            self.lab.topology = Topology(spec)

    def wait_well(self, number: int) -> None:
        """Ensure that the node comes to have all that it wants, with every peer, and a worker."""

        def well() -> bool:
            report = self.ask(number)
            peers = report["peer_list"]
            return (
                report["stage"] == "ready"
                and report["worker"] is not None
                and not report["ops"]
                and not report["failures"]
                and len(peers) == len(self.nodes) - 1
                and not any(peer["problems"] for peer in peers)
            )

        eventually(f"node {number} is well", well, lambda: self.ask(number))

    def answers(self) -> bool:
        """Whether every pod answers every other one at once; for waiting."""
        matrix = traffic.ping_matrix(tuple(self.endpoints().values()), count=1, timeout_s=0.2)
        return not any(result.lost for result in matrix.values())

    def has_device(self, number: int) -> bool:
        return bool(link(self.namespace(number), DEVICE))

    def port_is_free(self, number: int, port: int = PORT) -> bool:
        """Whether another program could have the port of the data path."""

        def bind() -> bool:
            with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
                try:
                    sock.bind((self.public(number), port))
                except OSError:
                    return False
                return True

        return inside(self.namespace(number), bind)

    def put_config(self, text: str) -> None:
        etcd.put(self.lab.topology, f"{ETCD_PREFIX}/config", text)


def workers_in(namespace: str) -> set[int]:
    """Processes in the namespace that run the worker's module."""
    found = set()
    for pid in processes([namespace]):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"flanneld_py.dataplane.worker" in words:
            found.add(pid)
    return found


def descriptors(pid: int) -> list[str]:
    """What each open descriptor of the process is."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(str(entry.readlink()))
        except FileNotFoundError:
            continue
    return found


def status_fields(path: Path) -> dict[str, str]:
    """proc(5) /proc/PID/status."""
    return dict(line.split(":\t", 1) for line in path.read_text().splitlines() if ":\t" in line)
