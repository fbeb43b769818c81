"""The daemon connects pods itself: what it makes is what the plugins would have made, and either may go on with it."""

import fcntl
import json
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from flanneld_py.pods import server
from flanneld_py.pods.exchange import RESULT
from tests.cni import resident
from tests.cni.node import DUAL_STACK_ENV, NOTHING, SUBNET_ENV, Node, PodMaker
from tests.cni.test_lifecycle import VERSIONS
from tests.netns.space import Namespace

WAYS = ("resident",)

OURS_ALONE = ("mac", "name", "sandbox", "address", "link_index", "ifindex", "local")


@pytest.fixture
def lonely(node: Node) -> Node:
    """A node without the plugins, so that nobody else can connect a pod."""
    for name in ("bridge", "host-local"):
        (node.bin / name).unlink()
    return node


def without(value: Any, keys: tuple[str, ...]) -> Any:
    """The value without what is another's each time."""
    if isinstance(value, dict):
        return {key: without(one, keys) for key, one in value.items() if key not in keys}
    return [without(one, keys) for one in value] if isinstance(value, list) else value


def by_the_plugins(node: Node, env: str = SUBNET_ENV) -> Node:
    """The same node where the launcher finds no daemon: its subnet.env lies elsewhere."""
    other = Node(node.space, node.base / "plain", node.bin)
    other.env_file.write_text(env)
    other.data, other.addresses = node.data, node.addresses
    return other


@pytest.fixture(autouse=True)
def _room_for_another_run_directory(node: Node) -> None:
    (node.base / "plain").mkdir()


def test_pod_is_connected_and_disconnected_without_the_plugins(lonely: Node, pods: PodMaker) -> None:
    pod = pods()
    result = lonely.add(lonely.conf(), pod.path)
    assert [one["address"] for one in result["ips"]] == ["10.77.9.2/24"]
    assert lonely.held() == ["10.77.9.2"] and lonely.records() == ["cbr0@pod1@eth0"] and len(lonely.links()) == 1
    lonely.delete(lonely.conf(), pod.path)
    assert lonely.left() == NOTHING
    assert [link["ifname"] for link in pod.ip_json("link")] == ["lo"]


@pytest.mark.parametrize("env", [SUBNET_ENV, DUAL_STACK_ENV])
@pytest.mark.parametrize("version", VERSIONS)
def test_result_is_that_of_the_plugins(node: Node, pods: PodMaker, version: str, env: str) -> None:
    node.env_file.write_text(env)
    plain = by_the_plugins(node, env)
    ipam = {"dataDir": str(node.addresses), "routes": [{"dst": "192.0.2.0/24", "gw": "10.77.9.77"}]}
    results = []
    for one in (node, plain):
        pod = pods()
        results.append(one.add(one.conf(version=version, ipam=ipam), pod.path))
        one.delete(one.conf(version=version, ipam=ipam), pod.path)
        for path in (node.addresses / "cbr0").glob("last*"):
            path.unlink()
    assert without(results[0], ("mac", "name", "sandbox")) == without(results[1], ("mac", "name", "sandbox"))
    if version >= "0.3":
        resident, plugins = (one["interfaces"] for one in results)
        assert [one.keys() for one in resident] == [one.keys() for one in plugins]
        assert resident[0]["name"] == "cni0" and resident[0] == plugins[0]


SETTINGS = (
    "ipv4/conf/eth0/arp_notify",
    "ipv6/conf/eth0/accept_dad",
    "ipv6/conf/eth0/disable_ipv6",
    "ipv6/conf/lo/disable_ipv6",
)
VOLATILE = (
    *("ifindex", "link_index", "address", "local", "name", "ifname", "link", "id", "no", "forward_delay_timer"),
    *("hold_timer", "gc_timer", "bridge_id", "root_id", "broadcast", "tentative", "link_netnsid"),
)


