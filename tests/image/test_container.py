"""The daemon in a container of the image: read-only, with two capabilities, and with /proc/sys out of reach."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from flanneld_py.lab.namespaces import inside
from tests.daemon.conftest import Ground
from tests.daemon.field import VXLAN, link, tables
from tests.daemon.test_probes import probe
from tests.image.conftest import Node
from tests.waiting import eventually

FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
CAPABILITIES = (1 << 12) | (1 << 13)
"""CAP_NET_ADMIN and CAP_NET_RAW, include/uapi/linux/capability.h."""


def wait_ready(node: Node, namespace: str) -> None:
    eventually("the container is ready", lambda: probe(namespace, "/readyz")[0] == 200, node.log)


def field_of(pid: int, name: str) -> str:
    found = re.search(rf"^{name}:\s+(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def configure(ground: Ground, backend: Mapping[str, object]) -> None:
    ground.put("config", json.dumps({"Network": "10.84.0.0/16", "Backend": backend}))


@pytest.mark.parametrize("kind", ["vxlan", "host-gw"])
def test_a_container_and_a_daemon_of_the_host_make_one_network(node: Node, ground: Ground, kind: str) -> None:
    configure(ground, {"Type": kind})
    other = ground.daemon(number=2).ready()
    namespace = ground.namespace()
    assert probe(namespace, "/healthz")[0] == 0
    node.start()
    wait_ready(node, namespace)
    subnet = node.status()["subnets"]
    eventually("they know each other", lambda: (node.status()["peers"], other.status()["peers"]) == (1, 1), node.log)
    assert list(tables(ground.namespace(2)).routes) == subnet
    assert (node.folder / "run/subnet.env").read_text().startswith("FLANNEL_NETWORK=10.84.0.0/16\n")

    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert int(field_of(node.pid, name), 16) == CAPABILITIES
    assert field_of(node.pid, "NoNewPrivs") == "1"

    assert node.stop() == 0
    assert "Exiting cleanly..." in node.log()
    assert list(tables(ground.namespace(2)).routes) == subnet


def test_a_sysctl_out_of_reach_is_said_once_with_its_mend(
    node: Node, ground: Ground, request: pytest.FixtureRequest
) -> None:
    """Engines mount /proc/sys read-only: a state, neither a failure to start nor a loop."""
    configure(ground, VXLAN)
    namespace = ground.namespace()
    inside(namespace, lambda: FORWARDING.write_text("0"))
    request.addfinalizer(lambda: inside(namespace, lambda: FORWARDING.write_text("1")))
    node.start()
    wait_ready(node, namespace)
    mend = "Read-only file system; set it on the host: sysctl -w net/ipv4/ip_forward=1"
    (failure,) = node.status()["failures"]
    assert failure.endswith(mend)

    seen: set[int] = set()

    def made_again() -> bool:
        return link(namespace, "flannel.1").get("ifindex") not in {None, *seen}

    for _ in range(3):
        eventually("the device is there", made_again, node.log)
        seen.add(link(namespace, "flannel.1")["ifindex"])
        ground.field.hand(1, "link del flannel.1")
    eventually("the device is there", made_again, node.log)
    eventually("it is ready again", lambda: probe(namespace, "/readyz")[0] == 200, node.log)
    assert probe(namespace, "/readyz") == (200, "flanneld is ready\n")
    assert node.log().count(mend) == 1

    inside(namespace, lambda: FORWARDING.write_text("1"))
    ground.field.hand(1, "link del flannel.1")
    eventually("what the host has mended is no failure", lambda: node.status()["failures"] == [], node.log)


def test_the_udp_backend_needs_the_tun_device_and_no_more(node: Node, ground: Ground) -> None:
    configure(ground, {"Type": "udp"})
    node.start(options=("--device=/dev/net/tun",))
    wait_ready(node, ground.namespace())
    worker = node.status()["worker"]
    eventually("the worker counts", lambda: node.status()["worker"] is not None, lambda: worker)
    worker = node.status()["worker"]
    assert isinstance(worker, dict)
    assert worker["pump"] == "native"


def test_without_the_tun_device_it_says_so(node: Node, ground: Ground) -> None:
    configure(ground, {"Type": "udp"})
    node.start()
    eventually("the reason is told", lambda: "/dev/net/tun" in probe(ground.namespace(), "/readyz")[1], node.log)


def test_without_the_capability_it_says_so(node: Node, ground: Ground) -> None:
    configure(ground, VXLAN)
    node.start(capabilities=("NET_RAW",))
    eventually("the reason is told", lambda: "CAP_NET_ADMIN" in node.log(), node.log)
    assert "Traceback" not in node.log()
