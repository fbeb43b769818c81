"""ADD on a kernel that does not tell what another namespace has; in this process, with a delegate that is a script."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cni_plugin import attach, links, request
from cni_plugin.request import Environment
from cni_plugin.result import CniError
from tests.cni.node import SUBNET_ENV, PodMaker
from tests.netns.space import Namespace


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[request.Request]:
    """A request whose delegate writes down what it is called with, and fails to ADD."""
    for name in ("bridge", "host-local"):
        script = f'#!/bin/sh\necho "$CNI_COMMAND [$CNI_NETNS]" >>{tmp_path}/calls\n[ $CNI_COMMAND = DEL ]\n'
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "subnet.env").write_text(SUBNET_ENV)
    monkeypatch.setattr(links, "exists", lambda netns, ifname: None)
    variables = {
        "COMMAND": "ADD",
        "CONTAINERID": "pod1",
        "NETNS": str(tmp_path),
        "IFNAME": "eth0",
        "PATH": str(tmp_path),
    }
    environ = {f"CNI_{name}".encode(): value.encode() for name, value in variables.items()} | {
        b"PATH": b"/usr/bin:/bin"
    }
    config = {"name": "cbr0", "subnetFile": f"{tmp_path}/subnet.env", "dataDir": f"{tmp_path}/data"}
    yield request.parse_request(Environment(environ), json.dumps(config).encode())


def test_interface_that_may_be_anothers_is_left_to_del(asked: request.Request, tmp_path: Path) -> None:
    with pytest.raises(CniError, match="exit status 1"):
        attach.add(asked)
    assert (tmp_path / "calls").read_text().splitlines() == [f"ADD [{tmp_path}]", "DEL []"]
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["cbr0@pod1@eth0"]


def test_repeated_add_in_the_same_namespace_is_refused(asked: request.Request, tmp_path: Path) -> None:
    with pytest.raises(CniError):
        attach.add(asked)
    with pytest.raises(CniError, match="attached already"):
        attach.add(asked)
    assert len((tmp_path / "calls").read_text().splitlines()) == 2


def test_interfaces_of_another_namespace(netns: Namespace, pods: PodMaker) -> None:
    """The real kernel."""
    pod = pods()
    assert links.exists(pod.path, "lo") is True
    assert links.exists(pod.path, "eth0") is False
    assert links.exists(pod.path, "x" * 15) is False
    assert links.exists("/run/netns/none", "lo") is None
    assert links.exists("/etc/passwd", "lo") is None


def test_addresses_of_an_interface() -> None:
    found: Any = links.addresses("lo")
    assert set(found) <= {"127.0.0.1/8", "::1/128"} and links.addresses("none") == []
