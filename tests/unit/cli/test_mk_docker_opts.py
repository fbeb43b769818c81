"""What mk-docker-opts refuses, and what it says; its output is in tests/compat."""

import subprocess
import sys
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from flanneld_py.cli import mk_docker_opts
from flanneld_py.cli.mk_docker_opts import parse_arguments, route_in_the_way, run
from flanneld_py.errors import FlannelError, UsageError

ENV = "FLANNEL_SUBNET=10.1.74.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n"
HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"


def row(dev: str, dst: str, gateway: str, flags: int, mask: str) -> str:
    """A line of /proc/net/route, as this machine's kernel prints it."""

    def column(address: str) -> str:
        return f"{int.from_bytes(bytes(map(int, address.split('.'))), sys.byteorder):08X}"

    return f"{dev}\t{column(dst)}\t{column(gateway)}\t{flags:04X}\t0\t0\t0\t{column(mask)}\t0\t0\t0\n"


DEFAULT = row("eth0", "0.0.0.0", "10.0.0.1", 3, "0.0.0.0")
VIA = row("eth0", "10.1.74.0", "10.0.0.9", 3, "255.255.255.0")


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([], None),
        ([DEFAULT], None),
        ([DEFAULT, VIA], "10.1.74.0/24 via 10.0.0.9 dev eth0"),
        ([row("docker0", "10.1.74.0", "0.0.0.0", 1, "255.255.255.0")], None),
        ([row("eth0", "10.1.74.0", "10.0.0.9", 3, "255.255.254.0")], None),
        ([row("eth0", "110.1.74.0", "10.0.0.9", 3, "255.255.255.0")], None),
        ([row("eth0", "10.1.75.0", "10.0.0.9", 3, "255.255.255.0")], None),
    ],
)
def test_route_in_the_way_is_a_gateway_for_exactly_the_subnet(rows: list[str], found: str | None) -> None:
    assert route_in_the_way(IPv4Network("10.1.74.0/24"), HEAD + "".join(rows)) == found


def test_the_kernel_s_own_table_is_understood() -> None:
    """The format is the kernel's: a subnet of TEST-NET-1 is in nobody's table, and every line must be readable."""
    assert route_in_the_way(IPv4Network("192.0.2.128/29"), Path("/proc/net/route").read_text()) is None


def test_a_route_in_the_way_fails_after_the_file_is_written(tmp_path: Path) -> None:
    source, target, routes = tmp_path / "s", tmp_path / "d", tmp_path / "route"
    source.write_text(ENV)
    routes.write_text(HEAD + DEFAULT + VIA)
    with pytest.raises(FlannelError, match=r"there is a route 10\.1\.74\.0/24 via 10\.0\.0\.9 dev eth0"):
        run(["-c", "-f", str(source), "-d", str(target)], {}, routes=routes)
    assert target.read_text() == 'DOCKER_OPTS=" --bip=10.1.74.1/24 --ip-masq=true --mtu=1472"\n'


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["-x"], "-x"),
        (["-f"], "-f"),
        (["-k", "A B"], "is not the name of a variable"),
        (["-k", "1A"], "is not the name of a variable"),
        (["-k", ""], "is not the name of a variable"),
        (["-i", "file", "-c"], "unexpected argument 'file'"),
    ],
)
def test_arguments_that_cannot_be_used(argv: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_arguments(argv)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("FLANNEL_IPMASQ=maybe\n", "FLANNEL_IPMASQ = 'maybe': is neither true nor false"),
        ("FLANNEL_SUBNET=x\n", "FLANNEL_SUBNET = 'x': is not an address"),
        ("FLANNEL_SUBNET=fd00::1/64\n", "is not an address"),
    ],
)
def test_a_subnet_env_that_cannot_be_used_leaves_the_output_alone(tmp_path: Path, text: str, words: str) -> None:
    source, target = tmp_path / "s", tmp_path / "d"
    source.write_text(text)
    target.write_text("before")
    with pytest.raises(FlannelError, match=words):
        run(["-f", str(source), "-d", str(target)], {})
    assert target.read_text() == "before"


def test_ipmasq_is_not_judged_where_it_is_not_used(tmp_path: Path) -> None:
    source, target = tmp_path / "s", tmp_path / "d"
    source.write_text("FLANNEL_IPMASQ=maybe\n")
    assert run(["-m", "-f", str(source), "-d", str(target)], {}) == 0


def test_a_missing_input_is_said_and_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["-f", str(tmp_path / "s"), "-d", str(tmp_path / "d")], {}) == 0
    assert f"there is no {tmp_path / 's'}" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FlannelError, match=r"cannot write .*: No such file or directory; choose another with -d"):
        run(["-f", str(tmp_path / "s"), "-d", str(tmp_path / "no" / "d")], {})


@pytest.mark.parametrize("flag", ["-h", "-?"])
def test_help_is_on_stderr_and_ends_with_1(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([flag], {}) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mk-docker-opts [-f SUBNET-ENV]")


def test_the_command_ends_with_1_and_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from flanneld_py.cli.mk_docker_opts import main; raise SystemExit(main())"]
    done = subprocess.run([*command, "-k", "A-B"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("mk-docker-opts: -k 'A-B': ")


def test_it_imports_little() -> None:
    tree = str(Path(mk_docker_opts.__file__).parents[2])
    code = f"import sys; sys.path.insert(0, {tree!r}); import {mk_docker_opts.__name__}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    heavy = {"asyncio", "json", "logging", "pyroute2", "grpc", "argparse", "subprocess", "socket"}
    assert not heavy & set(done.stdout.split())
