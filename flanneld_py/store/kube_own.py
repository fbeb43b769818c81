"""Our own node in the Kubernetes API: the slice it was given, and what we publish of it."""

import asyncio
import json
import logging
import re
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from random import Random

from flanneld_py.errors import StoreError, UsageError
from flanneld_py.kube.client import KubeClient
from flanneld_py.kube.listwatch import Deleted, Listed, ListWatch
from flanneld_py.kube.objects import Node, decode_node, decode_pod_node
from flanneld_py.kube.verdict import Refused
from flanneld_py.model.backoff import Backoff
from flanneld_py.model.config import NetworkConfig
from flanneld_py.model.lease import Lease, LeaseAttrs
from flanneld_py.model.net import Addr, Subnets, inside, of_family
from flanneld_py.store.base import Condition, LeaseRequest, PublicWishes
from flanneld_py.store.conditions import Conditions
from flanneld_py.store.kube_codec import (
    FAMILIES,
    Names,
    cidrs_of,
    decode_address,
    decode_attrs,
    encode_annotations,
)
from flanneld_py.store.kube_waiting import event_path, format_event, format_time, not_registered, waiting_for

_log = logging.getLogger(__name__)

NODES = "/api/v1/nodes"
EVENTS_NAMESPACE = "default"
"""Where the API wants the events of objects that have no namespace."""
PATIENCE_S = 10.0
"""How long a new node may be without a slice until an Event says so: the controller needs a moment for each."""
_TOLD_EVERY_S = 1800.0
_PACE_S = (1.0, 30.0)
_CALM_S = 60.0
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class NodeRef:
    """Our node: by its name, or as the one that our pod runs on."""

    name: str | None = None
    namespace: str | None = None
    pod: str | None = None

    def __post_init__(self) -> None:
        """UsageError: neither is given, or is no name (which would make another path of the API)."""
        if not self.name and not (self.namespace and self.pod):
            raise UsageError(
                "--kube-subnet-mgr: which node is this? Neither NODE_NAME nor POD_NAME and POD_NAMESPACE are set",
                hint="set NODE_NAME from spec.nodeName in the pod's env, or to the name in kubectl get nodes",
            )
        for variable, text in (("NODE_NAME", self.name), ("POD_NAMESPACE", self.namespace), ("POD_NAME", self.pod)):
            if text and not _NAME.fullmatch(text):
                raise UsageError(f"{variable}={text[:60]!a}: is no name of the Kubernetes API")


@dataclass(frozen=True, slots=True)
class _Held:
    """What we publish, and the lease that this makes ours."""

    annotations: dict[str, str | None]
    lease: Lease


