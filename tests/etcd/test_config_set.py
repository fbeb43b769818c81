"""`flanneld config set` against a real etcd."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from flanneld_py.cli import config
from flanneld_py.errors import StoreError
from flanneld_py.etcd.client import EtcdAccess, EtcdClient
from tests.etcd.server import Server

WRITTEN = '{"Network": "10.244.0.0/16", "SubnetLen": 24, "Backend": {"Type": "vxlan", "DirectRouting": true}}'


def test_set_writes_the_canonical_form_once(
    etcd: Server, prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.json"
    path.write_text('{"network": "10.244.3.4/16", "backend": {"type": "VXLAN", "directrouting": "true"}}')
    argv = ["set", f"--etcd-endpoints={etcd.url}", str(path), f"--etcd-prefix={prefix}/"]
    assert config.run(argv) == 0
    assert capsys.readouterr().out == f"{prefix}/config = {WRITTEN}\n"
    assert config.run(argv) == 0
    assert capsys.readouterr().out == f"{prefix}/config is already {WRITTEN}\n"


async def test_what_is_written_is_what_a_node_reads(
    etcd: Server, prefix: str, clients: Callable[..., EtcdClient]
) -> None:
    assert await config.write(EtcdAccess((etcd.url,), prefix), f"{prefix}/config", WRITTEN) is True
    kv, _ = await clients(etcd.url).get(f"{prefix}/config".encode())
    assert kv is not None
    assert json.loads(kv.value) == json.loads(WRITTEN)
    assert kv.lease == 0


def test_an_etcd_that_is_away_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "GIVE_UP_S", 0.5)
    path = tmp_path / "net.json"
    path.write_text(WRITTEN)
    with pytest.raises(StoreError, match=r"cannot write /coreos\.com/network/config: .*127\.0\.0\.1:1"):
        config.run(["set", str(path), "--etcd-endpoints=http://127.0.0.1:1"])
