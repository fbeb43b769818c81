"""The launcher and a daemon that does not do what it should: the pod is connected once, whatever happens."""

import array
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cni_plugin import launcher, program
from tests.cni import serve
from tests.cni.node import NOTHING, TIMEOUT_S, Node, PodMaker
from tests.waiting import eventually

WAYS = ("launcher",)

ROOT = Path(__file__).parents[2]
RESULT = b'{"cniVersion":"1.0.0","ips":[]}\n'


@contextmanager
def daemon(node: Node, talk: Callable[[socket.socket], None]) -> Iterator[list[bytes]]:
    """Somebody on the daemon's socket who says what `talk` says, once; gives what was asked."""
    path = node.env_file.with_name("cni.sock")
    asked: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(TIMEOUT_S)

        def serve_once() -> None:
            connection, _ = listener.accept()
            with connection:
                data, control, _, _ = connection.recvmsg(65536, socket.CMSG_SPACE(64))
                for _, _, content in control:
                    for fd in array.array("i", content):
                        os.close(fd)
                asked.append(data)
                talk(connection)

        thread = threading.Thread(target=serve_once)
        thread.start()
        try:
            yield asked
        finally:
            thread.join(TIMEOUT_S)
            path.unlink()


def says(*messages: bytes) -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        for message in messages:
            connection.send(message)

    return talk


def test_question_is_what_the_runtime_gave(node: Node, pods: PodMaker) -> None:
    pod = pods()
    with daemon(node, says(b"B", b"R" + RESULT)) as asked:
        answer = node.call("ADD", node.conf(), netns=pod.path)
    assert (answer.code, answer.document) == (0, json.loads(RESULT))
    head, _, config = asked[0].partition(b"\0\0")
    assert json.loads(config) == node.conf()
    assert head.split(b"\0") == [
        b"flannel-cni 1",
        f"SOCKET={node.env_file.with_name('cni.sock')}".encode(),
        b"CNI_COMMAND=ADD",
        b"CNI_CONTAINERID=pod1",
        f"CNI_NETNS={pod.path}".encode(),
        b"CNI_IFNAME=eth0",
        b"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAME=web",
        f"CNI_PATH={node.bin}".encode(),
    ]


def test_error_of_the_daemon_is_the_answer(node: Node, pods: PodMaker) -> None:
    with daemon(node, says(b"B", b'E{"code":11,"msg":"m"}\n')):
        answer = node.call("ADD", node.conf(), netns=pods().path)
    assert (answer.code, answer.document) == (1, {"code": 11, "msg": "m"})
    assert node.left() == NOTHING


SAYINGS: dict[str, tuple[bytes, ...]] = {
    "nothing": (),
    "no": (b"Nreason",),
    "began, then no": (b"B", b"Nreason"),
    "began, then nothing": (b"B",),
    "something else": (b"X",),
    "began, then something else": (b"B", b"X"),
    "an answer without a begin": (b"R{}",),
    "too much": (b"B", b"R" + bytes(100_000)),
}


@pytest.mark.parametrize("what", SAYINGS)
def test_plugin_does_what_the_daemon_does_not(node: Node, pods: PodMaker, what: str) -> None:
    pod = pods()
    with daemon(node, says(*SAYINGS[what])):
        result = node.add(node.conf(), pod.path)
    assert [one["address"] for one in result["ips"]] == ["10.77.9.2/24"]
    with daemon(node, says(*SAYINGS[what])):
        node.delete(node.conf(), pod.path)
    assert node.left() == NOTHING


def test_daemon_that_is_not_heard_of_cannot_begin_any_more(node: Node, pods: PodMaker) -> None:
    late: list[BaseException] = []
    gone_on = threading.Event()

    def talk(connection: socket.socket) -> None:
        assert gone_on.wait(TIMEOUT_S)
        try:
            connection.send(b"B")
        except OSError as error:
            late.append(error)

    with daemon(node, talk):
        node.add(node.conf(), pods().path)
        gone_on.set()
    assert [type(error) for error in late] == [BrokenPipeError]


