"""The container of the DaemonSet's manifest, with its rights and limits, and a real API server."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flanneld_py.daemon.flagtable import LATER
from flanneld_py.lab import kubeobjects
from flanneld_py.lab.kubernetes import CONTROLLERS, find_program
from tests.daemon.test_probes import probe
from tests.deploy.manifests import KUBERNETES, PLAIN, daemon, find, pod, read_objects
from tests.image.conftest import LIMITS, START_S, Podman, image, podman
from tests.kubernetes.place import ADDRESS, Place
from tests.kubernetes.stores import PREFIX, go_annotations
from tests.waiting import eventually

__all__ = ["image", "podman"]

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
OBJECTS = read_objects(PLAIN["vxlan"].read_text())


class Pod:
    """What the kubelet and the runtime make of the manifest, as far as podman can do it."""

    def __init__(self, podman: Podman, rootfs: Path, place: Place, folder: Path) -> None:
        self._podman, self._rootfs, self._place, self.folder = podman, rootfs, place, folder
        self._name = f"flannel-{folder.name}"
        self._log = folder / "log"
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> "Pod":
        container, sources = daemon(OBJECTS), self._volumes()
        context, limits = container["securityContext"], container["resources"]["limits"]
        mounts = {mount["mountPath"]: sources[mount["name"]] for mount in container["volumeMounts"]}
        mounts[ACCOUNT] = self._account()
        args = [flag for flag in container["args"] if flag.lstrip("-").partition("=")[0] not in LATER]
        environ = {"NODE_NAME": "n1", "POD_NAME": "flannel-0", "POD_NAMESPACE": "kube-flannel"}
        assert environ.keys() == {one["name"] for one in container["env"]}
        environ |= {"KUBERNETES_SERVICE_HOST": str(ADDRESS), "KUBERNETES_SERVICE_PORT": str(self._place.site.api_port)}
        self._child = self._podman.start(
            *("run", "--rm", f"--name={self._name}", *LIMITS, f"--network=ns:/run/netns/{self._place.namespace}"),
            *("--read-only", "--read-only-tmpfs=false", "--security-opt=no-new-privileges"),
            *(f"--cap-drop={name.lower()}" for name in context["capabilities"]["drop"]),
            *(f"--cap-add={name}" for name in context["capabilities"]["add"]),
            *(f"--memory={limits['memory'].removesuffix('i').lower()}", f"--cpus={int(limits['cpu'][:-1]) / 1000}"),
            *(f"--env={name}={value}" for name, value in environ.items()),
            *(f"--volume={source}:{target}" for target, source in mounts.items()),
            *(f"--entrypoint={container['command'][0]}", "--rootfs", f"{self._rootfs}:O", *args),
            log=self._log,
        )
        return self

    def _volumes(self) -> dict[str, Path]:
        """The sources of the volumes, by name: folders of this test stand for the node's."""
        made = {}
        for volume in pod(OBJECTS)["volumes"]:
            made[volume["name"]] = path = self.folder / volume["name"]
            if volume.get("hostPath", {}).get("type") == "FileOrCreate":
                path.touch()
            else:
                path.mkdir()
        for name, text in find(OBJECTS, "ConfigMap")["data"].items():
            (made["flannel-cfg"] / name).write_text(text)
        return made

    def _account(self) -> Path:
        folder = self.folder / "account"
        folder.mkdir()
        (folder / "token").write_text(kubeobjects.create_token(self._place.api))
        (folder / "ca.crt").write_bytes(self._place.ca.read_bytes())
        (folder / "namespace").write_text("kube-flannel")
        return folder

    def log(self) -> str:
        return self._log.read_text()

    @property
    def status(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "run/status.json").read_text()))

    def cgroup(self, name: str) -> int:
        pid = int(self._podman("inspect", "--format={{.State.Pid}}", self._name))
        controller, _, file = name.partition(".")
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                return int(
                    (Path("/sys/fs/cgroup") / controllers / path.lstrip("/") / f"{controller}.{file}").read_text()
                )
            if not controllers and (found := Path("/sys/fs/cgroup") / path.lstrip("/") / name).exists():
                return int(found.read_text())
        raise AssertionError(f"no {name} for process {pid}")

    def end(self) -> None:
        if self._child is not None:
            self._podman("rm", "--force", "--time=0", self._name, check=False)
            self._child.wait(START_S)


def packet_filter(namespace: str) -> str:
    """All rules of the namespace, as nft shows those of both."""
    shown = subprocess.run(
        ["ip", "netns", "exec", namespace, "nft", "list", "ruleset"], capture_output=True, text=True, check=True
    )
    return shown.stdout.lower()


@pytest.fixture
def rights(place: Place) -> None:
    """Those of the manifest, in place of the lab's."""
    command = [find_program("kubectl"), f"--kubeconfig={place.admin_kubeconfig}"]
    for words in (
        ["delete", "clusterrole,clusterrolebinding", "flannel"],
        ["apply", "-f", str(KUBERNETES / "base/namespace.yaml"), "-f", str(KUBERNETES / "base/rbac.yaml")],
    ):
        subprocess.run(["ip", "netns", "exec", place.namespace, *command, *words], check=True, capture_output=True)


@pytest.fixture
def daemon_pod(image: Path, podman: Podman, place: Place, rights: None, tmp_path: Path) -> Iterator[Pod]:
    made = Pod(podman, image / "rootfs", place, tmp_path)
    yield made
    made.end()


def test_the_pod_of_the_manifest_becomes_ready_within_its_limits(daemon_pod: Pod, place: Place) -> None:
    place.add_node("n1", str(ADDRESS), pod_networks=["10.244.1.0/24"])
    place.add_node("n2", annotations=go_annotations(2), pod_networks=["10.244.2.0/24"])
    daemon_pod.start()
    eventually("the pod is ready", lambda: probe(place.namespace, "/readyz")[0] == 200, daemon_pod.log)
    assert place.annotations("n1")[PREFIX + "public-ip"] == str(ADDRESS)
    assert list(place.routes()) == ["10.244.2.0/24"]
    eventually("the condition is cleared", lambda: "FlannelIsUp" in json.dumps(place.node("n1")), daemon_pod.log)
    refused = [text for text in daemon_pod.status["failures"] if "set it on the host: sysctl" not in text]
    assert refused == [], "rules of the packet filter need no more than the manifest grants"
    assert "masquerade" in packet_filter(place.namespace)
    assert daemon_pod.cgroup("memory.limit_in_bytes") == 50 * 2**20
    assert daemon_pod.cgroup("memory.max_usage_in_bytes") <= 50 * 2**20
    assert daemon_pod.cgroup("cpu.cfs_quota_us") * 10 == daemon_pod.cgroup("cpu.cfs_period_us")


def test_the_rights_of_the_manifest_suffice_to_say_what_is_missing(
    daemon_pod: Pod, place: Place, request: pytest.FixtureRequest
) -> None:
    """A node without a slice: the Event and /readyz name the controller's flag."""
    place.control.stop(CONTROLLERS)
    request.addfinalizer(lambda: place.control.start(CONTROLLERS))
    place.add_node("n1", str(ADDRESS))
    daemon_pod.start()
    eventually("the Event is there", lambda: place.events("n1"), daemon_pod.log)
    assert "--allocate-node-cidrs=true" in json.dumps(place.events("n1"))
    code, text = probe(place.namespace, "/readyz")
    assert code == 503
    assert "node n1 has no podCIDR" in text
    assert "--allocate-node-cidrs=true --cluster-cidr=10.244.0.0/16" in text
    assert "forbidden" not in daemon_pod.log()
