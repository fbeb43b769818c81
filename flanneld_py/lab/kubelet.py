"""What makes a lab's node a node of Kubernetes: containerd, kubelet and kube-proxy, and how they are configured."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flanneld_py.errors import LabError
from flanneld_py.lab import cgroups
from flanneld_py.lab.certificates import Authority, Identity
from flanneld_py.lab.images import PAUSE
from flanneld_py.lab.kubeapi import Api
from flanneld_py.lab.kubernetes import ControlPlane, find_program
from flanneld_py.lab.state import LabDirectory
from flanneld_py.lab.topology import Node, Topology

PROXY_USER = "system:kube-proxy"
_CONFIGS = Path("/etc/kubernetes")
_SOCKET = "/run/containerd/containerd.sock"
_CONTAINERD = """version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
# Without CAP_SYS_RESOURCE nobody may lower it.
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/opt/cni/bin"
conf_dir = "/etc/cni/net.d"
"""
_HINTS = {
    "containerd": "apt install --no-install-recommends containerd runc",
    "ctr": "apt install --no-install-recommends containerd runc",
    "runc": "apt install --no-install-recommends runc",
    "iptables": "apt install iptables",
}
IMAGES = "images.tar"


def check_programs() -> None:
    """LabError if a node's program is missing, with what installs it."""
    for name, command in _HINTS.items():
        if shutil.which(name) is None:
            raise LabError(f"--kubelets: there is no {name} on PATH", hint=f"install it: {command}")
    for name in ("kubelet", "kube-proxy", "kube-scheduler"):
        find_program(name)


def group(directory: LabDirectory, node: Node) -> str:
    """The control group below which the node's containers are."""
    return f"{cgroups.group_of(directory.name)}/{node.name}"


def make_credentials(control: ControlPlane, authority: Authority, topology: Topology) -> None:
    """Certificates and kubeconfigs of the nodes."""
    for node in topology.nodes:
        addresses = [address.ip for address in node.addresses]
        user, groups = f"system:node:{node.name}", ("system:nodes",)
        identity = authority.issue(_kubelet(node), user, groups=groups, hosts=[node.name], addresses=addresses)
        control.write_kubeconfig(_kubelet(node), {"identity": identity})
    control.write_kubeconfig("kube-proxy", {"identity": authority.issue("kube-proxy", PROXY_USER)})


def grant_rights(api: Api) -> None:
    """Ensure that kube-proxy may do its work, as kubeadm does."""
    kind = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-proxier"}
    subject = {"kind": "User", "name": PROXY_USER, "apiGroup": "rbac.authorization.k8s.io"}
    binding = {**kind, "metadata": {"name": "lab-kube-proxy"}, "roleRef": role, "subjects": [subject]}
    api.ensure("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)


def write_configs(topology: Topology, node: Node, directory: LabDirectory) -> None:
    """Inside the node."""
    _CONFIGS.mkdir(exist_ok=True)
    (_CONFIGS / "containerd.toml").write_text(_CONTAINERD.format(socket=_SOCKET, pause=PAUSE))
    (_CONFIGS / "resolv.conf").write_text("")
    pki = directory.path / "pki"
    identity = Identity(pki / f"{_kubelet(node)}.crt", pki / f"{_kubelet(node)}.key")
    (_CONFIGS / "kubelet.json").write_text(json.dumps(_kubelet_config(directory, node, identity), indent=1))
    (_CONFIGS / "kube-proxy.json").write_text(json.dumps(_proxy_config(topology, directory, node), indent=1))


def containerd_argv() -> list[str]:
    return [str(shutil.which("containerd")), f"--config={_CONFIGS / 'containerd.toml'}"]


def kubelet_argv(node: Node, directory: LabDirectory) -> list[str]:
    return [
        find_program("kubelet"),
        f"--config={_CONFIGS / 'kubelet.json'}",
        f"--kubeconfig={directory.path / f'{_kubelet(node)}.kubeconfig'}",
        f"--hostname-override={node.name}",
        f"--node-ip={','.join(str(address.ip) for address in node.addresses)}",
    ]


def proxy_argv() -> list[str]:
    return [find_program("kube-proxy"), f"--config={_CONFIGS / 'kube-proxy.json'}"]


def images(topology: Topology, directory: LabDirectory) -> list[Path]:
    """The archives that every node gets: the lab's own, and those that were named."""
    return [directory.path / IMAGES, *map(Path, topology.spec.images)]


def _kubelet_config(directory: LabDirectory, node: Node, identity: Identity) -> Mapping[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(directory.path / "pki" / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(identity.certificate),
        "tlsPrivateKeyFile": str(identity.key),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{group(directory, node)}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "containerRuntimeEndpoint": f"unix://{_SOCKET}",
        "clusterDomain": "cluster.local",
        "resolvConf": str(_CONFIGS / "resolv.conf"),
        # The machine is shared with whatever else runs there: its disk and memory say nothing of the node.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "0%", "imagefs.available": "0%"},
        "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": False,
        "nodeStatusUpdateFrequency": "5s",
        # 110, the default, does not leave room for a test of many pods on two nodes.
        "maxPods": 250,
        "registryPullQPS": 0,
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
        "healthzBindAddress": "127.0.0.1",
    }


def _proxy_config(topology: Topology, directory: LabDirectory, node: Node) -> Mapping[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(directory.path / "kube-proxy.kubeconfig")},
        "hostnameOverride": node.name,
        "mode": "iptables",
        "clusterCIDR": ",".join(map(str, topology.networks)),
        # Limits of the host's, which are not for a node in a namespace to change.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        # Rules change while a test waits for them.
        "iptables": {"minSyncPeriod": "0s", "syncPeriod": "30s"},
    }


def _kubelet(node: Node) -> str:
    return f"kubelet-{node.name}"
