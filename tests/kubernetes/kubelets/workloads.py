"""Objects that tests put into a cluster with kubelets, and what they ask of it then."""

import json
import re
import socket
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPConnection
from ipaddress import ip_address, ip_network
from itertools import count
from pathlib import Path
from typing import Any

from flanneld_py.lab import machine, stores, wiring
from flanneld_py.lab.build import Lab
from flanneld_py.lab.images import POD
from flanneld_py.lab.kubeapi import Api
from flanneld_py.lab.machines import kubectl, pid_of_pod
from flanneld_py.lab.namespaces import inside
from flanneld_py.lab.process import last_lines
from flanneld_py.lab.topology import Node
from flanneld_py.lab.traffic import Endpoint
from tests.waiting import eventually

LINES = 8
"""How much of what was said goes into the message of an assertion."""
WEB_PORT = 8080
PODS = "/api/v1/namespaces/default/pods"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
SERVICES = "/api/v1/namespaces/default/services"
DAEMONS = "/api/v1/namespaces/kube-flannel/pods?labelSelector=app%3Dflannel"
_WEB = (
    "mkdir -p /www/cgi-bin && cd /www/cgi-bin && "
    "printf '#!/bin/sh\\necho\\necho $REMOTE_ADDR $HOSTNAME\\n' > who && chmod +x who && "
    f"exec httpd -f -p {WEB_PORT} -h /www"
)
"""Answers with the address of the client as the server sees it, and with the pod's name."""

Json = dict[str, Any]


def is_ready(pod: Json) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", ()))


def container(name: str, *command: str, ports: Sequence[Json] = ()) -> Json:
    base: Json = {"name": name, "image": POD, "imagePullPolicy": "Never", "ports": list(ports)}
    return base | ({"command": ["/bin/sh", "-c", *command]} if command else {})


def web(*, host_port: int | None = None) -> Json:
    port: Json = {"containerPort": WEB_PORT}
    return container("web", _WEB, ports=[port | ({"hostPort": host_port} if host_port else {})])


def pod_spec(*containers: Json, node: str | None = None, **more: object) -> Json:
    return {
        "terminationGracePeriodSeconds": 1,
        "dnsPolicy": "Default",
        "containers": list(containers),
        **({"nodeName": node} if node else {}),
        **more,
    }


def spread(app: str) -> Json:
    """Evenly over the nodes, whatever else the scheduler would think of."""
    selector = {"matchLabels": {"app": app}}
    constraint = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}
    return {"topologySpreadConstraints": [constraint | {"labelSelector": selector}]}


@dataclass(frozen=True)
class Who:
    """The answer of `web`."""

    client: str
    server: str


