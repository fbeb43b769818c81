"""Daemons under test in a lab's namespaces, and what the kernel there, etcd and the daemons themselves say."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flanneld_py.daemon.control import ask
from flanneld_py.lab import etcd, process
from flanneld_py.lab.namespaces import inside
from flanneld_py.lab.process import Process
from flanneld_py.lab.topology import ETCD_PREFIX
from tests.interop.cluster import DEADLINE_S, Cluster
from tests.waiting import eventually

FLANNELD = (sys.executable, "-m", "flanneld_py")
VXLAN = {"Type": "vxlan"}


@dataclass(frozen=True)
class Tables:
    """What the overlay consists of in one node's kernel.

    `neighbours`: permanent ones, address to MAC; `fdb`: MAC to outer destination; `routes`: of our protocol,
    destination to gateway and device.
    """

    neighbours: Mapping[str, str] = field(default_factory=dict)
    fdb: Mapping[str, str] = field(default_factory=dict)
    routes: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def with_peer(self, subnet: str, mac: str, public: str, dev: str = "flannel.1") -> "Tables":
        """These and all that a peer behind a tunnel needs."""
        base = subnet.partition("/")[0]
        return Tables({**self.neighbours, base: mac}, {**self.fdb, mac: public}, {**self.routes, subnet: (base, dev)})

    def with_direct(self, subnet: str, public: str, dev: str = "eth0") -> "Tables":
        return replace(self, routes={**self.routes, subnet: (public, dev)})


def ip_json(namespace: str, *words: str, tool: str = "ip") -> list[dict[str, Any]]:
    done = subprocess.run([tool, "-n", namespace, "-d", "-j", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{tool} {' '.join(words)}: {done.stderr}"
    return list(json.loads(done.stdout or "[]"))


def ip(namespace: str, words: str, tool: str = "ip") -> None:
    """Do by hand what the words say."""
    done = subprocess.run([tool, "-n", namespace, *words.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{tool} {words}: {done.stderr}"


def link(namespace: str, name: str) -> dict[str, Any]:
    """The device; {} if there is none."""
    return next((one for one in ip_json(namespace, "link", "show") if one["ifname"] == name), {})


def overlay_devices(namespace: str) -> set[str]:
    return {one["ifname"] for one in ip_json(namespace, "link", "show") if one["ifname"].startswith("flannel")}


def addresses(namespace: str, dev: str) -> set[str]:
    """Those of the device that the kernel did not make; none if it is not there."""
    shown = [one for one in ip_json(namespace, "addr", "show") if one.get("ifname") == dev]
    return {f"{a['local']}/{a['prefixlen']}" for one in shown for a in one["addr_info"] if a["scope"] != "link"}


def tables(namespace: str) -> Tables:
    """All devices together: nothing stale may hide on another one."""
    neighbours = {
        one["dst"]: one["lladdr"]
        for one in ip_json(namespace, "neigh", "show", "nud", "permanent")
        if one["dev"].startswith("flannel")
    }
    fdb = {
        one["mac"]: one["dst"]
        for one in ip_json(namespace, "fdb", "show", tool="bridge")
        if one["ifname"].startswith("flannel") and "dst" in one
    }
    routes = {
        one["dst"]: (one.get("gateway", ""), one.get("dev", ""))
        for family in ("-4", "-6")
        for one in ip_json(namespace, family, "route", "show", "proto", "241")
    }
    return Tables(neighbours, fdb, routes)


def wait_tables(namespace: str, wanted: Tables) -> None:
    eventually(f"{namespace} holds exactly {wanted}", lambda: tables(namespace) == wanted, lambda: tables(namespace))


COMPLAINTS = ("Traceback", "Exception ignored in", "was never awaited", "was never retrieved", "ResourceWarning")


def peer_value(public: str, mac: str, *, backend: str = "vxlan", vni: int = 1, **more: object) -> str:
    """A lease's text as Go flannel writes it."""
    attrs: dict[str, object] = {"PublicIP": public, "PublicIPv6": None, "BackendType": backend}
    if backend == "vxlan":
        attrs["BackendData"] = {"VNI": vni, "VtepMAC": mac}
    return json.dumps(attrs | more)


