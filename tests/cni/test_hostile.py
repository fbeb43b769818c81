"""Input of every bad kind: the specification's code, one JSON document, no traceback, nothing left."""

import json
import os
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugin import jsontext, netconf, request, result
from cni_plugin.request import Environment
from cni_plugin.result import CniError
from cni_plugin.subnetenv import parse_subnet_env
from flanneld_py.version import VERSION
from tests.cni.node import NOTHING, SUBNET_ENV, TIMEOUT_S, Node, PodMaker

WAYS = ("plain", "resident")

CONF = {"cniVersion": "1.0.0", "name": "cbr0", "type": "flannel"}


def refused(node: Node, verb: str, conf: dict[str, Any] | bytes, **environ: Any) -> dict[str, Any]:
    answer = node.call(verb, conf, **environ)
    assert answer.code == 1 and answer.document is not None, answer
    assert set(answer.document) <= {"cniVersion", "code", "msg", "details"}
    assert node.left() == NOTHING
    return answer.document


INPUTS: list[tuple[str, Any, int]] = [
    ("nothing", b"", 6),
    ("blanks", b" \n\t", 6),
    ("half", b'{"name": "cbr0"', 6),
    ("list", b"[]", 6),
    ("null", b"null", 6),
    ("two documents", b"{}{}", 6),
    ("binary", bytes(range(256)), 6),
    ("latin-1", '{"name": "\xe9"}'.encode("latin-1"), 6),
    ("NaN", b'{"name": "cbr0", "x": NaN}', 6),
    ("deep", b'{"a":' * 200_000, 6),
    ("deep list", b"[" * 200_000 + b"]" * 200_000, 6),
    ("long number", b'{"name": "cbr0", "x": ' + b"9" * 10_000 + b"}", 6),
    ("huge", b'{"name": "' + b"a" * (9 << 20) + b'"}', 6),
    ("no name", {"cniVersion": "1.0.0"}, 7),
    ("empty name", CONF | {"name": ""}, 7),
    ("name with a slash", CONF | {"name": "../../etc"}, 7),
    ("name with a newline", CONF | {"name": "cbr0\n"}, 7),
    ("name is a number", CONF | {"name": 1}, 6),
    ("version is a number", CONF | {"cniVersion": 1.0}, 6),
    ("version unknown", CONF | {"cniVersion": "0.3.2"}, 1),
    ("version is no version", CONF | {"cniVersion": "latest"}, 1),
    ("delegate is a string", CONF | {"delegate": "bridge"}, 7),
    ("delegate has a name", CONF | {"delegate": {"name": "x"}}, 7),
    ("delegate has ipam", CONF | {"delegate": {"ipam": {}}}, 7),
    ("delegate.type is a number", CONF | {"delegate": {"type": 5}}, 7),
    ("delegate.type is empty", CONF | {"delegate": {"type": ""}}, 7),
    ("delegate calls itself", CONF | {"delegate": {"type": "flannel"}}, 7),
    ("delegate is a path", CONF | {"delegate": {"type": "../../bin/sh"}}, 7),
    ("delegate has a zero", CONF | {"delegate": {"type": "bri\0dge"}}, 7),
    ("ipam is a list", CONF | {"ipam": []}, 7),
    ("ipam calls itself", CONF | {"ipam": {"type": "flannel"}}, 7),
    ("ipam.type is a number", CONF | {"ipam": {"type": 5}}, 7),
    ("routes are an object", CONF | {"ipam": {"routes": {}}}, 7),
    ("route is a string", CONF | {"ipam": {"routes": ["10.0.0.0/8"]}}, 7),
    ("route without dst", CONF | {"ipam": {"routes": [{"gw": "10.0.0.1"}]}}, 7),
    ("route to nowhere", CONF | {"ipam": {"routes": [{"dst": "10.0.0.0/40"}]}}, 7),
    ("route by a netmask", CONF | {"ipam": {"routes": [{"dst": "10.0.0.0/255.0.0.0"}]}}, 7),
    ("route through nothing", CONF | {"ipam": {"routes": [{"dst": "10.0.0.0/8", "gw": "10.0.0.256"}]}}, 7),
    ("route with a text as mtu", CONF | {"ipam": {"routes": [{"dst": "10.0.0.0/8", "mtu": "1400"}]}}, 7),
    ("runtimeConfig is a string", CONF | {"runtimeConfig": "x"}, 7),
    ("subnetFile is a number", CONF | {"subnetFile": 5}, 7),
    ("subnetFile has a zero", CONF | {"subnetFile": "/a\0b"}, 7),
    ("subnetFile is half a pair", CONF | {"subnetFile": "/\ud800"}, 7),
    ("dataDir is a list", CONF | {"dataDir": []}, 7),
]


