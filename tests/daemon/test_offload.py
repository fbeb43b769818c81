"""Checksum offload of the daemon's own device: set, repaired, shown."""

import asyncio
import fcntl
import socket
from array import array
from struct import pack

import pytest

from flanneld_py.lab.namespaces import inside
from flanneld_py.lab.topology import LabSpec
from flanneld_py.model.entry import Desired, TxChecksum
from flanneld_py.netlink.ethtool import EthtoolApplier
from tests.daemon.conftest import FieldOf, fresh_name
from tests.daemon.field import Field, paused
from tests.netns.space import Namespace
from tests.waiting import eventually


def state(field: Field) -> bool | None:
    """Whether node 1's device leaves checksums to others; None while there is no device."""
    asked = TxChecksum("flannel.1", True)
    applier = EthtoolApplier(netns=Namespace(field.namespace(1)).path)
    found = asyncio.run(applier.known(Desired({asked.key: asked}))).get(asked.key)
    return found.on if isinstance(found, TxChecksum) else None


def switch_on(field: Field) -> None:
    """As `ethtool -K flannel.1 tx on` does it."""
    words = array("I", (0x17, 1))
    with inside(field.namespace(1), lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        fcntl.ioctl(sock, 0x8946, pack("=16sQ", b"flannel.1", words.buffer_info()[0]))


def spec(*flags: str, **options: str) -> LabSpec:
    return LabSpec(name=fresh_name(), nodes=1, pods=1, backend_options=tuple(options.items()), daemon_flags=flags)


def test_off_is_kept_off_and_shown(field_of: FieldOf) -> None:
    field = field_of(spec(TxChecksum="off"))
    assert state(field) is False
    line = "tx-checksum off dev flannel.1 (TxChecksum is off)"
    assert field.ask(1)["offload"] == [line]
    assert f"  offload    {line}" in field.call(1, "status", f"--subnet-file={field.folder(1)}/subnet.env").stdout
    with paused(field.daemon(1)):
        switch_on(field)
        assert state(field) is True
    eventually("the daemon switches it off again", lambda: state(field) is False)
    field.hand(1, "link del flannel.1")
    eventually("the new device has it off, too", lambda: state(field) is False)


@pytest.mark.parametrize(("flags", "on"), [((), True), (("-public-ip=198.51.100.7",), False)])
def test_auto_switches_it_off_behind_a_nat_alone(field_of: FieldOf, flags: tuple[str, ...], on: bool) -> None:
    field = field_of(spec(*flags))
    assert state(field) is on
    why = "peers know this node as 198.51.100.7, eth0 has 172.18.1.11: a NAT lies between"
    assert field.ask(1)["offload"] == ([] if on else [f"tx-checksum off dev flannel.1 ({why})"])
