"""Objects in a lab's API server: nodes as a kubelet registers them, and the account that the daemons use."""

from collections.abc import Mapping, Sequence
from typing import Any

from flanneld_py.lab.kubeapi import STRATEGIC, Api
from flanneld_py.model.net import Addr, Net

NAMESPACE, ACCOUNT = "kube-flannel", "flannel"
_TOKEN_S = 24 * 3600
_RULES = (
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]},
    {"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
)
"""What the published manifests of flannel grant, and Events."""

_KUBELET_ANNOTATIONS = {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}
"""Every kubelet sets it; Go flannel ends with a panic on a node that has no annotation at all (pkg/subnet/kube)."""


def create_account(api: Api) -> None:
    """Ensure that the daemons' service account exists, with its rights."""
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    kind = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": ACCOUNT}}
    subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ACCOUNT}
    api.ensure("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    api.ensure(f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts", {"metadata": {"name": ACCOUNT}})
    api.ensure(f"{rbac}/clusterroles", {**kind, "kind": "ClusterRole", "rules": _RULES})
    binding = {**kind, "kind": "ClusterRoleBinding", "roleRef": role, "subjects": [subject]}
    api.ensure(f"{rbac}/clusterrolebindings", binding)


def create_token(api: Api, seconds: int = _TOKEN_S) -> str:
    """A bearer token of the daemons' account, of the kind that a pod finds in its projected volume (600 s at least)."""
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": seconds}}
    answer = api.post(f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{ACCOUNT}/token", body)
    return str(answer["status"]["token"])


def create_node(
    api: Api,
    name: str,
    addresses: Sequence[Addr],
    *,
    annotations: Mapping[str, str] | None = None,
    pod_networks: Sequence[Net] = (),
) -> dict[str, Any]:
    """Register a node as its kubelet would; without `pod_networks` the controller manager chooses them later."""
    metadata: dict[str, object] = {"name": name, "annotations": {**_KUBELET_ANNOTATIONS, **(annotations or {})}}
    metadata["labels"] = {"kubernetes.io/os": "linux", "kubernetes.io/hostname": name}
    spec: dict[str, object] = {}
    if pod_networks:
        spec = {"podCIDR": str(pod_networks[0]), "podCIDRs": [str(net) for net in pod_networks]}
    api.post("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec})
    listed = [{"type": "InternalIP", "address": str(one)} for one in addresses]
    listed.append({"type": "Hostname", "address": name})
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "no kubelet runs here"}
    return patch_node_status(api, name, {"addresses": listed, "conditions": [ready]})


def patch_node_status(api: Api, name: str, status: Mapping[str, object]) -> dict[str, Any]:
    return api.patch(f"/api/v1/nodes/{name}/status", {"status": status}, STRATEGIC)


def annotate_node(api: Api, name: str, annotations: Mapping[str, str | None]) -> dict[str, Any]:
    """Set annotations; None removes one."""
    return api.patch(f"/api/v1/nodes/{name}", {"metadata": {"annotations": dict(annotations)}})


def read_node(api: Api, name: str) -> dict[str, Any]:
    return api.get(f"/api/v1/nodes/{name}")


def pod_networks_of(node: Mapping[str, Any]) -> tuple[str, ...]:
    """The node's podCIDRs; none as long as the controller manager has chosen none."""
    return tuple(node["spec"].get("podCIDRs") or ())
