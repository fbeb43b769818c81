"""Whatever order of commands, repetitions and crashes a runtime comes up with: after the last DEL nothing is left."""

import json
import os
import random
import signal
import subprocess
from collections.abc import Callable

import pytest

from cni_plugin import scratch
from tests.cni.node import NOTHING, SUBNET_ENV, TIMEOUT_S, Node, PodMaker, remove_namespace
from tests.netns.space import Namespace
from tests.waiting import eventually

WAYS = ("plain", "resident")
FIRST, LAST = map(int, os.environ.get("CNI_SEQUENCES", "0-11").split("-"))
"""Seeds; more are for a long run: CNI_SEQUENCES=0-999 tests/run tests/cni/test_sequences.py"""

STEPS = 10
KEY = "cni.dev/valid-attachments"
IFNAMES = ("eth0", "net1")
VERSION = "1.1.0"
TRANSLATED = """
out=$(sed 's/"cniVersion":"1.1.0"/"cniVersion":"1.0.0"/g' | "$REAL")
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
        self.results: dict[tuple[str, str], object] = {}
        self.log: list[str] = []
        self.steps: list[Callable[[str, str], None]] = [
            *(self.add, self.add, self.delete, self.double_delete, self.killed, self.killed, self.killed),
            *(self.collect, self.check, self.restart, self.restart, self.reboot),
        ]

    def step(self) -> None:
        step = self.random.choice(self.steps)
        container, ifname = self.random.choice(sorted(self.pods)), self.random.choice(IFNAMES)
        self.log.append(f"{step.__name__} {container} {ifname}")
        step(container, ifname)

    def add(self, container: str, ifname: str) -> None:
        before = ifname in self.interfaces(container)
        netns = self.pods[container].path
        answer = self.node.call("ADD", self.conf, container=container, netns=netns, ifname=ifname)
        assert answer.document is not None
        if not self.node.env_file.exists():
            assert answer.document["code"] == 11, answer  # try again later
            assert (ifname in self.interfaces(container)) == before
            return
        # An ADD without a DEL before it is refused, and does no harm to what is there.
        assert (answer.code == 0) != before, answer
        assert ifname in self.interfaces(container)
        if answer.code == 0:
            self.results[container, ifname] = answer.document

    def check(self, container: str, ifname: str) -> None:
        """What ADD answered holds until something takes it away."""
        result = self.results.get((container, ifname))
        if result is None:
            return
        netns = self.pods[container].path
        conf = self.conf | {"prevResult": result}
        answer = self.node.call("CHECK", conf, container=container, netns=netns, ifname=ifname)
        assert answer.code == 0, answer

    def delete(self, container: str, ifname: str) -> None:
        netns = self.random.choice([self.pods[container].path, self.pods[container].path, ""])
        self.results.pop((container, ifname), None)
        self.node.delete(self.conf, netns, container=container, ifname=ifname)
        assert f"cbr0@{container}@{ifname}" not in self.node.records()

    def double_delete(self, container: str, ifname: str) -> None:
        self.delete(container, ifname)
        self.delete(container, ifname)

    def killed(self, container: str, ifname: str) -> None:
        """A command that is killed somewhere, alone or with its delegates, which live on otherwise.

        The runtime then cleans up, or does not yet.
        """
        verb = self.random.choice(["ADD", "ADD", "DEL", "DEL", "GC", "CHECK"])
        keeps = {(container, ifname)} if verb == "GC" else set()
        conf = self.conf | {"prevResult": self.results.get((container, ifname), {}), KEY: self.valid(*keeps)}
        environ = self.node.environ(verb, container, self.pods[container].path, ifname)
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(
            self.node.command(), stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, env=environ, start_new_session=True
        )
        try:
            longest_s = self.random.choice([0.03, 0.1, 0.3])
            process.communicate(json.dumps(conf).encode(), timeout=self.random.uniform(0, longest_s))
        except subprocess.TimeoutExpired:
            whole = self.random.random() < 0.5
            self.log.append(f"(that was {verb}, killed {'with its delegates' if whole else 'alone'})")
            os.killpg(process.pid, signal.SIGKILL) if whole else process.kill()
            process.communicate(timeout=TIMEOUT_S)
        if verb == "GC":
            self.settle()
            self.results = {key: result for key, result in self.results.items() if key in keeps}
            return
        if verb in ("ADD", "DEL"):
            self.results.pop((container, ifname), None)
        if verb != "CHECK" and self.random.random() < 0.5:
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
        valid = self.valid((container, ifname))
        answer = self.node.call("GC", self.conf | {KEY: valid}, container="", ifname="")
        assert answer.code == 0, answer
        assert set(self.node.records()) <= {f"cbr0@{container}@{ifname}"}
        self.results = {key: result for key, result in self.results.items() if key == (container, ifname)}

    @staticmethod
    def valid(*attachments: tuple[str, str]) -> list[dict[str, str]]:
        return [{"containerID": container, "ifname": ifname} for container, ifname in attachments]

    def restart(self, container: str, ifname: str) -> None:
        """The daemon is started, again or after a reboot; another configuration may come with it."""
        mtu = self.random.choice([1400, 1450])
        fresh = self.node.env_file.with_suffix(".new")
        fresh.write_text(SUBNET_ENV.replace("MTU=1400", f"MTU={mtu}"))
        fresh.replace(self.node.env_file)

    def reboot(self, container: str, ifname: str) -> None:
        """The kernel's state and /run are gone, what is on disk is not; the same containers come back, the daemon not
        yet."""
        self.node.env_file.unlink(missing_ok=True)
        self.results.clear()
        for name, pod in self.pods.items():
            remove_namespace(pod)
            self.pods[name] = self.make()
        bridges = self.node.space.ip_json("link", "show", "type", "bridge")
        self.node.space.batch([f"link del {bridge['ifname']}" for bridge in bridges])
        eventually("the pods' links have gone with them", lambda: not self.node.links(), self.node.links)

    def interfaces(self, container: str) -> list[str]:
        return [link["ifname"] for link in self.pods[container].ip_json("link")]

    def finish(self) -> None:
        """A runtime deletes all that it ever began to add, whether the daemon is there or not."""
        for container, pod in sorted(self.pods.items()):
            for ifname in IFNAMES:
                self.node.delete(self.conf, pod.path, container=container, ifname=ifname)
            assert self.interfaces(container) == ["lo"]
        assert self.node.left() == NOTHING


@pytest.mark.parametrize("seed", range(FIRST, LAST + 1))
def test_nothing_is_left_after_any_sequence(node: Node, pods: PodMaker, seed: int) -> None:
    node.replace_plugin("bridge", TRANSLATED)
    sequence = Sequence(node, pods, seed)
    try:
        for _ in range(STEPS):
            sequence.step()
        sequence.finish()
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {', '.join(sequence.log)}: {error}") from error
