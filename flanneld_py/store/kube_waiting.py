"""What an operator is told while a node has no slice of the network yet: in the status, and as a Kubernetes Event."""

import json
from datetime import UTC, datetime

from flanneld_py.kube.objects import Node
from flanneld_py.model.config import NetworkConfig
from flanneld_py.model.net import Subnets, of_family
from flanneld_py.store.base import Condition

EVENT_REASON = "PodCIDRNotAssigned"


def not_registered(name: str) -> Condition:
    return Condition(
        False,
        f"node {name} is not in the Kubernetes API",
        "is the kubelet running and registered? The name comes from NODE_NAME, or from the pod's spec.nodeName",
    )


def waiting_for(node: Node, cidrs: Subnets, config: NetworkConfig) -> Condition | None:
    """Why the node cannot have a lease yet; None: it has all that it needs."""
    missing = [family for family in config.families if of_family(cidrs, family.version) is None]
    if not missing:
        return None
    ranges = ",".join(str(network) for network in config.networks)
    families = " and ".join(f"IPv{family.version}" for family in missing)
    what = "no podCIDR" if not cidrs else f"no podCIDR for {families}, only {', '.join(map(str, cidrs))}"
    return Condition(
        False,
        f"node {node.name} has {what}",
        f"kube-controller-manager needs --allocate-node-cidrs=true --cluster-cidr={ranges} "
        f"(kubeadm: --pod-network-cidr={ranges}); if it has them, its range is used up: look for CIDRNotAvailable in "
        f"kubectl describe node {node.name}",
    )


def event_path(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/events"


def format_event(node: Node, told: Condition, *, namespace: str, now: float) -> bytes:
    """A Warning about the node, for `kubectl describe node` and `kubectl get events`. `now`: Unix seconds."""
    stamp = format_time(now)
    message = told.message if told.hint is None else f"{told.message}; {told.hint}"
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{node.name[:200]}.", "namespace": namespace},
            "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.metadata.uid},
            "type": "Warning",
            "reason": EVENT_REASON,
            "message": message[:1024],
            "source": {"component": "flanneld", "host": node.name},
            "reportingComponent": "flanneld",
            "reportingInstance": node.name,
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        }
    ).encode()


def format_time(now: float) -> str:
    """As the API writes a time (metav1.Time, RFC 3339)."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
