"""A real Kubernetes control plane: etcd, kube-apiserver, kube-controller-manager, and what it takes to talk to them.

Its programs come from `tests/kubernetes/build`, which keeps them in the user's cache, or from PATH. Everything listens
at one address; certificates, kubeconfigs and logs are in the lab's directory.
"""

import base64
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from flanneld_py.errors import LabError
from flanneld_py.lab import process
from flanneld_py.lab.certificates import Authority, Identity, write_key
from flanneld_py.lab.kubeapi import Api
from flanneld_py.lab.process import Process
from flanneld_py.lab.progress import Progress, ended
from flanneld_py.lab.state import LabDirectory
from flanneld_py.model.net import Addr, Net

READY_S = 90.0
_POLL_S = 0.05
_STOP_S = 3.0
"""An API server waits longer for its watches to end, which is nothing to wait for."""
ETCD, API_SERVER, CONTROLLERS, SCHEDULER = "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"
_NODE_SUBNET = {4: 24, 6: 64}
_NODE_CONTROLLERS = "node-ipam-controller,namespace-controller,serviceaccount-controller"
"""Without kubelets: the others would find every node dead after 40 s."""


def find_program(name: str, search: str | None = None) -> str:
    """The path of a program of Kubernetes, or of the etcd built with them."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flanneld_py" / "kubernetes"
    built = sorted(cache.glob("v*/bin"), key=lambda path: [int(n) for n in re.findall(r"\d+", path.parent.name)])
    path = os.pathsep.join([*map(str, reversed(built)), search or os.environ.get("PATH", os.defpath)])
    if (found := shutil.which(name, path=path)) is None:
        raise LabError(
            f"there is no {name}, neither built nor on PATH",
            hint=f"build it in a checkout: tests/kubernetes/build {name}",
        )
    return found


@dataclass(frozen=True, slots=True)
class Site:
    """Where a control plane runs, and the networks that it hands out, IPv4 first.

    `namespace`: None for that of the caller, with whom they end then. `kubelets`: whether nodes have a kubelet, so that
    all controllers run.
    """

    directory: LabDirectory
    address: Addr
    namespace: str | None
    pod_networks: tuple[Net, ...]
    service_networks: tuple[Net, ...]
    api_port: int = 6443
    etcd_port: int = 2379
    etcd_peer_port: int = 2380
    kubelets: bool = False

    @property
    def api_url(self) -> str:
        return f"https://{_host(self.address)}:{self.api_port}"

    @property
    def pki(self) -> Path:
        return self.directory.path / "pki"

    def kubeconfig(self, user: str) -> Path:
        return self.directory.path / f"{user}.kubeconfig"


class ControlPlane:
    """A control plane at a site, whether it runs or not. `make_credentials` comes before the first start."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.processes: dict[str, Process] = {}

    @cached_property
    def api(self) -> Api:
        """As the administrator."""
        pki = self.site.pki
        admin = Identity(pki / "admin.crt", pki / "admin.key")
        return Api(self.site.address, self.site.api_port, pki / "ca.crt", admin, namespace=self.site.namespace)

    def make_credentials(self) -> Authority:
        """Certificates and kubeconfigs of the control plane; the authority, for those of nodes."""
        site = self.site
        authority = Authority(site.pki)
        write_key(site.pki / "serviceaccounts.key")
        names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost")
        addresses = {site.address, *(net[1] for net in site.service_networks)}
        authority.issue("apiserver", "kube-apiserver", hosts=names, addresses=addresses)
        authority.issue("apiserver-kubelet", "kube-apiserver-kubelet-client", groups=("system:masters",))
        for file, name, groups in (
            ("admin", "kubernetes-admin", ("system:masters",)),
            (CONTROLLERS, "system:kube-controller-manager", ()),
            (SCHEDULER, "system:kube-scheduler", ()),
        ):
            self.write_kubeconfig(file, {"identity": authority.issue(file, name, groups=groups)})
        return authority

    def write_kubeconfig(self, user: str, credential: Mapping[str, Identity | str]) -> Path:
        """A kubeconfig that holds all it needs; `credential`: {"identity": ...} or {"token": ...}."""
        path = self.site.kubeconfig(user)
        path.touch(mode=0o600)
        path.write_text(kubeconfig(self.site.api_url, self.site.pki / "ca.crt", **credential))  # type: ignore[arg-type]
        return path

    def start(self, name: str) -> Process:
        """Start one of the servers; it is not ready yet. Without a namespace it ends with the calling thread."""
        argv = [find_program(name), *_FLAGS[name](self.site)]
        if self.site.namespace is None:
            # Nothing else would tell whoever comes later that they are there.
            argv = [shutil.which("setpriv") or "/usr/bin/setpriv", "--pdeathsig=KILL", "--", *argv]
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("ETCD_", "KUBE"))}
        log = self.site.directory.log(name)
        self.processes[name] = process.start(argv, namespace=self.site.namespace, log=log, env=environ)
        return self.processes[name]

    def wait_for_api(self, progress: Progress) -> None:
        """Ensure that the API server is ready. LabError with its last words if it is not, or etcd is not."""
        deadline = time.monotonic() + READY_S
        while not self.api.ready():
            progress.check()
            for name in (ETCD, API_SERVER):
                if name in self.processes and process.wait(self.processes[name], _POLL_S):
                    raise ended(name, self.site.directory, progress)
            if time.monotonic() > deadline:
                log = self.site.directory.log(API_SERVER)
                raise LabError(f"{API_SERVER} is not ready after {READY_S:.0f} s", hint=f"its log is {log}")

    def up(self, progress: Progress, started: Callable[[str, Process], object] = lambda *_: None) -> None:
        """Start all servers and wait until they can be used. `started` is told each as soon as it runs."""
        progress.step("kubernetes: starting etcd and the API server")
        for name in (ETCD, API_SERVER):
            started(name, self.start(name))
        self.wait_for_api(progress)
        for name in (CONTROLLERS, SCHEDULER) if self.site.kubelets else (CONTROLLERS,):
            progress.step(f"kubernetes: starting {name}")
            started(name, self.start(name))

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """Ensure that the server does not run."""
        if (server := self.processes.pop(name, None)) is not None:
            process.send(server, number)
            process.end([server], _STOP_S)

    def down(self) -> None:
        """Ensure that none of the servers runs. What they stored stays."""
        for name in (SCHEDULER, CONTROLLERS, API_SERVER, ETCD):
            self.stop(name)
        # One that nobody has used would only be made here, of certificates that there may not be.
        if "api" in vars(self):
            self.api.close()