@dataclass
class Workloads:
    """A cluster's objects; `clear` removes all that were made."""

    lab: Lab
    made: list[str] = field(default_factory=list)
    named: list[str] = field(default_factory=list)
    numbers: "count[int]" = field(default_factory=lambda: count(1))

    @property
    def api(self) -> Api:
        if not hasattr(self, "_api"):
            self._api = stores.KubernetesServers(self.lab.topology, self.lab.directory).control.api
        return self._api

    @property
    def nodes(self) -> tuple[Node, ...]:
        return self.lab.topology.nodes

    @property
    def router(self) -> str:
        return self.lab.topology.router

    def kubectl(self, *words: str) -> str:
        done = kubectl(self.lab.topology, self.lab.directory, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def create(self, path: str, name: str, body: Mapping[str, object]) -> Json:
        self.made.append(f"{path}/{name}")
        metadata = {"name": name, "labels": {"app": name}}
        return self.api.post(path, {"metadata": metadata} | dict(body))

    def pod(self, name: str, spec: Json) -> Json:
        """A pod that runs, as the API shows it then."""
        self.create(PODS, name, {"spec": spec})
        return self.running(name)

    def running(self, name: str) -> Json:
        eventually(
            f"pod {name} runs", lambda: self._pod(name)["status"].get("phase") == "Running", lambda: self.why(name)
        )
        return self._pod(name)

    def deployment(self, name: str, replicas: int, spec: Json) -> None:
        selector = {"matchLabels": {"app": name}}
        template = {"metadata": {"labels": {"app": name}}, "spec": spec}
        self.create(DEPLOYMENTS, name, {"spec": {"replicas": replicas, "selector": selector, "template": template}})

    def scale(self, name: str, replicas: int) -> None:
        self.api.patch(f"{DEPLOYMENTS}/{name}", {"spec": {"replicas": replicas}})

    def wait_scaled(self, name: str, replicas: int) -> list[Json]:
        """The pods of the deployment, as soon as there are so many, no more, and all of them run."""
        eventually(
            f"{replicas} pods of {name} run",
            lambda: self._phases(name) == ["Running"] * replicas,
            lambda: (self._phases(name), self.why()),
        )
        return self.pods(name)

    def pods(self, app: str) -> list[Json]:
        return list(self.api.get(f"{PODS}?labelSelector=app%3D{app}")["items"])

    def service(self, name: str, app: str, **spec: object) -> Json:
        body: Json = {"selector": {"app": app}, "ports": [{"port": 80, "targetPort": WEB_PORT}]}
        return dict(self.create(SERVICES, name, {"spec": body | spec})["spec"])

    def endpoint(self, pod: Json, version: int = 4) -> Endpoint:
        """The pod as a place for traffic: its network namespace gets a name."""
        name = pod["metadata"]["name"]
        namespace = f"{self.lab.record.spec.name}-x{next(self.numbers)}"
        wiring.attach_namespace(namespace, pid_of_pod(pod["metadata"]["uid"]))
        self.named.append(namespace)
        addresses = [ip_address(one["ip"]) for one in pod["status"]["podIPs"]]
        return Endpoint(name, namespace, next(one for one in addresses if one.version == version))

    def ask(self, namespace: str, address: str, port: int) -> Who:
        """What `web` at that address answers to a request from the namespace."""
        sock = inside(namespace, lambda: socket.create_connection((address, port), timeout=10))
        connection = HTTPConnection(address, port, timeout=10)
        connection.sock = sock
        with closing(connection):
            connection.request("GET", "/cgi-bin/who")
            response = connection.getresponse()
            words = response.read().decode().split()
        assert response.status == 200, words
        return Who(words[0].strip("[]").removeprefix("::ffff:"), words[1])

    def wait_answers(self, namespace: str, address: str, port: int) -> Who:
        """As `ask`, as soon as there is an answer: kube-proxy, the plugin and the server take a moment."""
        answer: list[Who] = []

        def asked() -> bool:
            try:
                answer.append(self.ask(namespace, address, port))
            except OSError:
                return False
            return True

        eventually(f"http://{address}:{port} answers in {namespace}", asked, self.why)
        return answer[0]

    def addresses_kept(self, node: Node) -> list[str]:
        """The pod addresses that host-local has given out on the node."""
        kept = machine.home(self.lab.directory, node) / "cni" / "networks" / "cbr0"
        return sorted(path.name for path in kept.iterdir() if re.fullmatch(r"[0-9a-f.:]+", path.name))

    def pod_addresses(self, node: Node) -> list[str]:
        """The addresses of the pods on the node, those of its own excepted."""
        listed = self.api.get(f"/api/v1/pods?fieldSelector=spec.nodeName%3D{node.name}")["items"]
        return sorted(
            one["ip"] for pod in listed if not pod["spec"].get("hostNetwork") for one in pod["status"].get("podIPs", ())
        )

    def bridge_ports(self, node: Node) -> list[str]:
        def listed() -> list[str]:
            return sorted(path.name for path in Path("/sys/class/net/cni0/brif").iterdir())

        return inside(node.namespace, listed, sysfs=True)

    def restarts(self) -> dict[str, int]:
        """How often containers were started again, of pods in any namespace; none that were not."""
        found = {}
        for pod in self.api.get("/api/v1/pods")["items"]:
            for status in pod["status"].get("containerStatuses", ()):
                if status["restartCount"]:
                    found[f"{pod['metadata']['name']}/{status['name']}"] = status["restartCount"]
        return found

    def why(self, name: str = "") -> str:
        """The latest Events of trouble, the daemons' pods and the kubelets, for the message of an assertion."""
        listed = self.api.get("/api/v1/events?limit=500")["items"]
        events = [
            f"{event['lastTimestamp']} {event['involvedObject'].get('name')}: {event.get('message')}"
            for event in sorted(listed, key=lambda event: str(event["lastTimestamp"]))
            if event.get("type") == "Warning" and name in str(event["involvedObject"].get("name"))
        ]
        pods = self.api.get("/api/v1/namespaces/kube-flannel/pods")["items"]
        logs = {node.name: self.lab.directory.log(f"{node.name}-kubelet") for node in self.nodes}
        kubelets = [f"{name}: {line}" for name, log in logs.items() for line in last_lines(log, LINES)]
        return "\n".join(["", *(events[-LINES:] or ["no Warning"]), *map(self._how, pods), *kubelets])

    def _how(self, pod: Json) -> str:
        """A pod of the daemons in some lines: its conditions, its containers, the end of its log."""
        name, status = pod["metadata"]["name"], pod["status"]
        conditions = {one["type"]: one["status"] for one in status.get("conditions", ())}
        states = [
            one["state"] for one in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ()))
        ]
        leaving = pod["metadata"].get("deletionTimestamp", "it stays")
        words = ("--namespace=kube-flannel", "logs", name, "--all-containers", f"--tail={LINES}")
        done = kubectl(self.lab.topology, self.lab.directory, *words)
        return f"{name} on {pod['spec'].get('nodeName')}: {conditions} {states} {leaving}\n{done.stdout}{done.stderr}"

    def clear(self) -> None:
        """Remove what was made. Kubelets still end its pods then, for which nobody waits."""
        for namespace in self.named:
            wiring.remove_namespace(namespace)
        for path in reversed(self.made):
            self.api.delete(path)
        apps = ",".join(sorted({path.rsplit("/", 1)[1] for path in self.made}))

        def gone() -> bool:
            """What a deployment had begun to start may come yet."""
            pods = f"{PODS}?labelSelector=app+in+({apps})"
            self.api.delete(f"{pods}&gracePeriodSeconds=0")
            return not self.api.get(pods)["items"]

        if apps:
            eventually("the pods are gone", gone, self.why)
        self.made.clear()
        self.named.clear()

    def _phases(self, name: str) -> list[str]:
        """Of each pod: its phase; or that it is being removed."""
        return sorted(
            "going" if "deletionTimestamp" in pod["metadata"] else str(pod["status"].get("phase"))
            for pod in self.pods(name)
        )

    def _pod(self, name: str) -> Json:
        return self.api.get(f"{PODS}/{name}")


def inside_network(lab: Lab, address: str) -> bool:
    return any(ip_address(address) in ip_network(str(net)) for net in lab.topology.networks)


def describe(value: object) -> str:
    return json.dumps(value, indent=1)
