"""A control plane for tests, with what they do to it."""

import json
from base64 import b64encode
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from flanneld_py.lab import kubeobjects
from flanneld_py.lab.certificates import Authority
from flanneld_py.lab.kubeapi import Api
from flanneld_py.lab.kubernetes import API_SERVER, CONTROLLERS, ControlPlane, Site
from flanneld_py.lab.progress import Silent
from flanneld_py.lab.state import LabDirectory
from tests.etcd.server import free_ports
from tests.waiting import eventually

DEADLINE_S = 60.0
POD_NETWORKS = ("10.244.0.0/16", "fd00:10:244::/48")
SERVICE_NETWORKS = ("10.96.0.0/16", "fd00:10:96::/112")


class Cluster:
    """etcd, API server and controller manager on free ports of loopback.

    `kubeconfig`: of the daemons' account, with a token. The administrator's is `admin_kubeconfig`.
    """

    kubeconfig: Path
    token: str
    authority: Authority

    def __init__(self, folder: Path, pod_networks: Sequence[str] = POD_NETWORKS) -> None:
        api, etcd, peer = free_ports(3)
        networks = tuple(map(ip_network, pod_networks))
        versions = {net.version for net in networks}
        self.site = Site(
            LabDirectory("kubernetes", folder),
            ip_address("127.0.0.1"),
            None,
            networks,
            tuple(net for net in map(ip_network, SERVICE_NETWORKS) if net.version in versions),
            api_port=api,
            etcd_port=etcd,
            etcd_peer_port=peer,
        )
        self.control = ControlPlane(self.site)

    def up(self) -> "Cluster":
        self.authority = self.control.make_credentials()
        self.control.up(Silent())
        kubeobjects.create_account(self.api)
        self.token = kubeobjects.create_token(self.api)
        self.kubeconfig = self.control.write_kubeconfig("flannel", {"token": self.token})
        return self

    def down(self) -> None:
        self.control.down()

    def new_token(self) -> str:
        """Another token of the daemons' account."""
        return kubeobjects.create_token(self.api, 3600)

    @property
    def url(self) -> str:
        return self.site.api_url

    @property
    def ca(self) -> Path:
        return self.site.pki / "ca.crt"

    @property
    def admin_kubeconfig(self) -> Path:
        return self.site.kubeconfig("admin")

    @property
    def api(self) -> Api:
        return self.control.api

    def add_node(
        self, name: str, *addresses: str, annotations: dict[str, str] | None = None, pod_networks: Sequence[str] = ()
    ) -> dict[str, Any]:
        """A node as its kubelet registers it; with `pod_networks`, the controller manager leaves them as they are."""
        own = [ip_address(text) for text in addresses or ("192.0.2.1",)]
        nets = tuple(map(ip_network, pod_networks))
        return kubeobjects.create_node(self.api, name, own, annotations=annotations, pod_networks=nets)

    def node(self, name: str) -> dict[str, Any]:
        return kubeobjects.read_node(self.api, name)

    def annotations(self, name: str) -> dict[str, str]:
        return dict(self.node(name)["metadata"].get("annotations") or {})

    def annotate(self, name: str, **annotations: str | None) -> None:
        kubeobjects.annotate_node(self.api, name, annotations)

    def pod_networks(self, name: str) -> tuple[str, ...]:
        """What the controller manager chose for the node; waits until it has."""
        eventually(f"{name} has podCIDRs", lambda: kubeobjects.pod_networks_of(self.node(name)))
        return kubeobjects.pod_networks_of(self.node(name))

    def delete_node(self, name: str) -> bool:
        return self.api.delete(f"/api/v1/nodes/{name}")

    def events(self, name: str) -> list[dict[str, Any]]:
        """A daemon's Events about the node, in the order of their creation. Controllers write others."""
        listed = self.api.get("/api/v1/events?limit=5000")["items"]
        ours = (event for event in listed if event["source"].get("component") == "flanneld")
        return [event for event in ours if event["involvedObject"].get("name") == name]

    def start_api_server(self) -> None:
        """Start it again and wait until it is ready. In the main thread: it ends with the one that starts it."""
        self.control.start(API_SERVER)
        self.control.wait_for_api(Silent())

    def compact(self) -> None:
        """Make etcd forget all but the present: an API server started after this knows no older version."""
        revision = int(self._etcd("kv/range", {"key": b64encode(b"any").decode()})["header"]["revision"])
        self._etcd("kv/compaction", {"revision": str(revision), "physical": True})

    def restore(self) -> None:
        """Ensure that all servers run and that there are no nodes and no Events."""
        for name in (API_SERVER, CONTROLLERS):
            if name not in self.control.processes:
                self.control.start(name)
        self.control.wait_for_api(Silent())
        self.api.delete("/api/v1/nodes")
        self.api.delete("/api/v1/namespaces/default/events")

    def _etcd(self, call: str, body: dict[str, object]) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.site.etcd_port}/v3/{call}"
        with urlopen(Request(url, json.dumps(body).encode()), timeout=DEADLINE_S) as response:
            answer = json.loads(response.read())
        assert isinstance(answer, dict)
        return answer
