"""Whether the daemon may write what a pod needs, which in a container it often may not: found out before any change."""

import subprocess
import sys

import pytest

from tests.netns.space import Namespace

CHECK = """
import os
from flanneld_py.netlink.socket import NetlinkSocket
from flanneld_py.pods.exchange import NotForUs
from flanneld_py.pods.network import Network
from flanneld_py.pods.wiring import Container, check_container, check_host
network = Network({{}}, "1.0.0", "cni0", 1400, False, False, False, False, (), (), "/nowhere")
conf4, conf6 = (os.open(f"/proc/sys/net/{{one}}/conf", os.O_RDONLY) for one in ("ipv4", "ipv6"))
with NetlinkSocket() as sock:
    try:
        {call}
    except NotForUs as reason:
        print(reason)
    else:
        print("fine")
"""
HOST = "check_host(sock, network)"
CONTAINER = "check_container(Container(sock, -1, conf4, conf6, 'eth0'))"
READ_ONLY = "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && "


def said(space: Namespace, call: str, before: str = "") -> str:
    """What the check says in the namespace; `before`: shell commands that end in &&."""
    command = ["ip", "netns", "exec", space.name, "unshare", "--mount", "sh", "-c", f'{before}exec "$@"', "sh"]
    program = CHECK.format(call=call)
    done = subprocess.run([*command, sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(("accepts", "found"), [("0", "fine"), ("1", "accept_ra is not 0, and cannot be set")])
def test_a_bridge_that_would_obey_a_pods_advertisements_is_left_to_the_plugin(
    netns: Namespace, accepts: str, found: str
) -> None:
    netns.ip("link", "add", "cni0", "type", "bridge")
    set_it = f"echo {accepts} > /proc/sys/net/ipv6/conf/cni0/accept_ra && "
    assert said(netns, HOST, set_it + READ_ONLY).endswith(found)
    assert said(netns, HOST, set_it) == "fine"


def test_a_bridge_that_is_not_there_yet_would_obey_them(netns: Namespace) -> None:
    assert said(netns, HOST, READ_ONLY).endswith("accept_ra is not 0, and cannot be set")
    assert said(netns, HOST) == "fine"


def test_a_container_whose_settings_cannot_be_written_is_left_to_the_plugin(netns: Namespace) -> None:
    assert said(netns, CONTAINER, READ_ONLY) == "the container's settings cannot be written"
    assert said(netns, CONTAINER) == "fine"
