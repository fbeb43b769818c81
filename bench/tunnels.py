"""Tunnels of others between the two nodes of a lab: wireguard-go and fastd, set up through their own interfaces."""

import os
import secrets
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from bench.peers import Program
from bench.wires import ip
from bench.x25519 import clamp, multiply
from flanneld_py.errors import FlannelError
from flanneld_py.lab import process, servers
from flanneld_py.lab.build import Lab
from flanneld_py.lab.process import Process
from flanneld_py.lab.progress import Progress
from flanneld_py.lab.topology import Node

READY_S = 15.0
_POLL_S = 0.02
WIREGUARD_MTU = 1420
"""What wg-quick sets for an underlay of 1500."""
WIREGUARD_SOCKETS = Path("/var/run/wireguard")
FASTD_MTU = 1450
_PORT = 51820


@dataclass(frozen=True, slots=True)
class Tunnel:
    """`pids`: its process on each node."""

    pids: tuple[int, ...]
    mtu: int
    version: str


Connect = Callable[[Lab, Program, Progress], Tunnel]


@dataclass(frozen=True, slots=True)
class _End:
    """One node's side. `device` has a name that no other lab uses: wireguard-go's sockets lie in one directory."""

    node: Node
    device: str
    private: bytes

    @property
    def public(self) -> bytes:
        return multiply(self.private)

    @property
    def address(self) -> str:
        return str(self.node.addresses[0].ip)


def _ends(lab: Lab, device: str) -> tuple[_End, ...]:
    one, other = (
        _End(node, f"{device}{os.getpid()}n{node.number}", clamp(secrets.token_bytes(32)))
        for node in lab.topology.nodes
    )
    return one, other


def uapi_request(own: bytes, port: int, peer: bytes, endpoint: str, allowed: str) -> str:
    """A `set` of wireguard's configuration protocol (wireguard.com/xplatform)."""
    lines = {
        "set": "1",
        "private_key": own.hex(),
        "listen_port": str(port),
        "replace_peers": "true",
        "public_key": peer.hex(),
        "endpoint": endpoint,
        "replace_allowed_ips": "true",
        "allowed_ip": allowed,
    }
    return "".join(f"{key}={value}\n" for key, value in lines.items()) + "\n"


def connect_wireguard(lab: Lab, program: Program, progress: Progress) -> Tunnel:
    """A wireguard-go on each node, and routes through it."""
    ends = _ends(lab, "wg")
    started = []
    for end in ends:
        environ = {**program.environment(), "LOG_LEVEL": "error"}
        log = lab.directory.log(f"wireguard-{end.node.name}")
        started.append(
            process.start([program.path, "-f", end.device], namespace=end.node.namespace, log=log, env=environ)
        )
    for end, other, runs in zip(ends, reversed(ends), started, strict=True):
        path = WIREGUARD_SOCKETS / f"{end.device}.sock"
        _wait(path.exists, runs, lab, f"wireguard-{end.node.name}", progress)
        request = uapi_request(end.private, _PORT, other.public, f"{other.address}:{_PORT}", "0.0.0.0/0")
        _configure(path, request)
        _route(lab, end, other, WIREGUARD_MTU)
    return Tunnel(_pids(started), WIREGUARD_MTU, _version(program))


def _configure(path: Path, request: str) -> None:
    """Say it on wireguard-go's socket. FlannelError: it refused."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(READY_S)
        sock.connect(str(path))
        sock.sendall(request.encode())
        with sock.makefile("r") as answers:
            answer = answers.readline().strip()
    if answer != "errno=0":
        raise FlannelError(f"wireguard-go refused its configuration: {answer or 'no answer'}")


def fastd_config(end_device: str, own: bytes, peer: bytes, address: str) -> str:
    """fastd.conf for one side (fastd.readthedocs.io)."""
    return (
        f'log level warn;\nmode tun;\ninterface "{end_device}";\nmethod "null";\nmtu {FASTD_MTU};\n'
        f'bind any:{_PORT};\nsecret "{own.hex()}";\n'
        f'peer "other" {{ key "{peer.hex()}"; remote {address}:{_PORT}; }}\n'
    )


def connect_fastd(lab: Lab, program: Program, progress: Progress) -> Tunnel:
    """A fastd on each node with method null, and routes through it."""
    ends = _ends(lab, "fd")
    keys = [_fastd_keys(program) for _ in ends]
    started = []
    for end, (own, _), (_, public), other in zip(ends, keys, reversed(keys), reversed(ends), strict=True):
        config = lab.directory.node(end.node.name) / "fastd.conf"
        config.touch(mode=0o600)
        config.write_text(fastd_config(end.device, own, public, other.address))
        log = lab.directory.log(f"fastd-{end.node.name}")
        argv = [program.path, "--config", str(config)]
        started.append(process.start(argv, namespace=end.node.namespace, log=log, env=program.environment()))
    for end, other, runs in zip(ends, reversed(ends), started, strict=True):
        _wait(lambda e=end: _has_device(e), runs, lab, f"fastd-{end.node.name}", progress)  # type: ignore[misc]
        _route(lab, end, other, FASTD_MTU)
    return Tunnel(_pids(started), FASTD_MTU, _version(program))


def _fastd_keys(program: Program) -> tuple[bytes, bytes]:
    """A secret and its public key, which is on a curve of fastd's own (ec25519-fhmqvc)."""
    result = subprocess.run(
        [program.path, "--generate-key", "--machine-readable"],
        capture_output=True, text=True, check=False, env=program.environment(),
    )  # fmt: skip
    if result.returncode != 0:
        raise FlannelError(f"fastd makes no key: {result.stderr.strip()}")
    secret = result.stdout.split()[0]
    shown = subprocess.run(
        [program.path, "--show-key", "--machine-readable", "--config", "-"],
        input=f'secret "{secret}";\n',
        capture_output=True, text=True, check=False, env=program.environment(),
    )  # fmt: skip
    if shown.returncode != 0:
        raise FlannelError(f"fastd shows no key: {shown.stderr.strip()}")
    return bytes.fromhex(secret), bytes.fromhex(shown.stdout.split()[0])


def _has_device(end: _End) -> bool:
    try:
        ip(end.node.namespace, "link", "show", end.device)
    except FlannelError:
        return False
    return True


def _route(lab: Lab, end: _End, other: _End, mtu: int) -> None:
    """Bring the device up, and send what is for the other node's pods through it."""
    namespace = end.node.namespace
    subnet = servers.read_network(lab.directory, other.node).subnets[0].network
    assert isinstance(subnet, IPv4Network)
    ip(namespace, "link", "set", end.device, "up", "mtu", str(mtu))
    ip(namespace, "route", "replace", str(subnet), "dev", end.device)


def _wait(ready: Callable[[], bool], runs: Process, lab: Lab, server: str, progress: Progress) -> None:
    deadline = time.monotonic() + READY_S
    while not ready():
        progress.check()
        if not process.alive(runs) or time.monotonic() > deadline:
            words = process.last_lines(lab.directory.log(server), 1)
            raise FlannelError(f"{server} does not start: {words[0] if words else 'it says nothing'}")
        process.wait(runs, _POLL_S)


def _pids(started: list[Process]) -> tuple[int, ...]:
    return tuple(one.pid for one in started)


def _version(program: Program) -> str:
    result = subprocess.run(
        [program.path, "--version"], capture_output=True, text=True, check=False, env=program.environment()
    )
    return next(iter(result.stdout.splitlines()), "") or program.path