class Field(Cluster):
    """A lab that is up, with our daemons only."""

    def namespace(self, number: int) -> str:
        return self.node(number).namespace

    def hand(self, number: int, words: str, tool: str = "ip") -> None:
        ip(self.namespace(number), words, tool)

    def daemon(self, number: int) -> Process:
        return self.lab.record.processes[self.node(number).name]

    def folder(self, number: int) -> Path:
        return self.lab.directory.node(self.node(number).name)

    def log(self, number: int) -> str:
        return self.lab.directory.log(self.node(number).name).read_text()

    def ask(self, number: int) -> dict[str, Any]:
        """What the living daemon says of itself, with its difference to the kernel."""
        answers: list[dict[str, Any]] = []

        def answered() -> bool:
            answers.extend(filter(None, [ask(self.folder(number), "status")]))
            return bool(answers)

        eventually(f"the daemon of node {number} answers", answered, lambda: self.log(number)[-2000:])
        return answers[0]

    def mac(self, number: int, dev: str = "flannel.1") -> str:
        return str(link(self.namespace(number), dev)["address"])

    def public(self, number: int, version: int = 4) -> str:
        return next(str(a.ip) for a in self.node(number).addresses if a.version == version)

    def base_tables(self, number: int) -> Tables:
        """What a node's kernel should hold for the lab's own other nodes, all behind IPv4 tunnels."""
        found = Tables()
        for node in self.nodes:
            if node.number != number:
                (subnet,) = self.subnets(node.number)
                found = found.with_peer(subnet, self.mac(node.number), self.public(node.number))
        return found

    def put(self, name: str, value: str) -> None:
        """A key below subnets/, as a foreign program would write it."""
        etcd.put(self.lab.topology, f"{ETCD_PREFIX}/subnets/{name}", value)

    def call(self, number: int, *words: str, env: Mapping[str, str] = {}) -> "subprocess.CompletedProcess[str]":
        return call(self.namespace(number), *words, env=env)


def call(namespace: str, *words: str, env: Mapping[str, str] = {}) -> "subprocess.CompletedProcess[str]":
    """A `flanneld` command, run in the namespace to its end."""
    child = inside(
        namespace,
        lambda: subprocess.Popen(
            [*FLANNELD, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **env},
        ),
    )
    with child:
        try:
            out, err = child.communicate(timeout=DEADLINE_S)
        finally:
            child.kill()
    return subprocess.CompletedProcess(words, child.returncode, out, err)


class Daemon:
    """One daemon with flags of the test's own, in a namespace, with a directory of its own."""

    def __init__(self, namespace: str, folder: Path, *flags: str, env: Mapping[str, str] = {}) -> None:
        self.namespace, self.folder = namespace, folder
        self._argv = [*FLANNELD, "--iface=eth0", f"--subnet-file={folder}/subnet.env", *flags]
        self._env = env
        self._log = folder / "log"
        self._child: subprocess.Popen[bytes] | None = None

    def start(self, *flags: str, **env: str) -> "Daemon":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._log.write_bytes(b"")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("FLANNEL", "NOTIFY"))}
        with self._log.open("ab") as log:
            self._child = inside(
                self.namespace,
                lambda: subprocess.Popen(
                    [*self._argv, *flags],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**kept, "PYTHONWARNINGS": "default::ResourceWarning", **self._env, **env},
                ),
            )
        return self

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        assert self._child is not None
        return self._child

    def log(self) -> str:
        return self._log.read_text()

    def lines(self, words: str) -> list[str]:
        return [line for line in self.log().splitlines() if words in line]

    def status(self) -> dict[str, Any]:
        """status.json; {} while there is none of this run."""
        try:
            found = json.loads((self.folder / "status.json").read_text())
        except FileNotFoundError:
            return {}
        return dict(found) if found["pid"] == self.process.pid else {}

    def env(self) -> dict[str, str]:
        """subnet.env."""
        return dict(line.split("=", 1) for line in (self.folder / "subnet.env").read_text().splitlines())

    def wait_stage(self, stage: str) -> "Daemon":
        def there() -> bool:
            if self.status().get("stage") == stage:
                return True
            assert self.process.poll() is None, f"flanneld ended ({self.process.returncode}): {self.log()}"
            return False

        eventually(f"the daemon is {stage}", there, lambda: (self.status(), self.log()))
        return self

    def ready(self, *flags: str, **env: str) -> "Daemon":
        return self.start(*flags, **env).wait_stage("ready")

    def wait_exit(self, timeout_s: float = DEADLINE_S) -> int:
        return self.process.wait(timeout_s)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.wait_exit()

    def end(self) -> None:
        """Ensure that it does not run."""
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            self._child.wait()

    def complaints(self) -> list[str]:
        """What the interpreter said is wrong with the program, in the last run."""
        log = self.log() if self._child is not None else ""
        return [log] if any(words in log for words in COMPLAINTS) else []


def strip(namespace: str) -> None:
    """Remove by hand all that daemons of any kind left in the namespace's kernel."""
    for name in overlay_devices(namespace):
        ip(namespace, f"link del {name}")
    for family in ("-4", "-6"):
        ip(namespace, f"{family} route flush proto 241")


@contextmanager
def paused(daemon: Process) -> Iterator[None]:
    """The process stands still during the block, as on a machine that hangs."""
    assert process.send(daemon, signal.SIGSTOP)
    try:
        yield
    finally:
        process.send(daemon, signal.SIGCONT)
