"""Pods connected as on a real node: by the plugin `flannel` and the CNI project's own, from a conflist.

Each node has directories of its own for programs, configuration and all state, since the nodes are namespaces of one
host and would otherwise share /opt/cni/bin, /etc/cni/net.d and /var/lib/cni.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flanneld_py.errors import LabError
from flanneld_py.lab import wiring
from flanneld_py.lab.chain import Attachment, Chain, search_path
from flanneld_py.lab.namespaces import exists, inside
from flanneld_py.lab.state import LabDirectory
from flanneld_py.lab.topology import AddrOnLink, Firewall, LabSpec, Node

PLUGINS = ("bridge", "host-local", "portmap")
NETWORK = "cbr0"
_PLACES = (Path("/usr/lib/cni"), Path("/opt/cni/bin"), Path("/usr/libexec/cni"))
"""Where distributions put the plugins of the CNI project."""
_CONFLIST = "10-flannel.conflist"
_INSTALL_S = 60.0


def find_plugins() -> Path:
    """The directory of the CNI project's plugins. LabError says how to get them."""
    for place in _PLACES:
        if all((place / name).is_file() for name in PLUGINS):
            return place
    raise LabError(
        f"the CNI plugins {', '.join(PLUGINS)} are not in {' or '.join(map(str, _PLACES))}",
        hint="install them: apt install containernetworking-plugins; or let the lab connect pods itself: --plain",
    )


def check_port_mapping() -> None:
    """LabError if the plugin that maps ports lacks the program that it calls."""
    if shutil.which("iptables", path=search_path()) is None:
        raise LabError("published ports need the program iptables", hint="apt install iptables")


def log_name(node: Node) -> str:
    return f"{node.name}-cni"


def install(plugins: Path, spec: LabSpec, node: Node, directory: LabDirectory) -> None:
    """Put programs and conflist into place, by our plugin's own installer. LabError with its words if it refuses."""
    home = _home(directory, node)
    (home / "bin").mkdir(parents=True)
    for name in PLUGINS:
        (home / "bin" / name).symlink_to(plugins / name)
    wanted = home / "wanted.conflist"
    wanted.write_text(json.dumps(_conflist(spec, home, directory.subnet_file(node.name)), indent=1) + "\n")
    command = [sys.executable, "-m", "cni_plugin", "install", "--conf", str(wanted)]
    command += ["--bin-dir", str(home / "bin"), "--conf-dir", str(home / "net.d")]
    try:
        done = inside(
            node.namespace,
            lambda: subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S, check=False),
        )
    except subprocess.TimeoutExpired:
        raise LabError(f"the installer of the CNI plugin did not end in {_INSTALL_S:.0f} s") from None
    if done.returncode != 0:
        raise LabError(f"CNI plugin on {node.name}: {(done.stderr or done.stdout).strip()}")


def connect(spec: LabSpec, node: Node, directory: LabDirectory) -> dict[str, tuple[AddrOnLink, ...]]:
    """The node's pods, made and connected one after another; their addresses."""
    chain, addresses = _chain(directory, node), {}
    for pod in node.pods:
        wiring.create_namespace(pod.namespace)
        ports = [
            {"hostPort": one.host, "containerPort": one.container, "protocol": "tcp"}
            for one in spec.published
            if one.pod == pod.name
        ]
        attachment = Attachment(pod.name, pod.namespace, {"portMappings": ports} if ports else {})
        addresses[pod.name] = chain.add(attachment)
    return addresses


def disconnect(node: Node, directory: LabDirectory) -> list[str]:
    """Ensure that no pod of the node is connected, and that nothing is kept of any; what is wrong with that."""
    chain = _chain(directory, node)
    if not chain.conflist.exists() or not exists(node.namespace):
        return []
    problems = chain.delete_all()
    return problems or [f"{node.name}: after DEL there is still {path}" for path in _kept(_home(directory, node))]


def _kept(home: Path) -> Iterator[Path]:
    """Records of attachments, and addresses given out, that DEL did not take back."""
    folders = (home / "flannel", home / "networks" / NETWORK)
    for path in (path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())):
        if not path.name.startswith((".", "lock", "last_reserved_ip")):
            yield path


def _chain(directory: LabDirectory, node: Node) -> Chain:
    home = _home(directory, node)
    log = directory.log(log_name(node))
    return Chain(home / "net.d" / _CONFLIST, home / "bin", home / "attachments", log, node.namespace)


def _home(directory: LabDirectory, node: Node) -> Path:
    return directory.node(node.name) / "cni"


def _conflist(spec: LabSpec, home: Path, subnet_file: Path) -> dict[str, Any]:
    """The one of the guides, with the node's own directories."""
    delegate: dict[str, Any] = {"hairpinMode": True, "isDefaultGateway": True}
    if spec.firewall is Firewall.NONE:
        # Otherwise the plugin masquerades where the daemon does not, and hides pods from each other.
        delegate["ipMasq"] = False
    flannel = {
        "type": "flannel",
        "subnetFile": str(subnet_file),
        "dataDir": str(home / "flannel"),
        "ipam": {"dataDir": str(home / "networks")},
        "delegate": delegate,
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"name": NETWORK, "cniVersion": "1.0.0", "plugins": [flannel, portmap]}