@pytest.mark.parametrize(("conf", "code"), [row[1:] for row in INPUTS], ids=[row[0] for row in INPUTS])
def test_bad_input(node: Node, pods: PodMaker, conf: Any, code: int) -> None:
    given = {"subnetFile": str(node.env_file), "dataDir": str(node.data)} | conf if isinstance(conf, dict) else conf
    document = refused(node, "ADD", given, netns=pods().path)
    assert document["code"] == code, document
    assert document["msg"] and len(json.dumps(document)) < 5000


ENVIRONMENTS: list[tuple[dict[str, str], str]] = [
    ({"container": ""}, "[CNI_CONTAINERID] missing"),
    (
        {"container": "", "ifname": "", "CNI_PATH": "", "netns": ""},
        "[CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH] missing",
    ),
    ({"container": "../../../etc/passwd"}, "CNI_CONTAINERID"),
    ({"container": "a\n"}, "CNI_CONTAINERID"),
    ({"container": "-rf"}, "CNI_CONTAINERID"),
    ({"container": "a@b"}, "CNI_CONTAINERID"),
    ({"container": "é"}, "CNI_CONTAINERID"),
    ({"ifname": "sixteen-bytes-xx"}, "longer than 15 bytes"),
    ({"ifname": "ééééé-ééé"}, "longer than 15 bytes"),
    ({"ifname": ".."}, "not a name"),
    ({"ifname": "a/b"}, "slash"),
    ({"ifname": "a:b"}, "colon"),
    ({"ifname": "a\u00a0b"}, "blank"),
    ({"verb": "add"}, "unknown CNI_COMMAND: add"),
    ({"verb": "FROB"}, "unknown CNI_COMMAND: FROB"),
]


@pytest.mark.parametrize(("environ", "said"), ENVIRONMENTS, ids=[row[1] for row in ENVIRONMENTS])
def test_bad_environment(node: Node, environ: dict[str, str], said: str) -> None:
    environ = {"netns": "/run/netns/x"} | environ
    document = refused(node, environ.pop("verb", "ADD"), node.conf(), **environ)
    assert document["code"] == 4 and said in f"{document['msg']}; {document.get('details')}"


def test_malformed_variable_is_reported_before_missing_ones(node: Node) -> None:
    document = refused(node, "ADD", node.conf(), container="a/b", ifname="")
    assert "invalid characters" in document["msg"]


