"""From flags, files and variables to an address and credentials; what is wrong is named, what is secret is not."""

from pathlib import Path

import pytest

from flanneld_py.errors import UsageError
from flanneld_py.kube.access import KubeAccess, read_config

KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://10.0.0.1:6443", certificate-authority: ca.crt}}]
users: [{name: u, user: {token: hunter2}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
"""


def kubeconfig(folder: Path, text: str = KUBECONFIG) -> Path:
    path = folder / "kubeconfig"
    path.write_text(text)
    return path


def service_account(folder: Path) -> Path:
    (folder / "token").write_text("hunter2")
    (folder / "ca.crt").write_text("-----")
    return folder


def error(access: KubeAccess) -> str:
    with pytest.raises(UsageError) as caught:
        read_config(access)
    assert "hunter2" not in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_kubeconfig(tmp_path: Path) -> None:
    config = read_config(KubeAccess(kubeconfig=kubeconfig(tmp_path)))
    assert config.cluster.server == "https://10.0.0.1:6443"
    assert config.user is not None and config.user.token == "hunter2"
    assert config.abs_file("ca.crt") == tmp_path / "ca.crt"


def test_the_address_given_counts_more(tmp_path: Path) -> None:
    access = KubeAccess("https://10.9.9.9:6443", kubeconfig(tmp_path))
    assert read_config(access).cluster.server == "https://10.9.9.9:6443"
    assert not access.in_cluster


@pytest.mark.parametrize(
    ("host", "server"), [("10.96.0.1", "https://10.96.0.1:443"), ("fd00::1", "https://[fd00::1]:443")]
)
def test_pod(tmp_path: Path, host: str, server: str) -> None:
    access = KubeAccess(service=(host, "443"), service_account=service_account(tmp_path))
    config = read_config(access)
    assert config.cluster.server == server and access.in_cluster
    assert config.cluster.certificate_auth == str(tmp_path / "ca.crt")
    assert config.user is not None and config.user.token_file == str(tmp_path / "token")


@pytest.mark.parametrize(("url", "trusted"), [("https://10.0.0.1:6443", True), ("http://10.0.0.1:8080", False)])
def test_a_pods_token_goes_out_encrypted_only(tmp_path: Path, url: str, trusted: bool) -> None:
    config = read_config(KubeAccess(url, service=("10.96.0.1", "443"), service_account=service_account(tmp_path)))
    assert config.cluster.server == url
    assert config.user is not None
    assert (config.user.token_file is not None) == (config.cluster.certificate_auth is not None) == trusted


def test_nothing_is_given(tmp_path: Path) -> None:
    assert error(KubeAccess(service_account=tmp_path)) == (
        "--kube-subnet-mgr: KUBERNETES_SERVICE_HOST is not set, so this is no pod of a cluster; "
        "give --kubeconfig-file or --kube-api-url"
    )
    said = error(KubeAccess(service=("10.96.0.1", "443"), service_account=tmp_path))
    assert f"there is no {tmp_path}/token; set automountServiceAccountToken" in said


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it has not the shape of a kubeconfig"),
        ("[]", "it has not the shape of a kubeconfig"),
        ("users: [hunter2", "it is not YAML, line "),
        ("{}", "it names 'clusters', which is not in it"),
        (KUBECONFIG.replace("current-context: x", ""), "its current-context is missing or names none"),
        (
            KUBECONFIG.replace("current-context: x", "current-context: y"),
            "its current-context is missing or names none",
        ),
        (KUBECONFIG.replace("cluster: c", "cluster: d"), "it names 'd', which is not in it"),
        (KUBECONFIG.replace("{token: hunter2}", "{token: [hunter2]}"), "it has not the shape of a kubeconfig"),
        (KUBECONFIG.replace("{token: hunter2}", "hunter2"), "it has not the shape of a kubeconfig"),
        ("\0hunter2", "it is not YAML"),
        (
            KUBECONFIG.replace("certificate-authority: ca.crt", "certificate-authority-data: hunter2"),
            "its certificate-authority-data is not base64",
        ),
        (
            KUBECONFIG.replace("token: hunter2", "client-certificate-data: hunter2, client-key-data: aGk="),
            "its client-certificate-data is not base64",
        ),
        (
            KUBECONFIG.replace("token: hunter2", "client-certificate-data: aGk=, client-key-data: hunter\u00fc"),
            "its client-key-data is not base64",
        ),
        (
            KUBECONFIG.replace("token: hunter2", "client-certificate: u.crt"),
            "it has a client certificate, and no client key",
        ),
        ("[" * 20000, "it is not YAML"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used(tmp_path: Path, text: str, reason: str) -> None:
    path = kubeconfig(tmp_path, text)
    said = error(KubeAccess(kubeconfig=path))
    assert said.startswith(f"--kubeconfig-file: cannot use {path}: {reason}")


def test_a_kubeconfig_that_is_not_there(tmp_path: Path) -> None:
    assert "there is no such file" in error(KubeAccess(kubeconfig=tmp_path / "none"))
