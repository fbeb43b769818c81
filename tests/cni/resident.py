"""The resident way: the launcher as the plugin's entry, and the daemon's half of it in this process."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cni_plugin import launcher, program
from flanneld_py.netlink.netns import in_netns
from flanneld_py.pods.server import PodServer
from tests.netns.space import Namespace

START = "{python}\n{flags}\n./flannel.py\n"
SCRIPT = """\
import sys

sys.path.insert(0, __file__.rpartition("/")[0])
from cni_plugin.main import main

main()
"""


def install(folder: Path) -> None:
    """The plugin with the launcher as its entry."""
    launcher.make_launcher(folder / "flannel")
    parts = folder / "flannel.d"
    (parts / "cni_plugin").mkdir(parents=True)
    for path in Path(program.__file__).parent.glob("*.py"):
        shutil.copy(path, parts / "cni_plugin")
    (parts / "flannel.py").write_text(SCRIPT)
    (parts / "start").write_text(START.format(python=program.own_program(None).python, flags=program.FLAGS))


@contextmanager
def serving(space: Namespace, subnet_file: Path) -> Iterator[PodServer]:
    """A daemon's server for the plugin, in the node's namespace."""
    server = PodServer(subnet_file)
    in_netns(space.path, server.start)
    try:
        yield server
    finally:
        server.close()
