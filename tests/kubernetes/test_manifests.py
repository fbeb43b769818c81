"""The shipped manifests and the chart against a real API server: taken without a warning, with rights that suffice."""

import json
import re
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from flanneld_py.lab.kubernetes import find_program
from tests.deploy.manifests import (
    DEPLOY,
    KUBERNETES,
    PLAIN,
    daemon,
    find,
    find_helm,
    identity,
    pod,
    read_objects,
    render,
)
from tests.kubernetes.cluster import Cluster

FOREIGN = (Path(__file__).parent / "foreign-daemonset.yaml").read_text()
ACCOUNT = "system:serviceaccount:kube-flannel:flannel"
ALLOWED = {
    ("get", "nodes", None),
    ("list", "nodes", None),
    ("watch", "nodes", None),
    ("patch", "nodes/status", None),
    ("get", "pods", "kube-flannel"),
    ("create", "events", "default"),
}
DENIED = {
    ("patch", "nodes", None),
    ("delete", "nodes", None),
    ("list", "pods", "kube-flannel"),
    ("get", "pods", "default"),
    ("get", "secrets", "kube-flannel"),
    ("get", "configmaps", "kube-flannel"),
    ("create", "events", "kube-system"),
    ("delete", "events", "default"),
    ("create", "pods", "kube-flannel"),
}
IN_OURS = "--namespace=kube-flannel"


class Kubectl:
    def __init__(self, cluster: Cluster) -> None:
        self._command = [find_program("kubectl"), f"--kubeconfig={cluster.admin_kubeconfig}"]

    def __call__(self, *words: str | Path, text: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self._command, *words], input=text, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0 or not check, f"{words}: {done.stderr}"
        return done

    def may(self, verb: str, resource: str, namespace: str | None) -> bool:
        place = ["--namespace=" + namespace] if namespace else ["--all-namespaces"]
        resource, _, part = resource.partition("/")
        words = ["auth", "can-i", verb, resource, f"--as={ACCOUNT}", "--quiet", *place]
        return self(*words, *([f"--subresource={part}"] if part else []), check=False).returncode == 0


@pytest.fixture(scope="module")
def kubectl(kubernetes_programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    """Of a cluster that is these tests' own: the lab's account has the names that the manifests have."""
    cluster = Cluster(tmp_path_factory.mktemp("manifests"))
    try:
        run = Kubectl(cluster.up())
        run("delete", "clusterrole,clusterrolebinding,serviceaccount,role,rolebinding", "flannel", IN_OURS)
        run("delete", "role,rolebinding", "flannel-events", "--namespace=default")
        run("apply", "-f", KUBERNETES / "base/namespace.yaml")
        yield run
    finally:
        cluster.down()


@pytest.mark.parametrize("variant", PLAIN)
def test_the_plain_file_is_taken(kubectl: Kubectl, variant: str) -> None:
    done = kubectl("apply", "--dry-run=server", "--validate=strict", "-f", PLAIN[variant])
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == len(read_objects(PLAIN[variant].read_text()))


@pytest.mark.parametrize(("variant", "folder"), [("vxlan", KUBERNETES), ("udp", KUBERNETES / "udp")])
def test_the_plain_file_is_what_kustomize_makes(kubectl: Kubectl, variant: str, folder: Path) -> None:
    """If it is not: kubectl kustomize FOLDER, below the first line of the file."""
    assert PLAIN[variant].read_text().partition("\n")[2] == kubectl("kustomize", folder).stdout


@pytest.mark.parametrize(
    "flannel",
    [{}, {"backend": "udp"}, {"skipCNIConfigInstallation": True}, {"healthz": {"port": 0}}],
    ids=json.dumps,
)
def test_what_the_chart_renders_is_taken(kubectl: Kubectl, flannel: dict[str, object]) -> None:
    helm = find_helm()
    assert helm is not None, "tests/run builds helm"
    rendered = render(helm, {"flannel": flannel}).stdout
    done = kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", text=rendered)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == len(read_objects(rendered))


def test_a_field_that_nobody_knows_is_not_taken(kubectl: Kubectl) -> None:
    wrong = PLAIN["vxlan"].read_text().replace("readinessProbe", "readyProbe")
    done = kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", text=wrong, check=False)
    assert 'unknown field "spec.template.spec.containers[0].readyProbe"' in done.stderr


def test_the_account_has_the_least_rights(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", KUBERNETES / "base/rbac.yaml")
    assert {right for right in ALLOWED | DENIED if kubectl.may(*right)} == ALLOWED


def test_the_namespace_lets_the_pods_in(kubectl: Kubectl) -> None:
    """Admission by the pod security standards, asked with a pod of the template."""
    (daemonset,) = (one for one in read_objects(PLAIN["udp"].read_text()) if one["kind"] == "DaemonSet")
    kubectl("apply", "-f", PLAIN["udp"])
    pod = {"apiVersion": "v1", "kind": "Pod", **daemonset["spec"]["template"]}
    pod["metadata"] = {"name": "probe", "namespace": "kube-flannel"}
    done = kubectl("create", "--dry-run=server", "-f", "-", text=json.dumps(pod))
    assert "Warning" not in done.stderr


def test_it_replaces_what_is_there_and_can_be_replaced_again(kubectl: Kubectl) -> None:
    """A DaemonSet of flannel's own has the same name and selector, which cannot be changed."""
    kubectl("apply", "-f", "-", text=FOREIGN)
    kubectl("apply", "-f", PLAIN["vxlan"])
    image = ("get", "daemonset", "kube-flannel-ds", "-n", "kube-flannel", "-o", "jsonpath={..containers[*].image}")
    assert "docker.io/flanneld_py/flanneld" in kubectl(*image).stdout
    kubectl("apply", "-f", "-", text=FOREIGN)
    assert kubectl(*image).stdout == "ghcr.io/flannel-io/flannel:v0.28.9"


def test_the_kustomization_of_the_migration_works(kubectl: Kubectl, tmp_path: Path) -> None:
    text = (KUBERNETES / "migrate.md").read_text()
    (snippet,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "kustomization.yaml").write_text(textwrap.dedent(snippet))
    (tmp_path / "deploy").symlink_to(DEPLOY)
    config = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"net-conf.json": "{}"}}
    config["metadata"] = {"name": "kube-flannel-cfg", "namespace": "kube-flannel"}
    (tmp_path / "flannel-config.yaml").write_text(json.dumps(config))
    objects = read_objects(kubectl("kustomize", "--load-restrictor=LoadRestrictionsNone", tmp_path).stdout)
    assert find(objects, "DaemonSet")["spec"]["updateStrategy"] == {"type": "OnDelete"}
    assert find(objects, "ConfigMap")["data"]["net-conf.json"] == "{}"
    images = {one["image"] for one in (*pod(objects)["initContainers"], daemon(objects))}
    assert {image.rpartition(":")[0] for image in images} == {"registry.example/flanneld"}


def test_every_object_is_in_one_file_of_the_base() -> None:
    base = [one for path in (DEPLOY / "kubernetes/base").glob("*.yaml") for one in read_objects(path.read_text())]
    named = [identity(one) for one in base if one["kind"] != "Kustomization"]
    assert len(named) == len(set(named))
