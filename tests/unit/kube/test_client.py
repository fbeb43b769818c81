"""The connection, as far as it needs no server."""

import ssl
from pathlib import Path

import pytest

from flanneld_py.kube.access import KubeAccess, read_config
from flanneld_py.kube.client import _Connection
from flanneld_py.lab.certificates import Authority


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
