"""The manifests: valid for the API, least in what they may, and accepted by the daemon that reads them."""

import json
import re

import kubernetes_validate
import pytest
import yaml

from cni_plugin.conflist import parse_conflist
from flanneld_py.daemon.flagtable import LATER
from flanneld_py.daemon.options import parse_options
from flanneld_py.daemon.setup import judge
from flanneld_py.lab.kubeobjects import account_roles
from flanneld_py.version import VERSION
from tests.deploy.manifests import (
    DEPLOY,
    KUBERNETES,
    PLAIN,
    Object,
    daemon,
    find,
    identity,
    net_conf,
    pod,
    read_objects,
)

SCHEMAS = "1.35"
VARIANTS = {name: read_objects(path.read_text()) for name, path in PLAIN.items()}
EVERY = [pytest.param(objects, id=name) for name, objects in VARIANTS.items()]
ONE = [
    pytest.param(one, id=f"{name} {' '.join(identity(one))}") for name, objects in VARIANTS.items() for one in objects
]


@pytest.mark.parametrize("one", ONE)
def test_the_api_s_schema_knows_every_field(one: Object) -> None:
    kubernetes_validate.validate(one, SCHEMAS, strict=True)


def test_the_schema_would_find_a_slip() -> None:
    wrong = json.loads(json.dumps(find(VARIANTS["vxlan"], "DaemonSet")).replace("readinessProbe", "readyProbe"))
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, SCHEMAS, strict=True)


def test_the_plain_file_is_what_the_base_says() -> None:
    base = KUBERNETES / "base"
    listed = yaml.safe_load((base / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == sorted({path.name for path in base.iterdir()} - {"kustomization.yaml"})
    wanted = [one for name in listed for one in read_objects((base / name).read_text())]
    assert sorted(VARIANTS["vxlan"], key=identity) == sorted(wanted, key=identity)


def test_the_variant_differs_in_its_configuration_and_its_container_alone() -> None:
    vxlan, udp = ({identity(one): one for one in VARIANTS[name]} for name in ("vxlan", "udp"))
    assert {key[0] for key in vxlan if vxlan[key] != udp.get(key)} == {"ConfigMap", "DaemonSet"}
    assert vxlan.keys() == udp.keys()


def probed_port(container: Object) -> int:
    """The one that kubelets ask for the container's health."""
    (port,) = {container[probe]["httpGet"]["port"] for probe in ("livenessProbe", "readinessProbe")}
    return int({one["name"]: one["containerPort"] for one in container.get("ports", ())}.get(port, port))


@pytest.mark.parametrize("objects", EVERY)
def test_the_daemon_understands_its_flags_and_its_configuration(objects: list[Object]) -> None:
    known = [flag for flag in daemon(objects)["args"] if flag.lstrip("-").partition("=")[0] not in LATER]
    options = parse_options(known, {})
    assert options.kube_subnet_mgr
    assert options.healthz_port == probed_port(daemon(objects))
    judged = judge(net_conf(objects), "net-conf.json")
    assert (judged.errors, judged.warnings) == ((), ())


@pytest.mark.parametrize("objects", EVERY)
def test_the_plugin_understands_its_configuration(objects: list[Object]) -> None:
    text = find(objects, "ConfigMap")["data"]["cni-conf.json"]
    shipped = json.loads((DEPLOY / "cni/10-flannel.conflist").read_text())
    assert json.loads(text) == shipped
    assert set(parse_conflist(text.encode()).plugins) == {"bridge", "host-local", "portmap"}


def test_containers_may_no_more_than_they_need() -> None:
    for container in (*pod(VARIANTS["vxlan"])["initContainers"], daemon(VARIANTS["vxlan"])):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"]["drop"] == ["ALL"]
        assert not context.get("privileged")
    assert daemon(VARIANTS["vxlan"])["securityContext"]["capabilities"]["add"] == ["NET_ADMIN", "NET_RAW"]
    assert pod(VARIANTS["vxlan"])["initContainers"][0]["securityContext"]["capabilities"]["add"] == ["DAC_OVERRIDE"]


@pytest.mark.parametrize("objects", EVERY)
def test_the_daemon_of_a_lab_may_what_is_published_and_no_more(objects: list[Object]) -> None:
    def bare(one: Object) -> Object:
        return one | {"metadata": {key: text for key, text in one["metadata"].items() if key != "labels"}}

    published = [bare(one) for one in objects if "rbac.authorization.k8s.io" in one["apiVersion"]]
    assert len(published) == 6
    assert sorted(account_roles(), key=identity) == sorted(published, key=identity)


def test_the_limits_are_those_that_are_published() -> None:
    assert daemon(VARIANTS["vxlan"])["resources"] == {
        "requests": {"cpu": "100m", "memory": "50Mi"},
        "limits": {"cpu": "100m", "memory": "50Mi"},
    }
    assert daemon(VARIANTS["udp"])["resources"]["limits"] == {"memory": "160Mi"}
    assert daemon(VARIANTS["udp"])["securityContext"]["privileged"] is True


@pytest.mark.parametrize("objects", EVERY)
def test_the_network_comes_before_pods_and_survives_pressure(objects: list[Object]) -> None:
    spec = pod(objects)
    assert spec["hostNetwork"] is True
    assert spec["priorityClassName"] == "system-node-critical"
    assert {(one["operator"], one["effect"]) for one in spec["tolerations"]} == {
        ("Exists", "NoSchedule"),
        ("Exists", "NoExecute"),
    }


def test_one_node_after_another_is_updated() -> None:
    assert find(VARIANTS["vxlan"], "DaemonSet")["spec"]["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": 1}


def test_with_udp_the_next_pod_relieves_the_one_before() -> None:
    """What the worker's work needs to go from one container to the next."""
    spec = find(VARIANTS["udp"], "DaemonSet")["spec"]
    assert spec["updateStrategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    # A node's port is given to one pod alone, and probes of the new pod are answered by the old one at first.
    assert "ports" not in daemon(VARIANTS["udp"])
    assert daemon(VARIANTS["udp"])["startupProbe"]["exec"]["command"] == ["/opt/bin/flanneld", "status", "--own"]
    # With it the DaemonSet's controller may wait for ever: it looks again once, for the first pod that became ready.
    assert "minReadySeconds" not in spec
    options = parse_options(daemon(VARIANTS["udp"])["args"], {})
    assert options.replace
    assert options.udp_linger < pod(VARIANTS["udp"])["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("objects", EVERY)
def test_every_mount_has_its_volume_and_every_volume_its_mount(objects: list[Object]) -> None:
    spec = pod(objects)
    mounted = {mount["name"] for one in (*spec["initContainers"], *spec["containers"]) for mount in one["volumeMounts"]}
    assert mounted == {volume["name"] for volume in spec["volumes"]}


@pytest.mark.parametrize("objects", EVERY)
def test_commands_are_files_of_the_image(objects: list[Object]) -> None:
    from deploy.image.contents import COMMANDS, PLUGIN

    commands = [one["command"][0] for one in (*pod(objects)["initContainers"], daemon(objects))]
    assert commands == [f"/{PLUGIN}/flannel", "/opt/bin/flanneld"]
    assert "flanneld" in COMMANDS


def test_the_version_is_this_one() -> None:
    images = set(re.findall(r"image: (\S+)", "".join(path.read_text() for path in PLAIN.values())))
    assert images == {f"docker.io/flanneld_py/flanneld:{VERSION}"}
