"""`flanneld config check`: what it prints and with what it ends."""

import io
import json
import sys
from pathlib import Path

import pytest

from flanneld_py.cli.config import run
from flanneld_py.errors import FlannelError, UsageError

GOOD = {"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}


@pytest.fixture
def net_json(tmp_path: Path) -> Path:
    path = tmp_path / "net.json"
    path.write_text(json.dumps(GOOD))
    return path


def test_a_usable_file_is_summed_up(net_json: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", str(net_json)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == [
        f"{net_json}: OK",
        "  network 10.244.0.0/16: 255 subnets of /24, 10.244.1.0 to 10.244.255.0",
        "  backend vxlan",
    ]


def test_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(GOOD).encode())))
    assert run(["check", "-"]) == 0
    assert capsys.readouterr().out.startswith("standard input: OK\n")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"{", "not valid JSON"),
        (b"", "is empty"),
        (b"\xff\xfe{\x00}\x00", "byte 0 is not UTF-8; save it as UTF-8 text"),
        (b"\xef\xbb\xbf{}", "begins with a byte order mark"),
        (b'{"Backend": {"Type": "vxlan"}}', "Network: is missing"),
        (b'{"Network": "10.244.0.0/16", "Backend": {"Type": "a\\nb"}}', 'Type = "a\\nb": names no backend'),
        (b'{"Network": "10.244.0.0/16", "Bacend": {"Type": "vxlan"}}', "did you mean Backend?"),
        (b'{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlam"}}', "vxlam"),
        (b'{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "VNI": "5"}}', "Backend: VNI"),
        (
            b'{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "DirectRoutin": true}}',
            "did you mean DirectRouting?",
        ),
        (b"[" * 99999, "is nested too deeply"),
        (b'{"Network": "' + b"1" * 99999 + b'", "Backend": {"Type": "vxlan"}}', "is not an IPv4 network"),
    ],
)
def test_each_error_is_one_line_that_names_the_file(
    net_json: Path, capsys: pytest.CaptureFixture[str], text: bytes, words: str
) -> None:
    net_json.write_bytes(text)
    assert run(["check", str(net_json)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith(f"error: {net_json}: ")
    assert words in errors[0]
    assert len(errors[0]) < 300 + len(str(net_json))


def test_without_a_backend_it_is_udp_with_a_warning(net_json: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net_json.write_text('{"Network": "10.244.0.0/16"}')
    assert run(["check", str(net_json)]) == 0
    out, err = capsys.readouterr()
    assert "backend udp" in out
    assert err.startswith(f'warning: {net_json}: Backend is missing, so that the backend is "udp"')


def test_all_errors_and_warnings_are_printed(net_json: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net_json.write_text(
        json.dumps({"Network": "10.244.0.1/16", "SubnetMin": "10.1.0.0", "SubnetLen": 99, "Foo": 1, "Backend": {}})
    )
    assert run(["check", str(net_json)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["warning", "warning", "error", "error", "error"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "config: needs a command"),
        (["chekc"], "'chekc': there is no such command"),
        (["check"], "config check: needs a file"),
        (["check", "a", "b"], "config check: unexpected argument 'b'"),
        (["check", "--verbose", "a"], "there is no such flag"),
        (["set"], "config set: needs a file"),
        (["set", "a", "--iface=eth0"], "--iface: there is no such flag"),
    ],
)
def test_usage_errors(argv: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        run(argv)


@pytest.mark.parametrize("argv", [["-h"], ["--help"], ["set", "--help"]])
def test_help(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(argv) == 0
    assert capsys.readouterr().out.startswith("flanneld config check FILE|-\n")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FlannelError, match=r"cannot read .*no: No such file or directory"):
        run(["check", str(tmp_path / "no")])
    with pytest.raises(FlannelError, match="Is a directory"):
        run(["check", str(tmp_path)])


def test_set_does_not_touch_etcd_if_there_is_an_error(net_json: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net_json.write_text("{}")
    assert run(["set", str(net_json), "--etcd-endpoints=http://127.0.0.1:1"]) == 2
    assert "Network: is missing" in capsys.readouterr().err


def test_set_names_a_password_file_that_cannot_be_read(net_json: Path, tmp_path: Path) -> None:
    login = ["--etcd-username=root", f"--etcd-password-file={tmp_path / 'secret'}"]
    with pytest.raises(UsageError, match=r"--etcd-password-file: cannot read .*secret: No such file"):
        run(["set", str(net_json), *login])
    (tmp_path / "secret").write_text("\nhunter2\n")
    with pytest.raises(UsageError, match=r"the first line of .* is empty") as caught:
        run(["set", str(net_json), *login])
    assert "hunter2" not in str(caught.value)