def leaves(value: Any, path: str = "") -> Iterator[str]:
    """Each value in it, with where it stands."""
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(one, f"{path}/{key}")
    else:
        yield f"{path} {value}"


def pod_state(pod: Namespace) -> Any:
    show = ["ip", "netns", "exec", pod.name, "grep", "-h", ".", *(f"/proc/sys/net/{one}" for one in SETTINGS)]
    return {
        "links": without(pod.ip_json("addr", "show", "dev", "eth0"), VOLATILE),
        "routes": [pod.ip_json("-4", "route", "show", "table", "all"), pod.ip_json("-6", "route", "show")],
        "settings": pod._run(*show).split(),
    }


def host_state(node: Node, host: str) -> Any:
    settings = [f"/proc/sys/net/ipv6/conf/{name}/accept_ra" for name in ("cni0", host)]
    forwarding = ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"]
    return {
        "links": [without(node.space.ip_json("addr", "show", "dev", name), VOLATILE) for name in ("cni0", host)],
        "settings": Namespace._run("ip", "netns", "exec", node.space.name, "cat", *settings, *forwarding).split(),
    }


@pytest.mark.parametrize("delegate", [{}, {"hairpinMode": True}, {"promiscMode": True}, {"isDefaultGateway": True}])
@pytest.mark.parametrize("env", [SUBNET_ENV, DUAL_STACK_ENV])
def test_kernel_holds_what_the_plugins_make(node: Node, pods: PodMaker, env: str, delegate: dict[str, Any]) -> None:
    node.env_file.write_text(env)
    states = []
    for one in (node, by_the_plugins(node, env)):
        pod = pods()
        pod._run("ip", "netns", "exec", pod.name, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
        host = one.add(one.conf(delegate=delegate), pod.path)["interfaces"][1]["name"]
        states.append({"pod": pod_state(pod), "host": host_state(one, host)})
        one.delete(one.conf(delegate=delegate), pod.path)
        one.space.ip("link", "del", "cni0")
        for path in (node.addresses / "cbr0").glob("last*"):
            path.unlink()
    ours, plugins = (set(leaves(state)) for state in states)
    assert (ours - plugins, plugins - ours) == (set(), set())


def test_files_are_those_of_host_local(node: Node, pods: PodMaker) -> None:
    node.env_file.write_text(DUAL_STACK_ENV)
    seen = []
    for one in (node, by_the_plugins(node, DUAL_STACK_ENV)):
        pod = pods()
        one.add(one.conf(), pod.path)
        paths = sorted((node.addresses / "cbr0").iterdir())
        seen.append({path.name: (path.read_bytes(), stat.filemode(path.stat().st_mode)) for path in paths})
        record = json.loads((node.data / "cbr0@pod1@eth0").read_bytes())
        seen[-1]["record"] = (record["delegate"], stat.filemode((node.data / "cbr0@pod1@eth0").stat().st_mode))
        assert record["netns"] == pod.path and record["namespace"] == [*map(ns_id(pod).__getattribute__, NS_ID)]
        one.delete(one.conf(), pod.path)
        for path in (*node.data.iterdir(), *(node.addresses / "cbr0").iterdir()):
            path.unlink()
        (node.addresses / "cbr0").rmdir()
    assert seen[0] == seen[1]


NS_ID = ("st_dev", "st_ino")


def ns_id(pod: Namespace) -> Any:
    return Path(pod.path).stat()


@pytest.mark.parametrize("first", ["resident", "plain"])
def test_either_way_deletes_what_the_other_added(node: Node, pods: PodMaker, first: str) -> None:
    pod, plain = pods(), by_the_plugins(node)
    adding, deleting = (node, plain) if first == "resident" else (plain, node)
    adding.add(adding.conf(), pod.path)
    if first == "plain":
        for name in ("bridge", "host-local"):
            (node.bin / name).unlink()
    deleting.delete(deleting.conf(), pod.path)
    assert node.left() == NOTHING
    assert [link["ifname"] for link in pod.ip_json("link")] == ["lo"]


def test_addresses_go_round_through_both_ways(node: Node, pods: PodMaker) -> None:
    """Both skip what the other gave out, and go on from the last one."""
    plain = by_the_plugins(node, SUBNET_ENV.replace("/24", "/29"))
    node.env_file.write_text(SUBNET_ENV.replace("/24", "/29"))
    seen = []
    for number in range(5):
        one = (node, plain)[number % 2]
        seen.append(one.add(one.conf(), pods().path, container=f"c{number}")["ips"][0]["address"])
    assert seen == [f"10.77.9.{number}/29" for number in range(2, 7)]
    answer = node.call("ADD", node.conf(), netns=pods().path, container="c9")
    assert answer.code == 1 and "no IP addresses available" in answer.text
    node.delete(node.conf(), "", container="c1")
    assert node.add(node.conf(), pods().path, container="c9")["ips"][0]["address"] == "10.77.9.3/29"


LEFT_TO_THE_PLUGINS: dict[str, dict[str, Any]] = {
    "another delegate": {"delegate": {"type": "ptp"}},
    "a VLAN": {"delegate": {"vlan": 7}},
    "masquerading": {"delegate": {"ipMasq": True}},
    "an unknown key": {"delegate": {"anything": 1}},
    "a wrong type": {"delegate": {"hairpinMode": "yes"}},
    "a MAC": {"runtimeConfig": {"mac": "02:00:00:00:00:07"}},
    "other IPAM": {"ipam": {"type": "static"}},
    "a resolver": {"ipam": {"resolvConf": "/etc/resolv.conf"}},
    "a route's metric": {"ipam": {"routes": [{"dst": "192.0.2.0/24", "mtu": 1000}]}},
    "another daemon": {"subnetFile": "/run/flannel/subnet.env"},
    "a relative path": {"dataDir": "data"},
}


@pytest.mark.parametrize("what", LEFT_TO_THE_PLUGINS)
def test_what_is_not_usual_is_left_to_the_plugins(lonely: Node, pods: PodMaker, what: str) -> None:
    before = {path: path.read_bytes() for path in lonely.base.rglob("*") if path.is_file()}
    answer = lonely.call("ADD", lonely.conf(**LEFT_TO_THE_PLUGINS[what]), netns=pods().path)
    assert answer.code == 1
    assert lonely.left() == NOTHING
    assert {path: path.read_bytes() for path in lonely.base.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("arguments", ["IgnoreUnknown=1;IP=10.77.9.77", "K8S_POD_NAME=web", "a;b"])
def test_arguments_for_the_plugins_are_left_to_them(lonely: Node, pods: PodMaker, arguments: str) -> None:
    assert lonely.call("ADD", lonely.conf(), netns=pods().path, CNI_ARGS=arguments).code == 1
    assert lonely.left() == NOTHING


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(text)


DAMAGES: dict[str, Callable[[Node], object]] = {
    "no subnet.env": lambda node: node.env_file.unlink(),
    "half a subnet.env": lambda node: node.env_file.write_text("FLANNEL_MTU=1400\n"),
    "a record": lambda node: put(node.data / "cbr0@pod1@eth0", ""),
    "the begin of a record": lambda node: put(node.data / ".cbr0@pod1@eth0", ""),
    "a file for a directory": lambda node: node.data.write_text(""),
    "no bridge under its name": lambda node: node.space.ip("link", "add", "cni0", "type", "veth"),
    "an address": lambda node: put(node.addresses / "cbr0" / "10.77.9.9", "pod1\r\neth0"),
    "an address of an old host-local": lambda node: put(node.addresses / "cbr0" / "10.77.9.9", "pod1"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_node_that_is_not_usual_is_left_to_the_plugins(lonely: Node, pods: PodMaker, what: str) -> None:
    DAMAGES[what](lonely)
    held, links = lonely.held(), lonely.links()
    assert lonely.call("ADD", lonely.conf(), netns=pods().path).code == 1
    assert (lonely.held(), lonely.links()) == (held, links)


def test_failure_in_the_middle_leaves_nothing(lonely: Node, pods: PodMaker) -> None:
    """The route's gateway is on no link of the pod's, which the kernel says when all else is made."""
    ipam = {"dataDir": str(lonely.addresses), "routes": [{"dst": "192.0.2.0/24", "gw": "198.51.100.1"}]}
    pod = pods()
    lonely.add(lonely.conf(), pods().path, container="neighbour")
    before = lonely.left()
    assert lonely.call("ADD", lonely.conf(ipam=ipam), netns=pod.path).code == 1
    assert lonely.left() == before
    assert [link["ifname"] for link in pod.ip_json("link")] == ["lo"]


def is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def test_nobody_comes_between_an_answer_that_is_not_heard_and_its_undoing(
    lonely: Node, pods: PodMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a DEL and another ADD could, and the undoing would take the address of a pod that lives."""
    say, locked = server._say, []

    def say_nothing(connection: socket.socket, message: bytes) -> bool:
        if message.startswith(RESULT):
            locked.append(is_locked(lonely.data / "cbr0@pod1@eth0"))
            return False
        return say(connection, message)

    monkeypatch.setattr(server, "_say", say_nothing)
    assert lonely.call("ADD", lonely.conf(), netns=pods().path).code == 1
    assert locked == [True]
    assert lonely.left() == NOTHING


def test_interface_that_is_there_stays(lonely: Node, pods: PodMaker) -> None:
    pod = pods()
    pod.ip("link", "add", "eth0", "type", "bridge")
    assert lonely.call("ADD", lonely.conf(), netns=pod.path).code == 1
    assert pod.ip_json("link", "show", "eth0")[0]["linkinfo"]["info_kind"] == "bridge"
    assert lonely.left() == NOTHING


def test_twenty_at_once_get_twenty_addresses(lonely: Node, pods: PodMaker) -> None:
    spaces = [pods() for _ in range(20)]
    with ThreadPoolExecutor(20) as pool:
        results = list(
            pool.map(lambda one: lonely.add(lonely.conf(), one[1].path, container=f"c{one[0]}"), enumerate(spaces))
        )
    given = {result["ips"][0]["address"] for result in results}
    assert len(given) == 20 and len(lonely.links()) == 20 and len(lonely.held()) == 20
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda one: lonely.delete(lonely.conf(), one[1].path, container=f"c{one[0]}"), enumerate(spaces)))
    assert lonely.left() == NOTHING


def test_half_of_twenty_by_the_plugins(node: Node, pods: PodMaker) -> None:
    """Both at once share host-local's lock."""
    plain = by_the_plugins(node)
    node.add(node.conf(), pods().path, container="first")
    work = [((node, plain)[number % 2], pods(), f"c{number}") for number in range(20)]
    with ThreadPoolExecutor(20) as pool:
        results = list(pool.map(lambda one: one[0].add(one[0].conf(), one[1].path, container=one[2]), work))
    assert len({result["ips"][0]["address"] for result in results}) == 20 and len(node.held()) == 21


def test_socket_is_the_owners_alone_and_goes_with_the_server(node: Node) -> None:
    path = node.env_file.with_name("cni.sock")
    assert stat.filemode(path.stat().st_mode) == "srw-------"
    with resident.serving(node.space, node.base / "plain" / "subnet.env"):
        assert (node.base / "plain" / "cni.sock").is_socket()
    assert not (node.base / "plain" / "cni.sock").exists()


def test_launcher_runs_other_commands_and_the_installer(node: Node) -> None:
    answer = node.call("VERSION", b"{}")
    assert answer.code == 0 and answer.document is not None and "1.1.0" in answer.document["supportedVersions"]
    done = subprocess.run([node.bin / "flannel", "install", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--bin-dir" in done.stdout
