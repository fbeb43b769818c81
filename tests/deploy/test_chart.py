"""The Helm chart: the same objects as the plain manifests, and values that cannot break them."""

import json
from typing import Any

import kubernetes_validate
import pytest
import yaml

from flanneld_py.daemon.setup import judge
from flanneld_py.version import VERSION
from tests.deploy.manifests import (
    CHART,
    PLAIN,
    Object,
    daemon,
    find,
    find_helm,
    identity,
    net_conf,
    pod,
    read_objects,
    render,
)
from tests.deploy.test_manifests import SCHEMAS, probed_port


@pytest.fixture(scope="session")
def helm(request: pytest.FixtureRequest) -> str:
    found = find_helm()
    if found is None:
        reason = "without helm nothing shows that the chart can be rendered; tests/run builds it where Go is installed"
        if request.config.getoption("--require-go"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def rendered(helm: str, values: Object | None = None, /, **flannel: object) -> list[Object]:
    done = render(helm, {**(values or {}), "flannel": flannel})
    assert done.returncode == 0, done.stderr
    return read_objects(done.stdout)


def refused(helm: str, values: Object | None = None, /, **flannel: object) -> str:
    done = render(helm, {**(values or {}), "flannel": flannel})
    assert done.returncode != 0, done.stdout
    return done.stderr


def bare(found: Any) -> Any:
    """Without what only tells who made it."""
    if isinstance(found, dict):
        marks = {"app.kubernetes.io/managed-by", "helm.sh/chart", "annotations", "imagePullPolicy"}
        return {key: bare(value) for key, value in found.items() if key not in marks | {"labels", "data"}}
    return [bare(one) for one in found] if isinstance(found, list) else found


@pytest.mark.parametrize("backend", PLAIN)
def test_it_says_the_same_as_the_plain_manifests(helm: str, backend: str) -> None:
    plain = {identity(one): one for one in read_objects(PLAIN[backend].read_text()) if one["kind"] != "Namespace"}
    chart = {identity(one): one for one in rendered(helm, backend=backend)}
    assert chart.keys() == plain.keys()
    for key, wanted in plain.items():
        assert bare(chart[key]) == bare(wanted), key
    assert json.loads(net_conf(list(chart.values()))) == json.loads(net_conf(list(plain.values())))
    conflists = [json.loads(find(list(one.values()), "ConfigMap")["data"]["cni-conf.json"]) for one in (chart, plain)]
    assert conflists[0] == conflists[1]


VALUES: list[Object] = [
    {},
    {"backend": "udp", "backendPort": 9000},
    {"backend": "host-gw", "enableNFTables": True},
    {"vni": 7, "directRouting": True, "GBP": True, "mtu": 1400, "backendPort": 4789},
    {"skipCNIConfigInstallation": True, "cniBinDir": "/usr/lib/cni", "cniConfDir": "/srv/net.d"},
    {"healthz": {"port": 0}, "resources": {"limits": {"memory": "1Gi"}}},
    {"nodeSelector": {"pool": "a"}, "tolerations": [], "updateStrategy": {"type": "OnDelete"}},
    {"image": {"repository": "registry.example/flannel", "tag": "t"}, "args": ["--kube-subnet-mgr", "--iface=eth1"]},
    {"backendOptions": {"SourceValidation": "loose"}, "backend": "udp"},
]


@pytest.mark.parametrize("flannel", VALUES, ids=json.dumps)
def test_what_it_renders_is_valid(helm: str, flannel: Object) -> None:
    for one in rendered(helm, **flannel):
        kubernetes_validate.validate(one, SCHEMAS, strict=True)


def test_backend_options_reach_the_network_configuration(helm: str) -> None:
    objects = rendered(helm, vni=7, directRouting=True, mtu=1400, backendPort=4789)
    assert json.loads(net_conf(objects))["Backend"] == {
        "Type": "vxlan",
        "VNI": 7,
        "DirectRouting": True,
        "MTU": 1400,
        "Port": 4789,
    }
    assert judge(net_conf(objects), "net-conf.json").errors == ()


@pytest.mark.parametrize(
    ("networks", "wanted"),
    [
        ({"podCidr": "10.1.0.0/16"}, {"Network": "10.1.0.0/16"}),
        (
            {"podCidr": "10.1.0.0/16", "podCidrv6": "fd01::/48"},
            {"Network": "10.1.0.0/16", "EnableIPv6": True, "IPv6Network": "fd01::/48"},
        ),
        (
            {"podCidr": "", "podCidrv6": "fd01::/48"},
            {"EnableIPv4": False, "EnableIPv6": True, "IPv6Network": "fd01::/48"},
        ),
    ],
)
def test_networks(helm: str, networks: Object, wanted: Object) -> None:
    found = json.loads(net_conf(rendered(helm, networks)))
    assert found == {"Backend": {"Type": "vxlan"}, "EnableNFTables": False, **wanted}
    assert judge(json.dumps(found), "net-conf.json").errors == ()


def test_no_network_at_all_is_refused(helm: str) -> None:
    assert "podCidr and podCidrv6 are both empty" in refused(helm, {"podCidr": "", "podCidrv6": ""})


@pytest.mark.parametrize("value", ['"quoted"', "two\nlines", "{{ .Values }}", "ünïcode", "# no comment"])
def test_no_value_breaks_the_json(helm: str, value: str) -> None:
    objects = rendered(helm, backendOptions={"Anything": value})
    assert json.loads(net_conf(objects))["Backend"]["Anything"] == value


@pytest.mark.parametrize(
    ("values", "flannel", "said"),
    [
        ({}, {"psk": "x"}, "psk"),
        ({}, {"backendPort": "8472"}, "backendPort"),
        ({}, {"vni": 1 << 24}, "vni"),
        ({"podCidr": "10.244.0.0"}, {}, "podCidr"),
        ({"netpol": {"enabled": True}}, {}, "netpol"),
        ({"podcidr": "10.0.0.0/8"}, {}, "podcidr"),
    ],
)
def test_values_that_mean_nothing_here_are_refused_by_name(
    helm: str, values: Object, flannel: Object, said: str
) -> None:
    assert said in refused(helm, values, **flannel)


def test_values_of_flannel_s_own_chart_that_make_no_difference_are_taken(helm: str) -> None:
    rendered(helm, {"netpol": {"enabled": False}, "global": {"imagePullSecrets": None}}, flannel_cni={"image": {}})


def test_privileges_follow_the_backend_unless_they_are_given(helm: str) -> None:
    found = {
        (backend, given): daemon(rendered(helm, backend=backend, privileged=given))["securityContext"]["privileged"]
        for backend in ("vxlan", "udp")
        for given in (None, False, True)
    }
    assert {pair for pair, privileged in found.items() if privileged} == {("vxlan", True), ("udp", None), ("udp", True)}


def test_without_a_port_there_are_no_probes(helm: str) -> None:
    container = daemon(rendered(helm, healthz={"port": 0}))
    assert {"livenessProbe", "readinessProbe", "ports"} & container.keys() == set()
    assert "--healthz-port" not in " ".join(container["args"])


@pytest.mark.parametrize("backend", ["vxlan", "udp"])
def test_another_port_is_the_one_that_is_probed(helm: str, backend: str) -> None:
    container = daemon(rendered(helm, backend=backend, healthz={"port": 9999}))
    assert "--healthz-port=9999" in container["args"]
    assert probed_port(container) == 9999


@pytest.mark.parametrize("backend", ["vxlan", "udp"])
def test_a_strategy_that_is_given_is_taken(helm: str, backend: str) -> None:
    objects = rendered(helm, backend=backend, updateStrategy={"type": "OnDelete"})
    assert find(objects, "DaemonSet")["spec"]["updateStrategy"] == {"type": "OnDelete"}


def test_a_configuration_of_others_is_left_alone(helm: str) -> None:
    spec = pod(rendered(helm, skipCNIConfigInstallation=True))
    volumes = {one["name"]: one for one in spec["volumes"]}
    assert volumes["cni-plugin"]["hostPath"]["path"] == "/opt/cni/bin"
    assert "/etc/cni/net.d" not in json.dumps(spec)
    assert spec["initContainers"][0]["args"] == ["--no-conf"]


def test_a_changed_configuration_makes_new_pods(helm: str) -> None:
    def mark(**flannel: object) -> str:
        template = find(rendered(helm, **flannel), "DaemonSet")["spec"]["template"]
        return str(template["metadata"]["annotations"])

    assert mark() == mark()
    assert len({mark(), mark(vni=2), mark(cniConf="{}")}) == 3


def test_everything_is_in_the_release_s_namespace(helm: str) -> None:
    done = render(helm, {}, namespace="elsewhere")
    places = {(one["kind"], one["metadata"].get("namespace")) for one in read_objects(done.stdout)}
    assert {place for _, place in places} == {None, "elsewhere", "default"}
    assert {kind for kind, place in places if place == "default"} == {"Role", "RoleBinding"}


def test_its_version_is_this_one() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)


def test_the_schema_knows_every_value() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert values.keys() <= schema.keys()
    assert values["flannel"].keys() <= schema["flannel"]["properties"].keys()
