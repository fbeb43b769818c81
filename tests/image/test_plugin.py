"""The init container: the CNI plugin of the image onto a node, as the DaemonSet's manifest calls it."""

import json
import shutil
from pathlib import Path

from tests.image.conftest import LIMITS, Podman

PLUGINS = Path("/usr/lib/cni")
ROOT = Path(__file__).parents[2]


def test_the_plugin_and_the_conflist_are_placed_on_a_node_without_python(
    image: Path, podman: Podman, tmp_path: Path
) -> None:
    binaries, networks = tmp_path / "bin", tmp_path / "net.d"
    binaries.mkdir()
    networks.mkdir()
    for name in ("bridge", "host-local", "portmap"):
        shutil.copy(PLUGINS / name, binaries)
    conflist = tmp_path / "cni-conf.json"
    conflist.write_text((ROOT / "deploy/cni/10-flannel.conflist").read_text())
    podman(
        *("run", "--rm", *LIMITS, "--network=none", "--read-only", "--read-only-tmpfs=false", "--cap-drop=all"),
        *(f"--volume={binaries}:/opt/cni/bin", f"--volume={networks}:/etc/cni/net.d"),
        *(f"--volume={conflist}:/etc/kube-flannel/cni-conf.json:ro", "--entrypoint=/opt/cni/flannel/flannel"),
        *("--rootfs", f"{image}/rootfs:O", "install", "--conf=/etc/kube-flannel/cni-conf.json"),
    )
    assert (networks / "10-flannel.conflist").read_text() == conflist.read_text()

    # A container of nothing but these files stands for a node without Python, shell and libc.
    node = tmp_path / "node"
    (node / "opt/cni").mkdir(parents=True)
    shutil.copytree(binaries, node / "opt/cni/bin", symlinks=True)
    answer = podman(
        *("run", "--rm", "--interactive", *LIMITS, "--network=none", "--env=CNI_COMMAND=VERSION"),
        *("--entrypoint=/opt/cni/bin/flannel", "--rootfs", f"{node}:O"),
    )
    assert "1.0.0" in json.loads(answer)["supportedVersions"]
