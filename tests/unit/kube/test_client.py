"""The connection, as far as it needs no server."""

import asyncio
import ssl
from pathlib import Path

import pytest

from flanneld_py.kube.access import KubeAccess, read_config
from flanneld_py.kube.client import KubeClient, _Connection
from flanneld_py.kube.objects import decode_node
from flanneld_py.kube.verdict import Trouble
from flanneld_py.lab.certificates import Authority

KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {exec: {apiVersion: client.authentication.k8s.io/v1beta1, command: PLUGIN}}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
"""


def test_an_authority_without_key_identifiers_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Python 3.13 and later do not by default; the clusters' own authorities often have none."""
    whole = ssl.create_default_context

    def strict(*args: object, **options: object) -> ssl.SSLContext:
        context = whole(*args, **options)  # type: ignore[arg-type]
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
    (tmp_path / "token").write_text("t")
    Authority(tmp_path)
    config = read_config(KubeAccess(service=("10.96.0.1", "443"), service_account=tmp_path))
    context = _Connection().httpx_params(config)["verify"]
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


async def test_a_credential_plugin_that_fails_is_told_and_run_again(tmp_path: Path) -> None:
    """Without it there is no request to a server."""
    plugin, path = tmp_path / "plugin", tmp_path / "kubeconfig"
    plugin.write_text("#!/bin/sh\necho nonsense\n")
    plugin.chmod(0o700)
    path.write_text(KUBECONFIG.replace("PLUGIN", str(plugin)))
    told: asyncio.Queue[Trouble | None] = asyncio.Queue()
    client = KubeClient(KubeAccess(kubeconfig=path), told.put_nowait)
    asking = asyncio.create_task(client.get("get node n1", "/api/v1/nodes/n1", decode_node))
    try:
        for _ in range(2):
            trouble = await asyncio.wait_for(told.get(), 10)
            assert trouble is not None
            assert f"credential plugin '{plugin}' of the kubeconfig: it prints no ExecCredential" in trouble.message
        assert not asking.done()
    finally:
        asking.cancel()
        await asyncio.wait([asking])
        await client.close()
