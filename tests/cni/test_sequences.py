"""Whatever order of commands, repetitions and crashes a runtime comes up with: after the last DEL nothing is left."""

import json
import random
import subprocess
from collections.abc import Callable

import pytest

from cni_plugin import scratch
from tests.cni.node import NOTHING, TIMEOUT_S, Node, PodMaker, remove_namespace
from tests.netns.space import Namespace

WAYS = ("plain", "resident")

SEQUENCES = 12
STEPS = 10
IFNAMES = ("eth0", "net1")
VERSION = "1.1.0"
TRANSLATED = """
out=$(sed 's/"cniVersion":"1.1.0"/"cniVersion":"1.0.0"/' | "$REAL")
code=$?
printf '%s' "$out" | sed 's/"cniVersion": "1.0.0"/"cniVersion": "1.1.0"/'
exit $code
"""


class Sequence:
    """One random run on a node with a few containers. `log` is what a failure shows."""

    def __init__(self, node: Node, pods: PodMaker, seed: int) -> None:
        self.node = node
        self.random = random.Random(seed)
        self.conf = node.conf(version=VERSION, delegate={"hairpinMode": True})
        self.make = pods
        self.pods: dict[str, Namespace] = {f"pod{number}": pods() for number in range(3)}
        self.log: list[str] = []
        self.steps: list[Callable[[str, str], None]] = [
            self.add, self.add, self.delete, self.double_delete, self.killed, self.killed, self.collect, self.reboot,
        ]  # fmt: skip

    def step(self) -> None:
        step = self.random.choice(self.steps)
        container, ifname = self.random.choice(sorted(self.pods)), self.random.choice(IFNAMES)
        self.log.append(f"{step.__name__} {container} {ifname}")
        step(container, ifname)

    def add(self, container: str, ifname: str) -> None:
        before = ifname in self.interfaces(container)
        netns = self.pods[container].path
        answer = self.node.call("ADD", self.conf, container=container, netns=netns, ifname=ifname)
        # An ADD without a DEL before it is refused, and does no harm to what is there.
        assert (answer.code == 0) != before, answer
        assert ifname in self.interfaces(container)

    def delete(self, container: str, ifname: str) -> None:
        netns = self.random.choice([self.pods[container].path, self.pods[container].path, ""])
        self.node.delete(self.conf, netns, container=container, ifname=ifname)
        assert f"cbr0@{container}@{ifname}" not in self.node.records()

    def double_delete(self, container: str, ifname: str) -> None:
        self.delete(container, ifname)
        self.delete(container, ifname)

    def killed(self, container: str, ifname: str) -> None:
        """A command that is killed somewhere; its delegate lives on. The runtime then cleans up, or does not yet."""
        verb = self.random.choice(["ADD", "DEL"])
        environ = self.node.environ(verb, container, self.pods[container].path, ifname)
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(self.node.command(), stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, env=environ)
        try:
            process.communicate(json.dumps(self.conf).encode(), timeout=self.random.uniform(0, 0.06))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate(timeout=TIMEOUT_S)
        if self.random.random() < 0.5:
            self.delete(container, ifname)
        else:
            self.settle()

    def settle(self) -> None:
        """Delegates that outlived their plugin have ended: each holds the lock of its record until then."""
        for name in self.node.records():
            network, container, ifname = name.lstrip(".").split("@")
            record = scratch.take(str(self.node.data), scratch.Attachment(network, container, ifname))
            if record is not None:
                record.close()

    def collect(self, container: str, ifname: str) -> None:
        """The runtime knows of this attachment alone, if it is there."""
        valid = [{"containerID": container, "ifname": ifname}]
        answer = self.node.call("GC", self.conf | {"cni.dev/valid-attachments": valid}, container="", ifname="")
        assert answer.code == 0, answer
        assert set(self.node.records()) <= {f"cbr0@{container}@{ifname}"}

    def reboot(self, container: str, ifname: str) -> None:
        """The kernel's state and /run are gone, what is on disk is not; then the same containers come back."""
        for name, pod in self.pods.items():
            remove_namespace(pod)
            self.pods[name] = self.make()
        bridges = self.node.space.ip_json("link", "show", "type", "bridge")
        self.node.space.batch([f"link del {bridge['ifname']}" for bridge in bridges])

    def interfaces(self, container: str) -> list[str]:
        return [link["ifname"] for link in self.pods[container].ip_json("link")]

    def finish(self) -> None:
        """A runtime deletes all that it ever began to add."""
        for container, pod in sorted(self.pods.items()):
            for ifname in IFNAMES:
                self.node.delete(self.conf, pod.path, container=container, ifname=ifname)
            assert self.interfaces(container) == ["lo"]
        assert self.node.left() == NOTHING


@pytest.mark.parametrize("seed", range(SEQUENCES))
def test_nothing_is_left_after_any_sequence(node: Node, pods: PodMaker, seed: int) -> None:
    node.replace_plugin("bridge", TRANSLATED)
    sequence = Sequence(node, pods, seed)
    try:
        for _ in range(STEPS):
            sequence.step()
        sequence.finish()
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {', '.join(sequence.log)}: {error}") from error
