"""A control plane in a network namespace of its own, which is also that of a node whose daemon keeps leases there."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from flanneld_py.lab import process
from flanneld_py.lab.kubernetes import ControlPlane
from flanneld_py.lab.namespaces import inside
from flanneld_py.lab.process import Process
from flanneld_py.lab.wiring import create_namespace, remove_namespace
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.stores import PREFIX, go_annotations
from tests.waiting import eventually

ADDRESS = IPv4Address("198.18.0.1")
FLANNELD = (sys.executable, "-m", "flanneld_py")


class Place(Cluster):
    """`namespace` holds the servers, at ADDRESS of its interface eth0, and the daemon of the node n1."""

    def __init__(self, folder: Path, namespace: str) -> None:
        super().__init__(folder, ["10.244.0.0/16"])
        self.namespace = namespace
        self.site = replace(self.site, namespace=namespace, address=ADDRESS)
        self.control = ControlPlane(self.site)
        self.folder = folder
        self.run_dir = folder / "run"
        self.daemon: Process | None = None
        self.write_config({"Type": "vxlan"})

    def up(self) -> "Place":
        create_namespace(self.namespace)
        inside(self.namespace, _plug)
        super().up()
        return self

    def down(self) -> None:
        """Ensure that nothing of it is left, however far `up` has come."""
        with ExitStack() as ends:
            ends.callback(remove_namespace, self.namespace)
            ends.callback(super().down)
            self.stop_daemon()

    def write_config(self, backend: dict[str, object]) -> None:
        text = json.dumps({"Network": "10.244.0.0/16", "Backend": backend})
        (self.folder / "net-conf.json").write_text(text)

    def start_daemon(self, *flags: str, wrap: Sequence[str] = (), **environ: str) -> Process:
        """The daemon of n1, as on a node that never ran one."""
        self.stop_daemon()
        shutil.rmtree(self.run_dir, ignore_errors=True)
        self.log.unlink(missing_ok=True)
        command = [
            *FLANNELD,
            "--kube-subnet-mgr",
            f"--kubeconfig-file={self.kubeconfig}",
            f"--net-config-path={self.folder / 'net-conf.json'}",
            f"--subnet-file={self.run_dir / 'subnet.env'}",
            *flags,
        ]
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "NODE_NAME": "n1"} | environ
        self.daemon = process.start([*wrap, *command], namespace=self.namespace, log=self.log, env=env)
        return self.daemon

    def stop_daemon(self) -> None:
        if self.daemon is not None:
            process.end([self.daemon])
            self.daemon = None
            inside(self.namespace, _unplug_overlay)

    @property
    def log(self) -> Path:
        return self.folder / "flanneld.log"

    def add_peer_object(self, name: str, subnet: str, number: int, images: Sequence[object]) -> None:
        """A whole node in one request, with the images that its kubelet lists."""
        annotations = go_annotations(number % 250 + 1, public_ip=str(IPv4Address("198.51.100.0") + number))
        mac = f"0a:00:00:00:{number >> 8:02x}:{number & 255:02x}"
        annotations[PREFIX + "backend-data"] = json.dumps({"VNI": 1, "VtepMAC": mac})
        metadata = {"name": name, "annotations": annotations}
        body = {"metadata": metadata, "spec": {"podCIDR": subnet, "podCIDRs": [subnet]}, "status": {"images": images}}
        self.api.post("/api/v1/nodes", body)

    def status(self) -> dict[str, Any]:
        """What status.json says; {} as long as there is none."""
        try:
            found = json.loads((self.run_dir / "status.json").read_text())
        except FileNotFoundError:
            return {}
        assert isinstance(found, dict)
        return found

    def subnet_env(self) -> str:
        try:
            return (self.run_dir / "subnet.env").read_text()
        except FileNotFoundError:
            return ""

    def routes(self) -> dict[str, str]:
        """The overlay's routes in the kernel, destination to gateway."""
        command = ["ip", "-n", self.namespace, "-j", "route", "show", "proto", "241"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return {route["dst"]: route["gateway"] for route in json.loads(done.stdout or "[]")}

    def wait(self, stage: str) -> dict[str, Any]:
        """The status, as soon as it is at `stage`."""
        eventually(f"the daemon is {stage}: {self.log}", lambda: self.status().get("stage") == stage)
        return self.status()


def _plug() -> None:
    with IPRoute() as ipr:
        ipr.link("add", ifname="eth0", kind="veth", peer="wire")
        ipr.link("set", index=ipr.link_lookup(ifname="wire")[0], state="up")
        index = ipr.link_lookup(ifname="eth0")[0]
        ipr.addr("add", index=index, address=str(ADDRESS), prefixlen=15)
        ipr.link("set", index=index, state="up")
        ipr.route("add", dst="default", gateway=str(ADDRESS + 1), oif=index)


def _unplug_overlay() -> None:
    with IPRoute() as ipr:
        for index in ipr.link_lookup(ifname="flannel.1"):
            ipr.link("del", index=index)
