"""Beside a real dockerd's own chains and FORWARD's policy DROP: which rules of ours let containers through.

docker sets the policy when it is the one that switches forwarding on, so when it starts before flanneld. Here it starts
after it, with the subnet that it got, and the policy is set as docker would have.
"""

import subprocess
from dataclasses import replace

from flanneld_py.daemon.control import ask
from flanneld_py.lab import build
from flanneld_py.lab.build import Lab
from flanneld_py.lab.progress import Silent
from flanneld_py.lab.topology import Firewall, LabSpec, Wiring
from flanneld_py.lab.traffic import endpoints, ping_matrix
from flanneld_py.lab.view import complete
from tests.lab.test_docker import pytestmark
from tests.waiting import eventually

__all__ = ["pytestmark"]

SPEC = LabSpec(nodes=2, pods=1, wiring=Wiring.DOCKER)


def forward(lab: Lab) -> str:
    command = ["ip", "netns", "exec", lab.topology.nodes[0].namespace, "iptables", "-S"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def drop(lab: Lab) -> None:
    for node in lab.topology.nodes:
        subprocess.run(
            ["ip", "netns", "exec", node.namespace, "iptables", "-P", "FORWARD", "DROP"], check=True, timeout=30
        )


def talk(lab: Lab) -> bool:
    return complete(ping_matrix(endpoints(lab.topology, lab.record.pods, 4), count=1))


def warnings(lab: Lab) -> list[str]:
    answer = ask(lab.directory.subnet_file(lab.topology.nodes[0].name).parent, "status")
    assert answer is not None
    return list(answer["warnings"])


def test_in_iptables_mode_containers_reach_each_other(name: str) -> None:
    with build.temporary(replace(SPEC, name=name, firewall=Firewall.IPTABLES), Silent()) as lab:
        drop(lab)
        assert "-A FORWARD -j DOCKER-USER" in forward(lab)
        assert talk(lab)
        assert warnings(lab) == []


def test_in_nft_mode_docker_drops_and_is_named(name: str) -> None:
    with build.temporary(replace(SPEC, name=name, firewall=Firewall.NFT), Silent()) as lab:
        drop(lab)
        eventually("the chain is named", lambda: warnings(lab), lambda: forward(lab))
        (warning,) = warnings(lab)
        assert "the chain FORWARD of the table ip filter drops packets of pods: its policy is drop" in warning
        assert "iptables-nft -I DOCKER-USER -s 10.244.0.0/16 -j ACCEPT" in warning
        assert not talk(lab)


def test_in_nft_mode_the_fix_lets_containers_reach_each_other(name: str) -> None:
    spec = replace(SPEC, name=name, firewall=Firewall.NFT, daemon_flags=("--fix-foreign-forward",))
    with build.temporary(spec, Silent()) as lab:
        drop(lab)
        eventually("accepted", lambda: "-A DOCKER-USER -s 10.244.0.0/16" in forward(lab), lambda: forward(lab))
        eventually("containers talk", lambda: talk(lab), lambda: forward(lab))
        assert warnings(lab) == []