def nobody_listens(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(str(path))


STRANGE: dict[str, Callable[[Path], object]] = {
    "nothing there": lambda path: None,
    "a file": lambda path: path.write_text(""),
    "a directory": lambda path: path.mkdir(),
    "nobody listens": nobody_listens,
    "a dangling link": lambda path: path.symlink_to("nowhere"),
}


@pytest.mark.parametrize("what", STRANGE)
def test_without_a_daemon_the_plugin_does_it(node: Node, pods: PodMaker, what: str) -> None:
    STRANGE[what](node.env_file.with_name("cni.sock"))
    pod = pods()
    node.add(node.conf(), pod.path)
    node.delete(node.conf(), pod.path)
    assert node.left() == NOTHING


def test_daemon_of_another_user_is_not_asked(node: Node, pods: PodMaker, tmp_path: Path) -> None:
    """It would get descriptors of the host's, by which it could do what it may not."""
    program = (
        "import os, socket, sys\n"
        "sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "sock.bind(sys.argv[1])\n"
        "os.setuid(65534)\n"
        "sock.listen()\n"
        "print('listening', flush=True)\n"
        "connection = sock.accept()[0]\n"
        "print(len(connection.recv(65536)), flush=True)\n"
    )
    command = [sys.executable, "-c", program, str(node.env_file.with_name("cni.sock"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "listening\n"
        node.add(node.conf(), pods().path)
        assert other.stdout.readline() == "0\n"


@contextmanager
def server(node: Node, *arguments: str, confined: tuple[str, ...] = ()) -> Iterator["subprocess.Popen[str]"]:
    """A daemon's half in a process of its own, ended afterwards."""
    enter = ["ip", "netns", "exec", node.space.name, *confined]
    command = [*enter, sys.executable, "-m", "tests.cni.serve", str(node.env_file), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None and process.stdout.readline() == "serving\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("step", [step for step in serve.STEPS if step not in ("unlinked", "released")])
def test_daemon_killed_in_the_middle_of_add(node: Node, pods: PodMaker, step: str) -> None:
    """What it had done is undone, and the plugin connects the pod."""
    pod = pods()
    with server(node, "--die", step) as process:
        result = node.add(node.conf(), pod.path)
        assert process.wait(TIMEOUT_S) == -9
    assert len(node.links()) == 1 and len(node.held()) == 1 and node.records() == ["cbr0@pod1@eth0"]
    assert result["interfaces"][1]["name"] == node.links()[0]
    node.delete(node.conf(), pod.path)
    assert node.left() == NOTHING


@pytest.mark.parametrize("step", ["unlinked", "released"])
def test_daemon_killed_in_the_middle_of_del(node: Node, pods: PodMaker, step: str) -> None:
    pod = pods()
    node.add(node.conf(), pod.path)
    with server(node, "--die", step) as process:
        node.delete(node.conf(), pod.path)
        assert process.wait(TIMEOUT_S) == -9
    assert node.left() == NOTHING


def test_add_that_cannot_be_undone_says_so(node: Node, pods: PodMaker) -> None:
    pod = pods()
    node.replace_plugin("bridge", "exit 3")
    with server(node, "--die", "wired"):
        answer = node.call("ADD", node.conf(), netns=pod.path)
    assert answer.code == 1 and answer.document is not None and answer.document["code"] == 11
    assert node.records() == ["cbr0@pod1@eth0"]
    node.restore_plugin("bridge")
    node.delete(node.conf(), pod.path)
    assert node.left() == NOTHING


def test_add_that_nobody_waits_for_is_undone(node: Node, pods: PodMaker) -> None:
    """The launcher is killed after the daemon has begun: it waits for host-local's lock, which this test holds."""
    pod = pods()
    folder = node.addresses / "cbr0"
    folder.mkdir(parents=True)
    with server(node) as process, (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        environ = node.environ("ADD", "pod1", pod.path, "eth0")
        adding = subprocess.Popen(node.command(), stdin=subprocess.PIPE, env=environ, stdout=subprocess.DEVNULL)
        assert adding.stdin is not None
        adding.stdin.write(json.dumps(node.conf()).encode())
        adding.stdin.close()
        eventually("the daemon has begun", node.records)
        adding.kill()
        adding.wait()
        fcntl.flock(lock, fcntl.LOCK_UN)
        eventually("it is undone", lambda: node.left() == NOTHING and node.records() == [])
        assert process.poll() is None
    assert [link["ifname"] for link in pod.ip_json("link")] == ["lo"]


def test_daemon_needs_net_admin_alone(node: Node, pods: PodMaker) -> None:
    for name in ("bridge", "host-local"):
        (node.bin / name).unlink()
    pod = pods()
    with server(node, confined=("setpriv", "--bounding-set=-all,+net_admin", "--inh-caps=-all")) as process:
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert int(next(line for line in status.splitlines() if line.startswith("CapEff")).split()[1], 16) == 1 << 12
        node.add(node.conf(), pod.path)
        node.delete(node.conf(), pod.path)
    assert node.left() == NOTHING


def test_daemon_in_a_container_keeps_its_state_on_the_host(node: Node, pods: PodMaker, tmp_path: Path) -> None:
    """It sees its run directory and nothing else of the host's files."""
    for name in ("bridge", "host-local"):
        (node.bin / name).unlink()
    pod, root = pods(), tmp_path / "root"
    inside = root / str(node.env_file.parent).lstrip("/")
    inside.mkdir(parents=True)
    (root / "proc").mkdir()
    mounts = f'mount --bind {node.env_file.parent} {inside} && mount --bind /proc {root}/proc && exec "$@"'
    confined = ("unshare", "--mount", "sh", "-c", mounts, "sh")
    with server(node, "--root", str(root), confined=confined):
        node.add(node.conf(), pod.path)
        assert node.held() == ["10.77.9.2"] and node.records() == ["cbr0@pod1@eth0"]
        assert not (root / str(node.data).lstrip("/")).exists()
        node.delete(node.conf(), pod.path)
    assert node.left() == NOTHING


def test_paths_through_links_are_those_of_the_host(node: Node, pods: PodMaker) -> None:
    """An absolute link leads to where the host's root says, not the daemon's."""
    (node.base / "real").mkdir()
    node.data.symlink_to(node.base / "real")
    for name in ("bridge", "host-local"):
        (node.bin / name).unlink()
    with server(node):
        node.add(node.conf(), pods().path)
    assert [path.name for path in (node.base / "real").iterdir()] == ["cbr0@pod1@eth0"]


def test_long_paths_are_no_hindrance(node: Node, pods: PodMaker) -> None:
    """A socket's address has room for 107 bytes."""
    folder = node.base / ("x" * 120)
    folder.mkdir()
    (folder / "subnet.env").write_bytes(node.env_file.read_bytes())
    node.env_file = folder / "subnet.env"
    for name in ("bridge", "host-local"):
        (node.bin / name).unlink()
    with server(node):
        node.add(node.conf(), pods().path)
    assert node.held() == ["10.77.9.2"]


def test_daemon_of_another_namespace_leaves_it(node: Node, pods: PodMaker) -> None:
    elsewhere = pods()
    command = [sys.executable, "-m", "tests.cni.serve", str(node.env_file)]
    enter = ["ip", "netns", "exec", elsewhere.name]
    with subprocess.Popen([*enter, *command], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None and process.stdout.readline() == "serving\n"
        node.add(node.conf(), pods().path)
        process.kill()
    assert len(node.links()) == 1
    assert [link["ifname"] for link in elsewhere.ip_json("link")] == ["lo"]


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory, installed_launcher: Path) -> Path:
    """The same plugin with a launcher that the sanitizers watch."""
    folder = tmp_path_factory.mktemp("sanitized")
    (folder / program.LINK).symlink_to(installed_launcher / program.LINK)
    flags = ("-std=c11", "-D_GNU_SOURCE", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    subprocess.run(["cc", *flags, *launcher.SOURCES, "-o", folder / "flannel"], check=True)
    return folder


def test_sanitizers_find_nothing(node: Node, pods: PodMaker, sanitized: Path) -> None:
    (node.bin / "flannel").unlink()
    (node.bin / "flannel").symlink_to(sanitized / "flannel")
    for messages in [*SAYINGS.values(), (b"B", b"R" + RESULT), (b"B", b"E{}")]:
        pod = pods()
        with daemon(node, says(*messages)):
            answer = node.call("ADD", node.conf(), netns=pod.path)
        assert "Sanitizer" not in answer.log and "runtime error" not in answer.log
        node.delete(node.conf(), pod.path)
    with server(node):
        pod = pods()
        node.add(node.conf(), pod.path)
        assert node.delete(node.conf(), pod.path).log == ""
    assert node.call("ADD", b"x" * 100_000, netns=pods().path).code == 1
    assert node.call("VERSION", b"").code == 0
    assert node.left() == NOTHING
