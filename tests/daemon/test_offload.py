"""Checksum offload of the daemon's own device: set, repaired, shown."""

import pytest

from flanneld_py.lab.topology import LabSpec
from flanneld_py.model.entry import Op, TxChecksum, Verb
from flanneld_py.netlink.ethtool import EthtoolApplier
from tests.daemon.conftest import FieldOf, fresh_name
from tests.daemon.field import Field
from tests.interop.cluster import eventually
from tests.netns.space import Namespace
from tests.netns.test_ethtool import FEATURE, features


def is_on(field: Field) -> bool:
    return features(Namespace(field.namespace(1)))[FEATURE]


def spec(*flags: str, **options: str) -> LabSpec:
    return LabSpec(name=fresh_name(), nodes=1, pods=1, backend_options=tuple(options.items()), daemon_flags=flags)


async def test_off_is_kept_off_and_shown(field_of: FieldOf) -> None:
    field = field_of(spec(TxChecksum="off"))
    assert not is_on(field)
    assert field.ask(1)["offload"] == ["tx-checksum off dev flannel.1 (TxChecksum is off)"]
    assert (
        "offload    tx-checksum off dev flannel.1"
        in field.call(1, "status", f"--subnet-file={field.folder(1)}/subnet.env").stdout
    )
    applier = EthtoolApplier(netns=Namespace(field.namespace(1)).path)
    assert await applier.apply([Op(Verb.CHANGE, TxChecksum("flannel.1", True))]) == []
    eventually("the daemon switches it off again", lambda: not is_on(field))
    field.hand(1, "link del flannel.1")
    eventually("the new device has it off, too", lambda: _is_off(field))


def _is_off(field: Field) -> bool:
    try:
        return not is_on(field)
    except Exception:  # between the old device and the new one there is none
        return False


@pytest.mark.parametrize(("flags", "on"), [((), True), (("-public-ip=198.51.100.7",), False)])
def test_auto_switches_it_off_behind_a_nat_alone(field_of: FieldOf, flags: tuple[str, ...], on: bool) -> None:
    field = field_of(spec(*flags))
    assert is_on(field) is on
    why = "peers know this node as 198.51.100.7, eth0 has 172.18.1.11: a NAT lies between"
    assert field.ask(1)["offload"] == ([] if on else [f"tx-checksum off dev flannel.1 ({why})"])
