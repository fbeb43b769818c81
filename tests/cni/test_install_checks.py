"""`flannel install` beside other plugins: which must be there, what is said of them, and when they do not matter."""

from pathlib import Path

import pytest

from tests.cni.node import REAL_PLUGINS
from tests.cni.test_install import Host, host

__all__ = ["host"]


def test_plugin_that_cannot_run_is_refused(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    for content, said in (("", "cannot be run"), ("#!/bin/sh\nexit 0\n", "does not tell its versions")):
        (host.bin / "portmap").unlink()
        (host.bin / "portmap").write_text(content)
        (host.bin / "portmap").chmod(0o755)
        assert host.run() == 1
        assert said in capsys.readouterr().err


def test_directory_with_the_plugins_is_named(host: Host, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert host.run("--bin-dir", tmp_path / "empty") == 1
    assert f"add --bin-dir {REAL_PLUGINS}" in capsys.readouterr().err


def test_link_that_leads_out_of_a_container_is_not_taken_for_a_missing_plugin(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    (host.bin / "bridge").unlink()
    (host.bin / "bridge").symlink_to("/nix/store/plugins/bin/bridge")
    assert host.run() == 0
    assert f"warning: {host.bin}/bridge leads to /nix/store/plugins/bin/bridge" in capsys.readouterr().err
    assert host.conflist.is_file()


def test_plugin_alone_is_installed_beside_the_conflist_of_others(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    (host.bin / "portmap").unlink()
    assert host.run("--no-conf") == 0
    assert (host.bin / "flannel").is_file() and not host.net_d.exists()
    assert capsys.readouterr().err == ""
