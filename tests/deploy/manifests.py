"""The Kubernetes objects that are shipped, as kustomize, a plain file and the chart give them."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
CHART = DEPLOY / "helm/flannel"
PLAIN = {"vxlan": KUBERNETES / "kube-flannel.yml", "udp": KUBERNETES / "kube-flannel-udp.yml"}
KUBE_VERSION = "1.35.4"

Object = dict[str, Any]


def read_objects(text: str) -> list[Object]:
    return [found for found in yaml.safe_load_all(text) if found is not None]


def find(objects: list[Object], kind: str, name: str | None = None) -> Object:
    (found,) = (one for one in objects if one["kind"] == kind and name in (None, one["metadata"]["name"]))
    return dict(found)


def net_conf(objects: list[Object]) -> str:
    return str(find(objects, "ConfigMap")["data"]["net-conf.json"])


def pod(objects: list[Object]) -> Object:
    return dict(find(objects, "DaemonSet")["spec"]["template"]["spec"])


def daemon(objects: list[Object]) -> Object:
    (container,) = pod(objects)["containers"]
    return dict(container)


def identity(found: Object) -> tuple[str, str, str]:
    return found["kind"], found["metadata"].get("namespace", ""), found["metadata"]["name"]


def find_helm() -> str | None:
    """tests/run builds it; HELM names it."""
    return shutil.which(os.environ.get("HELM") or "helm")


def render(helm: str, values: Object, *, namespace: str = "kube-flannel") -> "subprocess.CompletedProcess[str]":
    words = [
        "template",
        "flannel",
        str(CHART),
        f"--namespace={namespace}",
        f"--kube-version={KUBE_VERSION}",
        "--values=-",
    ]
    return subprocess.run(
        [helm, *words], input=json.dumps(values), capture_output=True, text=True, timeout=60, check=False
    )
