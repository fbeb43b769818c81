"""The whole daemon against a real API server: from its flags to the kernel's tables and back to the Node object."""

from pathlib import Path
from typing import Any

import pytest

from bench.cgroup import limited
from flanneld_py.lab import process
from flanneld_py.lab.kubernetes import API_SERVER, CONTROLLERS
from tests.kubernetes.place import ADDRESS, Place
from tests.kubernetes.stores import PREFIX, go_annotations
from tests.waiting import eventually


def add_peer(place: Place, number: int) -> tuple[str, str]:
    """A node as Go flannel leaves it; its route in our kernel."""
    net = f"10.244.{number}.0/24"
    place.add_node(f"n{number}", annotations=go_annotations(number), pod_networks=[net])
    return net, f"10.244.{number}.0"


def condition(place: Place) -> dict[str, Any]:
    found = place.node("n1")["status"]["conditions"]
    return next((one for one in found if one["type"] == "NetworkUnavailable"), {})


def test_ready(place: Place) -> None:
    place.add_node("n1", str(ADDRESS), pod_networks=["10.244.1.0/24"])
    route = add_peer(place, 2)
    daemon = place.start_daemon()
    place.wait("ready")
    assert place.subnet_env() == (
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"
    )
    annotations = place.annotations("n1")
    assert annotations[PREFIX + "public-ip"] == str(ADDRESS)
    eventually("the peer is in the kernel", lambda: place.routes() == dict([route]))
    eventually("the condition is cleared", lambda: condition(place).get("status") == "False")
    assert condition(place)["reason"] == "FlannelIsUp"
    loaded = Path(f"/proc/{daemon.pid}/maps").read_text()
    assert "msgspec" in loaded and "grpc" not in loaded, "what only etcd needs takes no memory"
    assert place.token not in place.log.read_text() + str(place.status())


def test_condition_is_left_alone_if_told_so(place: Place) -> None:
    place.add_node("n1", str(ADDRESS), pod_networks=["10.244.1.0/24"])
    place.start_daemon("--set-node-network-unavailable=false", "-v=4")
    place.wait("ready")
    place.stop_daemon()
    assert condition(place) == {}
    assert place.token not in place.log.read_text(), "the libraries' own log lines hold no secret"


def test_the_reason_for_waiting_stands_in_the_status(place: Place) -> None:
    place.control.stop(CONTROLLERS)
    place.add_node("n1", str(ADDRESS))
    place.start_daemon()
    status = place.wait("waiting for a lease")
    eventually("the reason is told", lambda: place.status()["error"] == "node n1 has no podCIDR")
    assert "--allocate-node-cidrs=true --cluster-cidr=10.244.0.0/16" in place.status()["hint"]
    place.control.start(CONTROLLERS)
    status = place.wait("ready")
    assert (status["error"], status["hint"], status["store_ok"]) == (None, None, True)


def test_a_wish_on_the_node_counts_more_than_a_flag(place: Place) -> None:
    wish = {PREFIX + "node-public-ip": "203.0.113.5"}
    place.add_node("n1", str(ADDRESS), annotations=wish, pod_networks=["10.244.1.0/24"])
    place.start_daemon("--public-ip=203.0.113.4", "--iface=eth0")
    assert place.wait("ready")["public"] == ["203.0.113.5"]
    assert place.annotations("n1")[PREFIX + "public-ip"] == "203.0.113.5"


def test_our_node_comes_back_with_another_slice(place: Place) -> None:
    place.add_node("n1", str(ADDRESS), pod_networks=["10.244.1.0/24"])
    route = add_peer(place, 2)
    daemon = place.start_daemon()
    place.wait("ready")
    eventually("the condition is cleared", lambda: condition(place))
    place.delete_node("n1")
    place.add_node("n1", str(ADDRESS), pod_networks=["10.244.9.0/24"])
    eventually("the new slice is followed", lambda: "FLANNEL_SUBNET=10.244.9.1/24" in place.subnet_env())
    eventually("peers hear of it", lambda: place.annotations("n1").get(PREFIX + "public-ip") == str(ADDRESS))
    eventually("the condition is cleared again", lambda: condition(place))
    assert place.routes() == dict([route])
    assert process.alive(daemon)


def test_peers_that_change_while_the_server_is_away(place: Place) -> None:
    place.add_node("n1", str(ADDRESS), pod_networks=["10.244.1.0/24"])
    old, new = add_peer(place, 2), ("10.244.3.0/24", "10.244.3.0")
    place.start_daemon()
    place.wait("ready")
    eventually("the peer is in the kernel", lambda: place.routes() == dict([old]))
    place.control.stop(API_SERVER)
    eventually("that is noticed", lambda: not place.status()["store_ok"])
    assert "is away" in place.status()["error"]
    assert (place.status()["stage"], place.routes()) == ("ready", dict([old]))
    place.start_api_server()
    place.delete_node("n2")
    add_peer(place, 3)
    eventually("the kernel follows", lambda: place.routes() == dict([new]))
    eventually("the status is well again", lambda: place.status()["store_ok"] and place.status()["error"] is None)


def test_restart_keeps_the_mac(place: Place) -> None:
    place.add_node("n1", str(ADDRESS), pod_networks=["10.244.1.0/24"])
    place.start_daemon()
    place.wait("ready")
    before = place.annotations("n1")
    place.stop_daemon()
    place.start_daemon()
    place.wait("ready")
    assert place.annotations("n1") == before


@pytest.mark.parametrize("flags", [("--kubeconfig-file=/nowhere",), ("--kube-annotation-prefix=org",)])
def test_what_cannot_be_used_ends_it(place: Place, flags: tuple[str, ...]) -> None:
    daemon = place.start_daemon(*flags)
    assert process.wait(daemon, 30)
    status = place.status()
    assert status["stage"] == "failed" and status["error"].startswith(flags[0].partition("=")[0])


def test_a_configuration_that_cannot_be_used_ends_it(place: Place) -> None:
    place.add_node("n1", str(ADDRESS), pod_networks=["10.244.1.0/24"])
    place.write_config({"Type": "vxlan", "VNI": "one"})
    try:
        daemon = place.start_daemon()
        assert process.wait(daemon, 30)
    finally:
        place.write_config({"Type": "vxlan"})
    assert place.status()["stage"] == "failed"
    assert place.status()["error"].startswith(f"{place.folder / 'net-conf.json'}: Backend: VNI")


def test_a_thousand_nodes_fit_into_50_mib(place: Place) -> None:
    place.add_node("n1", str(ADDRESS), pod_networks=["10.244.0.0/26"])
    images = [{"names": [f"registry.example.org/image-{n}@sha256:{n:064x}"], "sizeBytes": n} for n in range(25)]
    for number in range(1, 1000):
        place.add_peer_object(f"p{number}", f"10.244.{number // 4}.{number % 4 * 64}/26", number, images)
    with limited(f"flanneld-test-{place.namespace}", memory_mib=50, cpus=None) as group:
        daemon = place.start_daemon(wrap=group.joining([]))
        try:
            eventually("all peers are in the kernel", lambda: len(place.routes()) == 999 or not process.alive(daemon))
            assert process.alive(daemon), f"{group.kills()} times killed by the limit"
            assert place.wait("ready")["peers"] == 999
            assert group.kills() == 0
        finally:
            place.stop_daemon()
