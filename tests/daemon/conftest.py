"""Labs that the tests of this folder share; a test leaves its lab as it found it."""

import json
import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from flanneld_py.lab import build, etcd
from flanneld_py.lab.progress import Silent
from flanneld_py.lab.topology import Firewall, LabSpec, Topology
from tests.daemon.field import Daemon, Field, strip

NUMBERS = count(1)
FieldOf = Callable[[LabSpec], Field]


def fresh_name() -> str:
    return f"d{os.getpid()}-{next(NUMBERS)}"


@pytest.fixture(scope="session")
def field() -> Iterator[Field]:
    """Three nodes with vxlan on one link, a pod each, every daemon ready.

    The upper half of the network is not for its nodes, so that tests can put peers of their own there.
    """
    spec = LabSpec(name=fresh_name(), pods=1, daemon_flags=("--reacquire",))
    whole = Topology.net_config

    def lower_half(topology: Topology) -> str:
        config = json.loads(whole(topology))
        if topology.spec.name == spec.name:
            config["SubnetMax"] = "10.244.127.0"
        return json.dumps(config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Topology, "net_config", lower_half)
        try:
            yield Field(spec)
        finally:
            build.down(spec.name, Silent())


@pytest.fixture
def field_of() -> Iterator[FieldOf]:
    """A function that builds a lab for one test."""
    names: list[str] = []

    def up(spec: LabSpec) -> Field:
        names.append(spec.name)
        return Field(spec)

    yield up
    for name in names:
        build.down(name, Silent())


@pytest.fixture(scope="session")
def shared_ground() -> Iterator[Field]:
    spec = LabSpec(name=fresh_name(), nodes=2, pods=1, firewall=Firewall.NONE)
    try:
        made = Field(spec)
        for number in (1, 2):
            made.stop(number)
            strip(made.namespace(number))
        yield made
    finally:
        build.down(spec.name, Silent())


class Ground:
    """Two nodes without a daemon, beside a living etcd; a prefix of the test's own below which nothing is yet."""

    def __init__(self, field: Field, folder: Path) -> None:
        self.field, self.folder = field, folder
        self.prefix = f"/test{next(NUMBERS)}"
        self.daemons: list[Daemon] = []

    @property
    def topology(self) -> Topology:
        return self.field.lab.topology

    def namespace(self, number: int = 1) -> str:
        return self.field.namespace(number)

    def put(self, name: str, value: str, *, lease: str = "0") -> None:
        """`lease`: the etcd lease that the key hangs on."""
        key = f"{self.prefix}/{name}"
        self.field.etcd("kv/put", key=etcd._b64(key), value=etcd._b64(value), lease=lease)

    def records(self, name: str) -> list[dict[str, str]]:
        """The key as etcd's JSON gateway shows it; none if it is not there."""
        return list(self.field.etcd("kv/range", key=etcd._b64(f"{self.prefix}/{name}")).get("kvs", ()))

    def delete(self, name: str) -> None:
        answer = self.field.etcd("kv/deleterange", key=etcd._b64(f"{self.prefix}/{name}"))
        assert answer.get("deleted") == "1", f"{name} was not there"

    def read(self, name: str) -> dict[str, str]:
        """Keys below the prefix that begin so, and their values."""
        found = etcd.read_prefix(self.topology, f"{self.prefix}/{name}")
        return {key.removeprefix(f"{self.prefix}/"): value for key, value in found.items()}

    def daemon(
        self, *flags: str, number: int = 1, folder: str | None = None, env: dict[str, str] | None = None
    ) -> Daemon:
        """A daemon that is not started yet."""
        made = Daemon(
            self.namespace(number),
            self.folder / (f"node{number}"),
            f"--etcd-endpoints={self.topology.etcd_url}",
            f"--etcd-prefix={self.prefix}",
            *flags,
            env=env or {},
        )
        self.daemons.append(made)
        return made


@pytest.fixture
def ground(shared_ground: Field, tmp_path: Path) -> Iterator[Ground]:
    made = Ground(shared_ground, tmp_path)
    yield made
    for daemon in made.daemons:
        daemon.end()
    for number in (1, 2):
        strip(shared_ground.namespace(number))
    assert [said for daemon in made.daemons for said in daemon.complaints()] == []
