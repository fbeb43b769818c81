"""A node for the plugin: a namespace, the real plugins of the CNI project, and files in a temporary directory."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from pyroute2 import netns as namespaces

from tests.netns.space import PREFIX, Namespace

REAL_PLUGINS = Path("/usr/lib/cni")
TIMEOUT_S = 60
_numbers = count(1)

SUBNET_ENV = """\
FLANNEL_NETWORK=10.77.0.0/16
FLANNEL_SUBNET=10.77.9.1/24
FLANNEL_MTU=1400
FLANNEL_IPMASQ=true
"""
DUAL_STACK_ENV = """\
FLANNEL_NETWORK=10.77.0.0/16
FLANNEL_SUBNET=10.77.9.1/24
FLANNEL_IPV6_NETWORK=fd77::/48
FLANNEL_IPV6_SUBNET=fd77:0:0:9::1/64
FLANNEL_MTU=1400
FLANNEL_IPMASQ=true
"""


@dataclass(frozen=True)
class Answer:
    """`document`: the one JSON document on standard output; None if there was none."""

    code: int
    document: dict[str, Any] | None
    log: str

    @property
    def text(self) -> str:
        """What a runtime shows of an error."""
        assert self.document is not None
        return f"{self.document['msg']}; {self.document.get('details', '')}"


@dataclass
class Node:
    """`bin`: CNI_PATH. The directories that hold state begin without existing."""

    space: Namespace
    base: Path
    bin: Path
    env_file: Path = field(init=False)
    data: Path = field(init=False)
    addresses: Path = field(init=False)

    def __post_init__(self) -> None:
        self.env_file = self.base / "run" / "subnet.env"
        self.data = self.base / "data"
        self.addresses = self.base / "networks"
        self.env_file.parent.mkdir(exist_ok=True)
        self.env_file.write_text(SUBNET_ENV)

    def conf(self, name: str = "cbr0", version: str = "1.0.0", **changes: Any) -> dict[str, Any]:
        """A network configuration as a runtime gives it; `changes` replace keys, None removes one."""
        given: dict[str, Any] = {
            "cniVersion": version,
            "name": name,
            "type": "flannel",
            "subnetFile": str(self.env_file),
            "dataDir": str(self.data),
            "ipam": {"dataDir": str(self.addresses)},
            "delegate": {"hairpinMode": True, "isDefaultGateway": True},
        }
        return {key: value for key, value in (given | changes).items() if value is not None}

    def environ(self, verb: str, container: str, netns: str, ifname: str, **more: str) -> dict[str, str]:
        given = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": netns,
            "CNI_IFNAME": ifname,
            "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=web",
            "CNI_PATH": str(self.bin),
            "PATH": os.environ["PATH"],
        }
        return given | more

    def command(self, plugin: str = "flannel") -> list[str]:
        # As `ip netns exec` does it, /sys shows the namespace too, which the bridge's ports are read from.
        return ["ip", "netns", "exec", self.space.name, str(self.bin / plugin)]

    def call(
        self,
        verb: str,
        conf: dict[str, Any] | bytes,
        *,
        container: str = "pod1",
        netns: str = "",
        ifname: str = "eth0",
        plugin: str = "flannel",
        **environ: str,
    ) -> Answer:
        data = conf if isinstance(conf, bytes) else json.dumps(conf).encode()
        done = subprocess.run(
            self.command(plugin),
            input=data,
            env=self.environ(verb, container, netns, ifname, **environ),
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        log = done.stderr.decode(errors="replace")
        assert "Traceback" not in log
        return Answer(done.returncode, json.loads(done.stdout) if done.stdout else None, log)

    def add(self, conf: dict[str, Any], netns: str, **more: Any) -> dict[str, Any]:
        """The result of an ADD that must succeed."""
        answer = self.call("ADD", conf, netns=netns, **more)
        assert answer.code == 0 and answer.document is not None, answer
        return answer.document

    def delete(self, conf: dict[str, Any], netns: str, **more: Any) -> Answer:
        """A DEL that must succeed, and print nothing."""
        answer = self.call("DEL", conf, netns=netns, **more)
        assert answer.code == 0 and answer.document is None, answer
        return answer

    def links(self) -> list[str]:
        """The node's links but for lo and the bridge."""
        return sorted(link["ifname"] for link in self.space.ip_json("link") if link["ifname"] not in ("lo", "cni0"))

    def records(self) -> list[str]:
        return sorted(path.name for path in self.data.iterdir()) if self.data.exists() else []

    def held(self, network: str = "cbr0") -> list[str]:
        """The addresses that host-local has given out."""
        folder = self.addresses / network
        names = [path.name for path in folder.iterdir()] if folder.exists() else []
        return sorted(name for name in names if not name.startswith(("last_reserved_ip", "lock")))

    def left(self) -> dict[str, list[str]]:
        """Whatever is there of attachments; empty values only, once all are deleted."""
        return {"links": self.links(), "records": self.records(), "addresses": self.held()}

    def replace_plugin(self, name: str, script: str) -> None:
        """Puts a shell script in the place of a plugin; `$REAL` in it is the real one."""
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\nREAL={REAL_PLUGINS / name}\n{script}\n")
        path.chmod(0o755)

    def restore_plugin(self, name: str) -> None:
        path = self.bin / name
        path.unlink()
        path.symlink_to(REAL_PLUGINS / name)


NOTHING: dict[str, list[str]] = {"links": [], "records": [], "addresses": []}


def link_real_plugins(folder: Path) -> None:
    """The real plugins under their names in a directory that a test may change."""
    assert (REAL_PLUGINS / "bridge").exists(), "install the package containernetworking-plugins"
    for name in ("bridge", "host-local", "portmap", "ptp", "loopback", "static"):
        (folder / name).symlink_to(REAL_PLUGINS / name)


@contextmanager
def pod() -> Iterator[Namespace]:
    """A container's namespace."""
    name = f"{PREFIX}{os.getpid()}-pod-{next(_numbers)}"
    namespaces.create(name)
    try:
        yield Namespace(name)
    finally:
        remove_namespace(Namespace(name))


def remove_namespace(space: Namespace) -> None:
    """As a runtime does at the end of a container; once more is no harm."""
    if space.name in namespaces.listnetns():
        namespaces.remove(space.name)


PodMaker = Callable[[], Namespace]
"""A namespace of its own each time."""