def kubeconfig(url: str, ca: Path, *, identity: Identity | None = None, token: str | None = None) -> str:
    """The text of a kubeconfig; JSON, which is YAML."""
    user: dict[str, str] = {} if token is None else {"token": token}
    if identity is not None:
        user = {"client-certificate-data": _b64(identity.certificate), "client-key-data": _b64(identity.key)}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {"server": url, "certificate-authority-data": _b64(ca)}}],
        "users": [{"name": "lab", "user": user}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "current-context": "lab",
    }
    return json.dumps(config, indent=1) + "\n"


def _etcd_flags(site: Site) -> list[str]:
    client, peer = (f"http://127.0.0.1:{port}" for port in (site.etcd_port, site.etcd_peer_port))
    return [
        "--name=lab",
        f"--data-dir={site.directory.etcd_data()}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=lab={peer}",
        # A single member has nobody to wait for: the defaults only make it elect itself a second later.
        "--heartbeat-interval=50",
        "--election-timeout=500",
        # What is here outlives no power failure, and need not.
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def _api_server_flags(site: Site) -> list[str]:
    pki, issuer = site.pki, "https://kubernetes.default.svc"
    # The Service of the API server itself leads to the advertised address, which cannot be a loopback one.
    reconciler = "none" if site.address.is_loopback else "lease"
    return [
        f"--etcd-servers=http://127.0.0.1:{site.etcd_port}",
        f"--bind-address={site.address}",
        f"--advertise-address={site.address}",
        f"--secure-port={site.api_port}",
        f"--endpoint-reconciler-type={reconciler}",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--kubelet-client-certificate={pki / 'apiserver-kubelet.crt'}",
        f"--kubelet-client-key={pki / 'apiserver-kubelet.key'}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-issuer={issuer}",
        f"--service-account-key-file={pki / 'serviceaccounts.key'}",
        f"--service-account-signing-key-file={pki / 'serviceaccounts.key'}",
        f"--service-cluster-ip-range={_comma(site.service_networks)}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        "--shutdown-send-retry-after=false",
    ]


def _controllers_flags(site: Site) -> list[str]:
    sizes = [f"--node-cidr-mask-size-ipv{net.version}={_NODE_SUBNET[net.version]}" for net in site.pod_networks]
    if len(sizes) == 1:
        sizes = [f"--node-cidr-mask-size={_NODE_SUBNET[site.pod_networks[0].version]}"]
    return [
        f"--kubeconfig={site.kubeconfig(CONTROLLERS)}",
        "--allocate-node-cidrs",
        f"--cluster-cidr={_comma(site.pod_networks)}",
        f"--service-cluster-ip-range={_comma(site.service_networks)}",
        *sizes,
        f"--service-account-private-key-file={site.pki / 'serviceaccounts.key'}",
        f"--root-ca-file={site.pki / 'ca.crt'}",
        "--use-service-account-credentials",
        "--leader-elect=false",
        # It serves nothing that anybody here would ask for.
        "--secure-port=0",
        # Its own default of 20 requests a second would take minutes to number a thousand nodes.
        "--kube-api-qps=1000",
        "--kube-api-burst=2000",
        *([] if site.kubelets else [f"--controllers={_NODE_CONTROLLERS}"]),
    ]


def _scheduler_flags(site: Site) -> list[str]:
    config = str(site.kubeconfig(SCHEDULER))
    return [f"--kubeconfig={config}", "--leader-elect=false", "--secure-port=0"]


_FLAGS: dict[str, Callable[[Site], list[str]]] = {
    ETCD: _etcd_flags,
    API_SERVER: _api_server_flags,
    CONTROLLERS: _controllers_flags,
    SCHEDULER: _scheduler_flags,
}


def _host(address: Addr) -> str:
    return str(address) if address.version == 4 else f"[{address}]"


def _comma(networks: Sequence[Net]) -> str:
    return ",".join(map(str, networks))


def _b64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
