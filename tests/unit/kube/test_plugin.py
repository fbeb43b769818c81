"""Credential plugins of a kubeconfig, real processes, and what is told of those that fail."""

import stat
from pathlib import Path

import httpx2
import pytest
from lightkube.config.models import UserExec

from flanneld_py.errors import UsageError
from flanneld_py.kube.plugin import PluginAuth

TOKEN = '{"apiVersion": "client.authentication.k8s.io/v1beta1", "status": {"token": "hunter2"}}'
REQUEST = httpx2.Request("GET", "https://192.0.2.1/api")


def plugin(folder: Path, script: str) -> PluginAuth:
    path = folder / "plugin"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(stat.S_IRWXU)
    return PluginAuth(UserExec("client.authentication.k8s.io/v1beta1", str(path)))


async def test_the_token_goes_out_and_is_asked_for_again_when_it_is_refused(tmp_path: Path) -> None:
    auth = plugin(tmp_path, f"echo x >> {tmp_path}/runs; echo '{TOKEN}'")
    for runs, answers in ((1, [200]), (1, [200]), (2, [401, 200])):
        flow = auth.async_auth_flow(REQUEST)
        request = await anext(flow)
        for status in answers:
            assert request.headers["Authorization"] == "Bearer hunter2"
            try:
                request = await flow.asend(httpx2.Response(status))
            except StopAsyncIteration:
                break
        assert len((tmp_path / "runs").read_text().split()) == runs


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo hunter2", "it prints no ExecCredential with a token, which is JSON"),
        ("echo '[]'", "it prints no ExecCredential with a token, which is JSON"),
        ("echo '{\"status\": null}'", "it prints no ExecCredential with a token, which is JSON"),
        ("echo '{\"status\": {}}'", "it prints no ExecCredential with a token, which is JSON"),
        ("printf '\\377'", "it prints no ExecCredential with a token, which is JSON"),
        ("printf 'hunter2\\nhunter2' >&2; exit 3", "returned 3"),
        ("printf '\\377' >&2; exit 3", "it prints no ExecCredential with a token, which is JSON"),
    ],
)
async def test_a_plugin_that_fails_is_named_in_one_line(tmp_path: Path, script: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        await anext(plugin(tmp_path, script).async_auth_flow(REQUEST))
    assert f"credential plugin '{tmp_path}/plugin' of the kubeconfig: " in str(caught.value)
    assert reason in str(caught.value)
    assert "hunter2" not in str(caught.value) and "\n" not in str(caught.value)


async def test_a_plugin_that_is_not_there_is_named() -> None:
    auth = PluginAuth(UserExec("client.authentication.k8s.io/v1beta1", "/nowhere/plugin"))
    with pytest.raises(UsageError, match="'/nowhere/plugin' of the kubeconfig: No such file"):
        await anext(auth.async_auth_flow(REQUEST))
