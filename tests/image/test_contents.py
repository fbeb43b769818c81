"""What is in the image: all that the daemon imports, and nothing that a stranger could use."""

import os
import subprocess
from pathlib import Path

from tests.image.conftest import LIMITS, Podman

MAX_BYTES = 80 * 10**6
IMPORT_ALL = """
import importlib, pkgutil, sys
failed = []
for top in ("flanneld_py", "cni_plugin"):
    for found in pkgutil.walk_packages(importlib.import_module(top).__path__, top + "."):
        # A lab is no work for a container; what it needs is not in the image.
        if found.name.endswith("__main__") or found.name.startswith("flanneld_py.lab"):
            continue
        try:
            importlib.import_module(found.name)
        except ImportError as error:
            failed.append((found.name, str(error)))
print(failed)
"""


def in_container(podman: Podman, image: Path, *words: str) -> str:
    return podman(
        *("run", "--rm", *LIMITS, "--network=none", "--read-only", "--cap-drop=all", f"--entrypoint={words[0]}"),
        *("--rootfs", f"{image}/rootfs:O", *words[1:]),
    )


def test_every_module_can_be_imported(image: Path, podman: Podman) -> None:
    assert in_container(podman, image, "/usr/bin/python3", "-I", "-c", IMPORT_ALL) == "[]\n"


def test_the_native_pump_is_there(image: Path, podman: Podman) -> None:
    program = "from flanneld_py.dataplane.pump import choose; print(choose('auto').name)"
    assert in_container(podman, image, "/usr/bin/python3", "-I", "-c", program) == "native\n"


def test_byte_code_is_used_as_it_is(image: Path, podman: Podman) -> None:
    """A read-only image cannot keep what it compiles, so it would compile at each start."""
    program = (
        "import sys, flanneld_py.cli.run, flanneld_py.daemon.app\n"
        "print(*filter(None, (getattr(module, '__cached__', None) for module in sys.modules.values())))"
    )
    cached = in_container(podman, image, "/usr/bin/python3", "-I", "-c", program).split()
    assert len(cached) > 100
    assert [name for name in cached if not (image / "rootfs" / name.lstrip("/")).is_file()] == []


def test_byte_code_has_the_documentation_of_our_own_commands_alone(image: Path, podman: Podman) -> None:
    program = (
        "import dataclasses, lightkube.config.models as models, pyroute2, flanneld_py.cli.status as status\n"
        "print(dataclasses.__doc__, models.Cluster.__doc__, pyroute2.__doc__, bool(status.__doc__), status.__file__)"
    )
    found = in_container(podman, image, "/usr/bin/python3", "-I", "-c", program)
    assert found == "None - None True /usr/lib/python3/dist-packages/flanneld_py/cli/status.py\n"


def test_authorities_are_known(image: Path, podman: Podman) -> None:
    program = "import ssl; print(len(ssl.create_default_context().get_ca_certs()))"
    assert int(in_container(podman, image, "/usr/bin/python3", "-I", "-c", program)) > 100


def test_the_packet_filter_s_programs_and_libraries_are_there(image: Path, podman: Podman) -> None:
    for name in ("iptables-nft-restore", "iptables-legacy-restore", "ip6tables-nft-restore", "iptables"):
        assert in_container(podman, image, f"/usr/sbin/{name}", "--version").startswith("ip")
    program = "import ctypes; print(ctypes.CDLL('libnftables.so.1').nft_ctx_new != 0)"
    assert in_container(podman, image, "/usr/bin/python3", "-I", "-c", program) == "True\n"


def test_there_is_no_shell_and_no_package_manager(image: Path) -> None:
    names = {path.name for path in (image / "rootfs").rglob("*") if not path.is_dir()}
    assert names & {"sh", "bash", "dash", "ash", "busybox", "perl", "dpkg", "apt", "apt-get", "pip", "gcc"} == set()


def test_no_program_has_the_rights_of_another_user(image: Path) -> None:
    special = [path for path in (image / "rootfs").rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o6000]
    assert special == []


def test_everybody_may_read_it_and_nobody_else_may_write_it(image: Path) -> None:
    for path in (image / "rootfs").rglob("*"):
        if path.is_symlink():
            continue
        mode = path.stat().st_mode & 0o777
        assert mode & 0o022 == 0, path
        assert mode & 0o444 == 0o444 or path.name == "root", path


def test_scanners_find_the_packages_and_lawyers_the_licences(image: Path) -> None:
    root = image / "rootfs"
    names = {path.name for path in (root / "var/lib/dpkg/status.d").iterdir()}
    assert {"libc6", "libssl3t64", "python3.13-minimal", "iptables"} <= names
    for name in names:
        assert f"Package: {name}\n" in (root / "var/lib/dpkg/status.d" / name).read_text()
        documents = root / "usr/share/doc" / name
        assert (documents / "copyright").exists() or documents.is_symlink(), name


def test_it_is_small(image: Path) -> None:
    assert (image / "flanneld.tar").stat().st_size <= MAX_BYTES


def test_it_starts_by_its_own_entry_point(image: Path, podman: Podman, tmp_path: Path) -> None:
    """An engine reads the archive, and takes command and environment from it."""
    podman("load", f"--input={image}/flanneld.tar")
    (name,) = podman("images", "--format={{.Repository}}:{{.Tag}}").split()
    run = ("run", "--rm", *LIMITS, "--network=none", "--read-only")
    assert podman(*run, name, "--version").startswith("flanneld ")
    (tmp_path / "subnet.env").write_text("FLANNEL_SUBNET=10.5.7.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n")
    files = ("-f", "/v/subnet.env", "-d", "/v/docker")
    podman(*run, f"--volume={tmp_path}:/v", "--entrypoint=mk-docker-opts.sh", name, *files)
    assert "--bip=10.5.7.1/24" in (tmp_path / "docker").read_text()


def test_containerd_imports_it(image: Path, tmp_path: Path) -> None:
    """As `ctr images import` does on a node that has no registry."""
    address, config = tmp_path / "containerd.sock", tmp_path / "config.toml"
    config.write_text(
        f'version = 2\nroot = "{tmp_path}/store"\nstate = "{tmp_path}/state"\n'
        f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{address}"\n'
    )
    with (tmp_path / "log").open("wb") as log:
        containerd = subprocess.Popen(["containerd", "--config", config], stdout=log, stderr=log)
    try:
        ctr = ["ctr", "--address", str(address), "--connect-timeout", "30s"]
        done = subprocess.run(
            [*ctr, "images", "import", "--all-platforms", image / "flanneld.tar"],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr + (tmp_path / "log").read_text()[-2000:]
        listed = subprocess.run(
            [*ctr, "images", "check"], capture_output=True, text=True, timeout=60, check=True
        ).stdout
        assert "docker.io/flanneld_py/flanneld:" in listed
        assert "complete" in listed
    finally:
        containerd.terminate()
        containerd.wait(30)


def test_reading_the_tree_twice_gives_the_same_layer(image: Path, tmp_path: Path) -> None:
    """Whatever the times and the order of the files are."""
    from deploy.image.oci import layer

    one, other = tmp_path / "one", tmp_path / "other"
    for folder, names in ((one, ("b", "a", "c")), (other, ("c", "b", "a"))):
        (folder / "d").mkdir(parents=True)
        for name in names:
            (folder / "d" / name).write_text(name)
        (folder / "link").symlink_to("d/a")
    os.link(one / "d/a", one / "d/hard")
    (other / "d/hard").write_text("a")
    os.utime(other / "d/a", (1, 1))
    assert layer(one, 7) == layer(other, 7)
