"""Containers of a real runtime, podman, connected by our conflist on the network of real daemons.

Needs podman with its CNI back end (Debian 12's), runc and a static busybox.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import pytest

from cni_plugin import conflist, install
from flanneld_py.lab import build
from flanneld_py.lab.namespaces import inside
from flanneld_py.lab.progress import Silent
from flanneld_py.lab.topology import LabSpec
from tests.daemon.conftest import fresh_name
from tests.daemon.field import Field, ip, ip_json

NEEDED = ("podman", "runc", "busybox")
TIMEOUT_S = 60
BIN, NET_D = Path("/opt/cni/bin"), Path("/etc/cni/net.d")

pytestmark = pytest.mark.skipif(
    None in [shutil.which(name) for name in NEEDED],
    reason="no podman here: a real runtime with our conflist stays untested (apt install podman runc busybox-static)",
)

HOLD = """
set -e
for path in /etc/cni /opt /var/lib; do mount -t tmpfs tmpfs "$path"; done
mkdir -p /etc/cni/net.d /opt/cni/bin /var/lib/cni /run/flannel
mount --bind "$1" /run/flannel
echo ready
exec sleep infinity
"""
"""A node's own view of the places that a runtime, the plugins and the daemon share, each where guides have it. /etc/cni
is there with podman."""

CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "cni"
network_config_dir = "/etc/cni/net.d"
cni_plugin_dirs = ["/opt/cni/bin"]
"""


class Machine:
    """A node of the lab on which podman runs, with directories of its own for all that it keeps."""

    def __init__(self, field: Field, number: int, base: Path) -> None:
        self.namespace = field.namespace(number)
        self.field, self.number, self.base = field, number, base
        self.names: list[str] = []
        base.mkdir()
        (base / "containers.conf").write_text(CONTAINERS_CONF)
        command = ["unshare", "--mount", "sh", "-c", HOLD, "sh", str(field.folder(number))]
        self._holder = inside(
            self.namespace, lambda: subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        )

    def wait_ready(self) -> None:
        assert self._holder.stdout is not None and self._holder.stdout.readline() == b"ready\n"

    def close(self) -> None:
        for name in self.names:
            self.call("podman", "rm", "--force", "--time=0", name)
        self._holder.kill()
        self._holder.communicate()

    def call(self, *command: str) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", f"--target={self._holder.pid}", "--net", "--mount"]
        if command[0] == "podman":
            places = [f"--{name}=/var/lib/podman/{name}" for name in ("root", "runroot", "tmpdir")]
            command = ("env", f"CONTAINERS_CONF={self.base / 'containers.conf'}", "podman", *places, *command[1:])
        return subprocess.run([*enter, *command], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)

    def run(self, *command: str) -> str:
        done = self.call(*command)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def install(self) -> None:
        """As an administrator does it: the CNI project's plugins, then `flannel install`."""
        self.run("sh", "-c", f"ln -s /usr/lib/cni/* {BIN}/")
        root = Path(install.__file__).parents[1]
        python = shutil.which("python3") or "python3"
        said = self.run("sh", "-c", f"cd {root} && exec {python} -m cni_plugin install")
        assert said.count("installed: ") == 2

    def container(self, name: str, *options: str) -> str:
        """Its address, once it runs: a web server that answers with its name."""
        root = root_directory(self.base / f"rootfs-{name}", name)
        self.names.append(name)
        server = ["httpd", "-f", "-p", "80", "-h", "/www"]
        given = ["--detach", f"--name={name}", "--network=cbr0", *options, "--rootfs", str(root)]
        self.run("podman", "run", *given, *server)
        return self.inspect(name)["IPAddress"]

    def inspect(self, name: str) -> dict[str, str]:
        (found,) = json.loads(self.run("podman", "inspect", name))
        networks = found["NetworkSettings"]["Networks"]
        assert list(networks) == ["cbr0"]
        return dict(networks["cbr0"])

    def remove(self, name: str) -> None:
        self.run("podman", "rm", "--force", "--time=0", name)
        self.names.remove(name)

    def files(self) -> set[str]:
        """What is kept of attachments: our records, host-local's addresses, the runtime's cache."""
        return set(self.run("find", "/var/lib/cni", "-type", "f").split())

    def ports(self) -> list[str]:
        return [link["ifname"] for link in ip_json(self.namespace, "link", "show") if link.get("master") == "cni0"]

    def nat(self) -> str:
        return self.run("iptables-save", "-t", "nat")