class OwnNode:
    def __init__(
        self,
        client: KubeClient,
        ref: NodeRef,
        names: Names,
        conditions: Conditions,
        *,
        rng: Random,
        clock: Callable[[], float],
        patience_s: float,
    ) -> None:
        self._client = client
        self._ref = ref
        self._names = names
        self._conditions = conditions
        self._clock = clock
        self._patience_s = patience_s
        self._name = ref.name or ""
        self._held: _Held | None = None
        self._announced = False
        self._pace = Backoff(*_PACE_S, rng)
        self._acquired_at: float | None = None
        self._rng = rng

    async def name(self) -> str:
        """Our node's name. StoreError: our pod is not there, or on no node."""
        if not self._name:
            pod = f"{self._ref.namespace}/{self._ref.pod}"
            hint = "POD_NAME and POD_NAMESPACE must be those of this pod; or set NODE_NAME"
            try:
                path = f"/api/v1/namespaces/{self._ref.namespace}/pods/{self._ref.pod}"
                name = await self._client.get(f"get pod {pod}", path, decode_pod_node)
            except Refused as error:
                raise StoreError(error.message, hint=hint) from None
            if not name:
                raise StoreError(f"pod {pod} is on no node", hint=hint)
            self._name = name
            _log.info("pod %s runs on node %s", pod, name)
        return self._name

    async def _get(self) -> Node | None:
        name = await self.name()
        try:
            return await self._client.get(f"get node {name}", f"{NODES}/{name}", decode_node)
        except Refused as error:
            if error.status != 404:
                raise
            return None

    async def wishes(self) -> PublicWishes:
        """Waits until the node is there."""
        node = await self._until(lambda found: None)
        four, six = (self._operator(self._names.wished(version), node, version) for version in FAMILIES)
        return PublicWishes(
            four if isinstance(four, IPv4Address) else None, six if isinstance(six, IPv6Address) else None
        )

    async def stored(self) -> LeaseAttrs | None:
        """What the node published last."""
        node = await self._get()
        if node is None or self._names.managed not in node.annotations:
            return None
        try:
            return decode_attrs(self._names, node.annotations)
        except ValueError as error:
            _log.warning("node %s: what it published before cannot be used: %s", node.name, error)
            return None

    async def now(self) -> Lease | None:
        """Our lease, if the node still has what makes it ours."""
        node = await self._get()
        return None if node is None else self.lease_in(node)

    def lease_in(self, node: Node) -> Lease | None:
        """Our lease, if `node` is ours and as we left it. Its annotations alone would not tell: an operator's address
        may stand in the place of the one we have."""
        held = self._held
        if held is None or node.name != self._name or not _is_so(node, held.annotations):
            return None
        versions = {net.version for net in held.lease.subnets}
        given = tuple(net for net in cidrs_of(node) if net.version in versions)
        return held.lease if given == held.lease.subnets else None

    async def acquire(self, request: LeaseRequest) -> Lease:
        """Publish the node under the slice that it has; waits for the node, and for the slice."""
        await self._pause()
        while True:
            node = await self._until(lambda found: waiting_for(found, cidrs_of(found), request.config))
            lease = Lease(_subnets(node, request.config), request.attrs)
            overwrites: dict[int, Addr] = {}
            for version in FAMILIES:
                address = self._operator(self._names.overwrite(version), node, version)
                if address is not None:
                    overwrites[version] = address
            annotations = encode_annotations(self._names, request.attrs, overwrites)
            self._held = _Held(annotations, lease)
            try:
                await self._publish(node, annotations)
            except Refused as error:
                # 404: the node was deleted meanwhile; 409: somebody else has written it.
                if error.status not in (404, 409):
                    raise
                _log.info("%s; reading the node again", error.message)
                await asyncio.sleep(self._pace.next_s())
                continue
            self._acquired_at = asyncio.get_running_loop().time()
            if self._announced:
                await self.announce()
            return lease

    async def _publish(self, node: Node, annotations: dict[str, str | None]) -> None:
        changes = {name: text for name, text in annotations.items() if node.annotations.get(name) != text}
        if not changes:
            _log.info("node %s: published already", node.name)
            return
        body = json.dumps({"metadata": {"annotations": changes}}, ensure_ascii=False).encode()
        await self._client.patch(f"patch nodes/status of {node.name}", f"{NODES}/{node.name}/status", body, decode_node)
        _log.info("node %s: published %s", node.name, ", ".join(sorted(changes)))

    async def _pause(self) -> None:
        """Slow down where somebody else changes the node each time that we have (a second daemon on the node)."""
        if self._acquired_at is None:
            return
        if asyncio.get_running_loop().time() - self._acquired_at > _CALM_S:
            self._pace.reset()
            return
        await asyncio.sleep(self._pace.next_s())

    async def _until(self, why_not: Callable[[Node], Condition | None]) -> Node:
        """Our node, as soon as there is no reason why not; the reason is told until then."""

        def judge(node: Node | None) -> Condition | None:
            if node is None:
                return not_registered(self._name)
            try:
                return why_not(node)
            except ValueError as error:
                return Condition(False, f"node {node.name}: {error}", f"kubectl get node {node.name} -o yaml")

        node = await self._get()
        waiting = _Waiting(node, judge(node))
        async with asyncio.TaskGroup() as group:
            teller = group.create_task(self._tell_events(waiting))
            try:
                while waiting.node is None or waiting.reason is not None:
                    self._conditions.missing("node", waiting.reason)
                    await self._next(waiting, judge)
            finally:
                teller.cancel()
                self._conditions.missing("node", None)
        return waiting.node

    async def _next(self, waiting: "_Waiting", judge: Callable[[Node | None], Condition | None]) -> None:
        """Follow our node until there is no reason to wait."""
        mine = {"fieldSelector": f"metadata.name={self._name}"}
        conversation = ListWatch(lambda found: found, self._rng, params=mine)
        async with aclosing(self._client.follow("list nodes", NODES, conversation)) as messages:
            async for message in messages:
                if isinstance(message, Listed):
                    waiting.node = next(iter(message.objects), None)
                else:
                    waiting.node = None if isinstance(message, Deleted) else message.object
                waiting.reason = judge(waiting.node)
                if waiting.reason is None:
                    return
                self._conditions.missing("node", waiting.reason)

    async def _tell_events(self, waiting: "_Waiting") -> None:
        """Put it where operators look who know nothing of us: `kubectl describe node`."""
        await asyncio.sleep(self._patience_s)
        while True:
            if waiting.node is not None and waiting.reason is not None:
                event = format_event(waiting.node, waiting.reason, namespace=EVENTS_NAMESPACE, now=self._clock())
                try:
                    await self._client.create("create events", event_path(EVENTS_NAMESPACE), event)
                except Refused as error:
                    _log.warning("no Event was written: %s", error)
                await asyncio.sleep(_TOLD_EVERY_S)
            else:
                await asyncio.sleep(self._patience_s)

    async def announce(self) -> None:
        """Clear the node's condition NetworkUnavailable, which keeps pods away; again whenever the lease is taken anew.

        The words are flannel's, which other tools look for (pkg/subnet/kube/kube.go).
        """
        self._announced = True
        now = format_time(self._clock())
        condition = {
            "type": "NetworkUnavailable",
            "status": "False",
            "reason": "FlannelIsUp",
            "message": "Flannel is running on this node",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        name = await self.name()
        try:
            body = json.dumps({"status": {"conditions": [condition]}}).encode()
            await self._client.patch(f"patch nodes/status of {name}", f"{NODES}/{name}/status", body, decode_node)
        except Refused as error:
            _log.warning("the condition NetworkUnavailable of node %s is not cleared: %s", name, error.message)

    def _operator(self, annotation: str, node: Node, version: int) -> Addr | None:
        try:
            return decode_address(annotation, node.annotations, version)
        except ValueError as error:
            _log.warning("node %s: %s; it is not used", node.name, error)
            return None


@dataclass(slots=True)
class _Waiting:
    node: Node | None
    reason: Condition | None


def _is_so(node: Node, annotations: dict[str, str | None]) -> bool:
    return all(node.annotations.get(name) == text for name, text in annotations.items())


def _subnets(node: Node, config: NetworkConfig) -> Subnets:
    """The node's slice, of each family in use. StoreError: it is no part of the network."""
    found: Subnets = ()
    given = cidrs_of(node)
    for family in config.families:
        net = of_family(given, family.version)
        if net is None or not inside(net, family.network):
            key = "Network" if family.version == 4 else "IPv6Network"
            raise StoreError(
                f"podCIDR {net} of node {node.name} lies outside {key} {family.network}",
                hint=f"{key} in net-conf.json must be the --cluster-cidr of kube-controller-manager",
            )
        found += (net,)
    return found
