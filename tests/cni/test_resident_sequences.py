"""Whatever a runtime comes up with, while the daemon that helps is killed and started again at any moment."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.cni.node import TIMEOUT_S, Node, PodMaker
from tests.cni.test_launcher import server
from tests.cni.test_sequences import TRANSLATED, Sequence

WAYS = ("launcher",)
SEQUENCES = 6
STEPS = 10


class CrashingSequence(Sequence):
    """With a daemon that sometimes is not there."""

    def __init__(self, node: Node, pods: PodMaker, seed: int, stack: ExitStack) -> None:
        super().__init__(node, pods, seed)
        self.stack = stack
        self.daemon = self.start()
        self.steps += [self.crash, self.crash, self.restart]

    def start(self) -> "subprocess.Popen[str]":
        return self.stack.enter_context(server(self.node))

    def crash(self, container: str, ifname: str) -> None:
        """The daemon is killed while it works for the launcher, or just before or after that."""
        verb = self.random.choice(["ADD", "ADD", "DEL"])
        there = ifname in self.interfaces(container)
        # Without a lease, after a reboot, none is connected; one that is there already is refused either way.
        connects = not there and self.node.env_file.exists()
        environ = self.node.environ(verb, container, self.pods[container].path, ifname)
        pipe = subprocess.PIPE
        process = subprocess.Popen(self.node.command(), stdin=pipe, stdout=pipe, stderr=pipe, env=environ)
        try:
            process.communicate(json.dumps(self.conf).encode(), timeout=self.random.uniform(0, 0.02))
        except subprocess.TimeoutExpired:
            self.daemon.kill()
        out, _ = process.communicate(timeout=TIMEOUT_S)
        self.daemon.kill()
        # One that is not there yet is connected, by the plugin if not by the daemon.
        assert (process.returncode == 0) == (verb == "DEL" or connects), out
        assert (ifname in self.interfaces(container)) == (verb == "ADD" and (there or connects))
        self.daemon = self.start()

    def restart(self, container: str, ifname: str) -> None:
        self.daemon.terminate()
        self.daemon.wait(TIMEOUT_S)
        if self.random.random() < 0.5:
            self.add(container, ifname)
        super().restart(container, ifname)
        self.daemon = self.start()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("seed", range(SEQUENCES))
def test_nothing_is_left_after_any_sequence(node: Node, pods: PodMaker, seed: int, stack: ExitStack) -> None:
    node.replace_plugin("bridge", TRANSLATED)
    sequence = CrashingSequence(node, pods, seed, stack)
    try:
        for _ in range(STEPS):
            sequence.step()
        sequence.finish()
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {', '.join(sequence.log)}: {error}") from error
