"""Objects in a lab's API server: nodes as a kubelet registers them, and the account that the daemons use."""

from collections.abc import Mapping, Sequence
from typing import Any

from flanneld_py.lab.kubeapi import STRATEGIC, Api
from flanneld_py.model.net import Addr, Net

NAMESPACE, ACCOUNT = "kube-flannel", "flannel"
_TOKEN_S = 24 * 3600
_RBAC = "rbac.authorization.k8s.io"
_RIGHTS = (
    (ACCOUNT, None, (("nodes", "get", "list", "watch"), ("nodes/status", "patch"))),
    (ACCOUNT, NAMESPACE, (("pods", "get"),)),
    ("flannel-events", "default", (("events", "create"),)),
)
"""What the daemons may: a role's name, its namespace if it has one, and a resource with its verbs. No more than
deploy/kubernetes/base/rbac.yaml grants, so that a lab shows whether that is enough."""

_KUBELET_ANNOTATIONS = {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}
"""Every kubelet sets it; Go flannel ends with a panic on a node that has no annotation at all (pkg/subnet/kube)."""


def create_account(api: Api) -> None:
    """Ensure that the daemons' service account exists, with its rights."""
    api.ensure("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    api.ensure(f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts", {"metadata": {"name": ACCOUNT}})
    for one in account_roles():
        place = one["metadata"].get("namespace")
        scope = f"namespaces/{place}/" if place else ""
        api.ensure(f"/apis/{_RBAC}/v1/{scope}{one['kind'].lower()}s", one)


def account_roles() -> list[dict[str, Any]]:
    """The roles of the daemons' account, and their bindings."""
    subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}
    found = []
    for name, namespace, rights in _RIGHTS:
        kind = "Role" if namespace else "ClusterRole"
        base = {
            "apiVersion": f"{_RBAC}/v1",
            "metadata": {"name": name} | ({"namespace": namespace} if namespace else {}),
        }
        rules = [{"apiGroups": [""], "resources": [what], "verbs": verbs} for what, *verbs in rights]
        reference = {"apiGroup": _RBAC, "kind": kind, "name": name}
        found.append({**base, "kind": kind, "rules": rules})
        found.append({**base, "kind": f"{kind}Binding", "roleRef": reference, "subjects": [subject]})
    return found


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
