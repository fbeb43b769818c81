"""What the plugin costs before it does anything: a runtime starts it twice for each pod."""

import json
import subprocess
from pathlib import Path

from cni_plugin import program
from tests.cni.node import Node, PodMaker

MAX_RSS_KIB = 12 * 1024
FREE = {"_socket", "_json", "errno", "fcntl", "posix", "time"}
"""Modules of the standard library that are written in C, and bring no others."""


def loaded(node: Node, verb: str, netns: str) -> set[str]:
    """The modules that a command imports beyond those of the interpreter's own start."""
    script = (node.bin / "flannel").resolve()
    environ = node.environ(verb, "pod1", netns, "eth0")
    prefix = [
        "ip",
        "netns",
        "exec",
        node.space.name,
        program.own_program(None).python,
        program.FLAGS,
        "-X",
        "importtime",
    ]

    def run(*arguments: str) -> set[str]:
        text = json.dumps(node.conf()).encode()
        done = subprocess.run([*prefix, *arguments], input=text, env=environ, capture_output=True, check=True)
        lines = [line.split("|") for line in done.stderr.decode().splitlines() if line.startswith("import time:")]
        return {columns[2].strip() for columns in lines}

    return run(str(script)) - run("-c", "")


def test_commands_import_nothing_that_costs(node: Node, pods: PodMaker) -> None:
    pod = pods()
    for verb in ("ADD", "DEL"):
        found = {name for name in loaded(node, verb, pod.path) if name.partition(".")[0] != "cni_plugin"}
        assert found <= FREE, found - FREE


def test_commands_do_not_load_the_installer_or_each_other(node: Node, pods: PodMaker) -> None:
    pod = pods()
    added, deleted = loaded(node, "ADD", pod.path), loaded(node, "DEL", pod.path)
    assert "cni_plugin.attach" in added and "cni_plugin.check" not in added
    assert deleted.isdisjoint({"cni_plugin.attach", "cni_plugin.check", "cni_plugin.links"})
    assert (added | deleted).isdisjoint(
        {"cni_plugin.install", "cni_plugin.program", "cni_plugin.conflist", "cni_plugin.place"}
    )


def test_memory(node: Node, pods: PodMaker) -> None:
    """Its highest use when the delegate runs, which is after all that it does itself."""
    seen = node.base / "seen"
    node.replace_plugin("bridge", f'grep VmHWM /proc/$PPID/status >{seen}; exec "$REAL"')
    node.add(node.conf(), pods().path)
    assert int(Path(seen).read_text().split()[1]) <= MAX_RSS_KIB