def root_directory(path: Path, name: str) -> Path:
    for folder in ("bin", "proc", "sys", "dev", "etc", "tmp", "run", "www"):
        (path / folder).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "", path / "bin" / "busybox")
    for applet in ("httpd", "ping", "wget", "cat"):
        (path / "bin" / applet).symlink_to("busybox")
    (path / "www" / "index.html").write_text(name)
    return path


def clear(namespace: str) -> None:
    """Without the pods that the lab made, whose addresses podman would not know of."""
    for link in ip_json(namespace, "link", "show"):
        if link["ifname"] not in ("lo", "eth0", "flannel.1"):
            ip(namespace, f"link del {link['ifname']}")


@pytest.fixture(scope="module")
def field() -> Iterator[Field]:
    spec = LabSpec(name=fresh_name(), nodes=2, pods=1)
    try:
        made = Field(spec)
        for number in (1, 2):
            clear(made.namespace(number))
        yield made
    finally:
        build.down(spec.name, Silent())


@pytest.fixture
def machines(field: Field, tmp_path: Path) -> Iterator[list[Machine]]:
    with ExitStack() as stack:
        made = []
        for number in (1, 2):
            machine = Machine(field, number, tmp_path / f"node{number}")
            stack.callback(machine.close)
            machine.wait_ready()
            machine.install()
            made.append(machine)
        yield made


def test_containers_reach_each_other_and_leave_nothing(machines: list[Machine]) -> None:
    one, other = machines
    assert one.run("cat", str(NET_D / conflist.FILE_NAME)) == conflist.DEFAULT
    addresses = {"a": one.container("a"), "b": one.container("b"), "c": other.container("c")}
    for machine, name in ((one, "a"), (one, "b"), (other, "c")):
        subnet = machine.field.subnets(machine.number)[0].rpartition(".")[0]
        assert addresses[name].startswith(f"{subnet}.")
        for peer, address in addresses.items():
            assert "1 packets received" in machine.run("podman", "exec", name, "ping", "-c1", "-W5", address), peer
    assert machine.run("podman", "exec", "c", "wget", "-qO-", f"http://{addresses['a']}/") == "a"
    mtu = one.run("podman", "exec", "a", "cat", "/sys/class/net/eth0/mtu")
    assert int(mtu) == one.field.mtu(1)
    assert len(one.ports()) == 2 and any("/cbr0@" in file for file in one.files())
    one.remove("a")
    assert len(one.ports()) == 1 and not any(addresses["a"] in file for file in one.files())
    one.remove("b")
    other.remove("c")
    for machine in machines:
        assert machine.ports() == []
        left = {Path(file).name for file in machine.files()}
        assert left <= {"last_reserved_ip.0", "lock"}, left


def test_port_of_the_host_leads_to_the_container(machines: list[Machine]) -> None:
    one, other = machines
    address = one.container("web", "--publish=8080:80")
    host = one.field.public(1)
    assert f"{address}:80" in one.nat()

    def ask() -> bytes:
        with urlopen(f"http://{host}:8080/", timeout=TIMEOUT_S) as answer:
            return bytes(answer.read())

    assert inside(other.namespace, ask) == b"web"
    other.container("client")
    assert other.run("podman", "exec", "client", "wget", "-qO-", f"http://{host}:8080/") == "web"
    one.remove("web")
    assert address not in one.nat()


def test_restarted_container_gets_an_address_again(machines: list[Machine]) -> None:
    one, _ = machines
    one.container("a")
    peer = one.container("b")
    one.run("podman", "restart", "--time=0", "a")
    assert "1 packets received" in one.run("podman", "exec", "a", "ping", "-c1", "-W5", peer)
    assert len(one.ports()) == 2
    addresses = [file for file in one.files() if file.startswith("/var/lib/cni/networks/cbr0/10.")]
    assert len(addresses) == 2


def test_container_says_why_it_cannot_be_connected(machines: list[Machine]) -> None:
    one, _ = machines
    one.run("umount", "/run/flannel")
    root = root_directory(one.base / "rootfs", "x")
    done = one.call("podman", "run", "--rm", "--network=cbr0", "--rootfs", str(root), "ping", "-c1", "127.0.0.1")
    assert done.returncode != 0
    assert "open /run/flannel/subnet.env: no such file or directory" in done.stderr
    assert one.ports() == [] and not any("cbr0@" in file for file in one.files())
