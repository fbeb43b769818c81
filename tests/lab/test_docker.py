"""Containers on real dockerds. Needs Debian's docker.io, or anything else that puts dockerd and containerd on PATH."""

import shutil
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from flanneld_py.lab import build, docker, process, servers
from flanneld_py.lab.namespaces import inside
from flanneld_py.lab.progress import Silent
from flanneld_py.lab.topology import LabSpec, Wiring
from flanneld_py.lab.traffic import endpoints, ping_matrix
from flanneld_py.lab.view import complete
from tests.lab.conftest import Trace

pytestmark = pytest.mark.skipif(
    shutil.which("dockerd") is None or shutil.which("containerd") is None,
    reason="no dockerd here: containers on the overlay stay untested (apt install --no-install-recommends docker.io)",
)


def host() -> tuple[list[str], list[str], list[str]]:
    """What a dockerd could change on the machine: devices, mounts, control groups."""
    links = sorted(entry.name for entry in Path("/sys/class/net").iterdir())
    mounted = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    # Named namespaces, of the lab and of other programs, are no trace of docker.
    mounts = sorted(path for path in mounted if not path.startswith("/run/netns"))
    groups = sorted(str(path) for path in Path("/sys/fs/cgroup").rglob("*flanneld-lab*"))
    traces = [path for path in docker._TRACES if Path(path).exists()]
    return links, mounts, groups + traces


def docker0(ipr: IPRoute) -> tuple[int, list[str]]:
    index = ipr.link_lookup(ifname="docker0")[0]
    (link,) = ipr.get_links(index)
    return link.get("mtu"), [f"{a.get('address')}/{a['prefixlen']}" for a in ipr.get_addr(index=index, family=2)]


def test_containers_on_two_dockerds_reach_each_other_and_nothing_is_left(name: str) -> None:
    before = host()
    with build.temporary(LabSpec(name=name, nodes=2, pods=2, wiring=Wiring.DOCKER), Silent()) as lab:
        assert complete(ping_matrix(endpoints(lab.topology, lab.record.pods, 4), count=1))
        for node in lab.topology.nodes:
            env = servers.read_network(lab.directory, node)

            def read() -> tuple[int, list[str]]:
                with IPRoute() as ipr:
                    return docker0(ipr)

            mtu, addresses = inside(node.namespace, read)
            assert addresses == [str(env.subnets[0])]
            assert mtu == env.mtu == 1450
            for pod in node.pods:
                assert lab.record.pods[pod.name][0].network == env.subnets[0].network
    Trace(name).assert_nothing()
    assert host() == before


def test_killed_dockerds_leave_nothing_either(name: str) -> None:
    before = host()
    with build.temporary(LabSpec(name=name, nodes=1, pods=1, wiring=Wiring.DOCKER), Silent()) as lab:
        node = lab.topology.nodes[0]
        for server in (docker.server_name(node), docker.containerd_name(node)):
            servers.stop_daemon(lab.record.processes[server], hard=True)
        assert not process.alive(lab.record.processes[docker.server_name(node)])
    Trace(name).assert_nothing()
    assert host() == before