def test_bytes_that_are_no_text(node: Node) -> None:
    environ = {name.encode(): value.encode() for name, value in node.environ("DEL", "x", "", "eth0").items()}
    for name in (b"CNI_CONTAINERID", b"CNI_IFNAME", b"CNI_COMMAND"):
        done = subprocess.run(
            [node.bin / "flannel"],
            input=b"{}",
            env=environ | {name: b"\xff\xfe" * 20},
            capture_output=True,
            check=False,
        )
        assert json.loads(done.stdout)["code"] in (4, 7) and done.returncode == 1 and b"Traceback" not in done.stderr


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_closed_descriptor(node: Node, pods: PodMaker, closed: int) -> None:
    """A file of ours must not get the number of a standard descriptor."""
    pod = pods()
    shell = ["ip", "netns", "exec", node.space.name, "sh", "-c", f'exec "$0" {closed}>&-', str(node.bin / "flannel")]
    done = subprocess.run(
        shell,
        input=json.dumps(node.conf()).encode(),
        env=node.environ("ADD", "pod1", pod.path, "eth0"),
        capture_output=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert b"Traceback" not in done.stderr
    if closed == 0:
        assert json.loads(done.stdout)["code"] == 6
    elif closed == 1:
        assert done.returncode == 0 and done.stdout == b""
    else:
        assert json.loads(done.stdout)["ips"]
    node.delete(node.conf(), pod.path)
    assert node.left() == NOTHING


def test_reader_that_is_gone(node: Node, pods: PodMaker) -> None:
    pod = pods()
    reading, writing = os.pipe()
    os.close(reading)
    with open(node.base / "conf", "w+") as stdin:  # noqa: PTH123
        json.dump(node.conf(), stdin)
        stdin.seek(0)
        environ = node.environ("ADD", "pod1", pod.path, "eth0")
        done = subprocess.run(
            node.command(), stdin=stdin, stdout=writing, env=environ, stderr=subprocess.PIPE, check=False
        )
    os.close(writing)
    assert done.returncode == 1 and done.stderr == b""
    node.delete(node.conf(), pod.path)
    assert node.left() == NOTHING


def test_input_that_cannot_be_read(node: Node) -> None:
    fd = os.open("/dev/null", os.O_WRONLY)
    environ = node.environ("DEL", "pod1", "", "eth0")
    done = subprocess.run([node.bin / "flannel"], stdin=fd, env=environ, capture_output=True, check=False)
    os.close(fd)
    assert json.loads(done.stdout)["code"] == 5


@pytest.mark.parametrize("data", [b"", b"garbage", b"{}", b'{"cniVersion": "9.9"}', b'{"cniVersion": 7}'])
def test_version_answers_whatever_it_is_given(node: Node, data: bytes) -> None:
    answer = node.call("VERSION", data, container="", ifname="", CNI_PATH="")
    assert answer.code == 0 and answer.document is not None
    assert answer.document["cniVersion"] == "1.1.0"
    assert answer.document["supportedVersions"] == list(result.SUPPORTED)


def test_version_repeats_the_version_asked_with(node: Node) -> None:
    answer = node.call("VERSION", {"cniVersion": "0.4.0"})
    assert answer.document is not None and answer.document["cniVersion"] == "0.4.0"


def test_about_without_a_command(node: Node) -> None:
    answer = node.call("", b"")
    assert (answer.code, answer.document) == (0, None)
    assert answer.log == result.about() and result.VERSION == VERSION


def test_large_configuration_does_not_block(node: Node, pods: PodMaker) -> None:
    """More than a pipe holds, in both directions."""
    pod = pods()
    conf = node.conf(delegate={"x-note": "n" * 1_000_000})
    node.add(conf, pod.path)
    node.delete(conf, pod.path)
    assert node.left() == NOTHING


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
keys = st.sampled_from(
    ["name", "cniVersion", "delegate", "ipam", "runtimeConfig", "subnetFile", "dataDir", "prevResult"]
)


@given(st.dictionaries(keys, json_values | st.sampled_from(["cbr0", "1.0.0"])), st.binary() | st.none())
def test_any_configuration_is_understood_or_refused(config: dict[str, Any], raw: bytes | None) -> None:
    environment = Environment({b"CNI_COMMAND": b"ADD"})
    env, _ = parse_subnet_env(SUBNET_ENV)
    try:
        asked = request.parse_request(environment, json.dumps(config).encode() if raw is None else raw)
        netconf.data_dir(asked)
        assembled = netconf.delegate_config(netconf.NetConf(asked), env)
    except CniError as error:
        assert error.code in (1, 6, 7) and error.message
    else:
        assert json.loads(jsontext.encode(assembled)) == assembled


@given(json_values)
def test_json_text_is_that_of_the_standard_module(value: Any) -> None:
    text = json.dumps(value)
    assert jsontext.decode(text.encode()) == json.loads(text)
    assert json.loads(jsontext.encode(value)) == value
    assert jsontext.encode(value) == json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


@given(st.binary() | st.text(alphabet='{}[]",:0123456789.eE-tfn \\u').map(str.encode))
def test_json_is_refused_where_the_standard_module_refuses(data: bytes) -> None:
    try:
        wanted = json.loads(data.decode())
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            jsontext.decode(data)
    else:
        try:
            assert jsontext.decode(data) == wanted
        except ValueError as error:
            assert "is no JSON" in str(error)  # NaN and Infinity, which the standard module takes
