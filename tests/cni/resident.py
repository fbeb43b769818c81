"""The resident way: the launcher as the plugin's entry, and the daemon's half of it in this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flanneld_py.netlink.netns import in_netns
from flanneld_py.pods.server import PodServer
from tests.netns.space import Namespace


@contextmanager
def serving(space: Namespace, subnet_file: Path) -> Iterator[PodServer]:
    """A daemon's server for the plugin, in the node's namespace."""
    server = PodServer(subnet_file)
    in_netns(space.path, server.start)
    try:
        yield server
    finally:
        server.close()
