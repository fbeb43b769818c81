"""Where a lab's leases are: a real etcd, or a real Kubernetes API server. Both run in the router's namespace."""

import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Protocol

from flanneld_py.errors import LabError
from flanneld_py.lab import etcd, kubelet, kubeobjects
from flanneld_py.lab.kubernetes import API_SERVER, CONTROLLERS, SCHEDULER, ControlPlane, Site, find_program
from flanneld_py.lab.process import Process
from flanneld_py.lab.progress import Progress
from flanneld_py.lab.state import ETCD, LabDirectory
from flanneld_py.lab.topology import ETCD_PREFIX, Store, Topology, Wiring

Started = Callable[[str, Process], None]
_TOKEN_S = 365 * 24 * 3600
"""A lab may stay for long; nobody renews the token in its kubeconfig."""
_NETWORKS_S = 30.0
_POLL_S = 0.05


class LeaseServers(Protocol):
    """The servers of one kind of store. `begin` and `finish` tell `started` of each process as soon as it runs."""

    address: str

    def check_programs(self) -> None:
        """LabError if one of them is missing, with what installs it."""

    def begin(self, started: Started) -> None:
        """Start them; they are not ready yet."""

    def finish(self, started: Started, progress: Progress) -> None:
        """Ensure that they are ready, and hold all that the daemons need to begin."""

    def daemon_flags(self) -> list[str]:
        """How a daemon finds them."""


def servers_of(topology: Topology, directory: LabDirectory) -> LeaseServers:
    kinds: dict[Store, Callable[[Topology, LabDirectory], LeaseServers]] = {
        Store.ETCD: EtcdServers,
        Store.KUBERNETES: KubernetesServers,
    }
    return kinds[topology.spec.store](topology, directory)


class EtcdServers:
    def __init__(self, topology: Topology, directory: LabDirectory) -> None:
        self._topology, self._directory = topology, directory
        self.address = topology.etcd_url

    def check_programs(self) -> None:
        etcd.find_etcd()

    def begin(self, started: Started) -> None:
        self._server = etcd.start_etcd(etcd.find_etcd(), self._topology, self._directory)
        started(ETCD, self._server)

    def finish(self, started: Started, progress: Progress) -> None:
        progress.step("etcd: waiting until it is healthy")
        etcd.wait_for_etcd(self._server, self._topology, self._directory, progress)
        etcd.put_config(self._topology)

    def daemon_flags(self) -> list[str]:
        return [f"-etcd-endpoints={self._topology.etcd_url}", f"-etcd-prefix={ETCD_PREFIX}"]


class KubernetesServers:
    """Nodes are registered by the lab, as a kubelet would; their networks come from the controller manager."""

    def __init__(self, topology: Topology, directory: LabDirectory) -> None:
        self._topology, self._directory = topology, directory
        self.site = site(topology, directory)
        self.address = self.site.api_url

    @cached_property
    def control(self) -> ControlPlane:
        return ControlPlane(self.site)

    @property
    def net_conf(self) -> Path:
        return self._directory.path / "net-conf.json"

    def check_programs(self) -> None:
        for name in (ETCD, API_SERVER, CONTROLLERS):
            find_program(name)
        if self.site.kubelets:
            kubelet.check_programs()

    def begin(self, started: Started) -> None:
        authority = self.control.make_credentials()
        if self.site.kubelets:
            kubelet.make_credentials(self.control, authority, self._topology)
        self.net_conf.write_text(self._topology.net_config() + "\n")
        for name in (ETCD, API_SERVER):
            started(name, self.control.start(name))

    def finish(self, started: Started, progress: Progress) -> None:
        progress.step("kubernetes: waiting until the API server is ready")
        self.control.wait_for_api(progress)
        started(CONTROLLERS, self.control.start(CONTROLLERS))
        api = self.control.api
        if self._topology.spec.manifest is None:
            kubeobjects.create_account(api)
            self.control.write_kubeconfig(kubeobjects.ACCOUNT, {"token": kubeobjects.create_token(api, _TOKEN_S)})
        if self.site.kubelets:
            started(SCHEDULER, self.control.start(SCHEDULER))
            kubelet.grant_rights(api)
            return
        for node in self._topology.nodes:
            kubeobjects.create_node(api, node.name, [address.ip for address in node.addresses])
        progress.step("kubernetes: waiting until each node has its network")
        self.wait_for_networks(progress)

    def wait_for_networks(self, progress: Progress) -> None:
        """Ours would wait itself; Go flannel ends, and where a kubelet runs it is started again."""
        api, deadline = self.control.api, time.monotonic() + _NETWORKS_S
        for node in self._topology.nodes:
            while not kubeobjects.pod_networks_of(kubeobjects.read_node(api, node.name)):
                progress.check()
                if time.monotonic() > deadline:
                    log = self._directory.log(CONTROLLERS)
                    raise LabError(f"{CONTROLLERS} gave {node.name} no network", hint=f"its log is {log}")
                time.sleep(_POLL_S)

    def daemon_flags(self) -> list[str]:
        config = self.site.kubeconfig(kubeobjects.ACCOUNT)
        return ["-kube-subnet-mgr", f"-kubeconfig-file={config}", f"-net-config-path={self.net_conf}"]


def site(topology: Topology, directory: LabDirectory) -> Site:
    """Where the lab's API server is: an address of the router, which every node reaches."""
    return Site(
        directory,
        topology.etcd_address,
        topology.router,
        pod_networks=topology.networks,
        service_networks=topology.service_networks,
        kubelets=topology.spec.wiring is Wiring.KUBELETS,
    )
