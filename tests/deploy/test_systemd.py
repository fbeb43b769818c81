"""The unit that is shipped: systemd accepts it, and turns the settings files into the command line that is meant."""

import os
import re
import shlex
import stat
import subprocess
from pathlib import Path

import pytest

from flanneld_py.daemon.options import Options, parse_options

SYSTEMD = Path(__file__).parents[2] / "deploy" / "systemd"
UNIT = SYSTEMD / "flanneld.service"
SETTINGS = SYSTEMD / "flanneld.env"


def directives(unit: Path) -> list[tuple[str, str]]:
    """(name, value) in the file's order, of all sections; continued lines joined (systemd.syntax(7))."""
    text = re.sub(r"\\\n\s*", " ", unit.read_text())
    lines = [line.strip() for line in text.splitlines()]
    return [
        (name.strip(), value.strip())
        for name, found, value in (line.partition("=") for line in lines)
        if found and not name.startswith(("#", ";", "["))
    ]


def values(name: str) -> list[str]:
    return [value for key, value in directives(UNIT) if key == name]


def read_settings(text: str) -> dict[str, str]:
    """The assignments of an EnvironmentFile (systemd.exec(5)): quotes removed, # and ; begin a comment."""
    lines = [line.strip() for line in text.splitlines()]
    pairs = (line.partition("=") for line in lines if line and line[0] not in "#;")
    return {name: "".join(shlex.split(value)) if value[:1] in ("'", '"') else value for name, _, value in pairs}


def command_line(settings: str) -> list[str]:
    """What ExecStart runs with these settings (systemd.service(5), Command lines).

    `${NAME}` becomes its value inside one word; a word that is `$NAME` becomes as many words as the value holds.
    """
    environment = read_settings("\n".join(shlex.split(value)[0] for value in values("Environment")))
    environment |= read_settings(settings)
    words: list[str] = []
    for word in shlex.split(values("ExecStart")[-1]):
        if re.fullmatch(r"\$\w+", word):
            words += shlex.split(environment.get(word[1:], ""))
        else:
            words.append(re.sub(r"\$\{(\w+)\}", lambda match: environment.get(match[1], ""), word))
    return words


def options(settings: str) -> Options:
    return parse_options(command_line(settings)[1:], {})


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """It says what it ignores on stderr and exits 0; so the words count, not the exit code."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(stat.S_IRWXU)
    copy = tmp_path / UNIT.name
    copy.write_text(re.sub(r"/usr/local/bin/(flanneld|mk-docker-opts)\b", str(program), UNIT.read_text()))
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )
    complaints = [line for line in result.stderr.splitlines() if UNIT.name in line]
    assert complaints == []
    assert result.returncode == 0, result.stderr


def test_systemd_would_complain_of_a_wrong_word(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("KillMode=process", "KillMode=proces"))
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, check=False
    )
    assert "kill mode" in result.stderr


def test_without_settings_the_defaults_hold() -> None:
    assert command_line("") == [
        "/usr/local/bin/flanneld",
        "--etcd-endpoints=http://127.0.0.1:2379",
        "--etcd-prefix=/coreos.com/network",
        "--reacquire",
    ]


def test_shipped_settings_change_nothing() -> None:
    assert command_line(SETTINGS.read_text()) == command_line("")


def test_commented_settings_are_usable() -> None:
    """Each line that is commented out can be used as it stands."""
    text = "\n".join(line[1:] for line in SETTINGS.read_text().splitlines() if re.match(r"#FLANNEL_\w+=", line))
    given = options(text)
    assert given.iface == ("eth1",)
    assert given.etcd_cafile == "/etc/flanneld/ca.pem"


def test_settings_of_a_distribution_reach_the_daemon() -> None:
    given = options(
        "# Flanneld configuration options\n"
        'FLANNEL_ETCD_ENDPOINTS="https://10.0.0.1:2379,https://10.0.0.2:2379"\n'
        'FLANNEL_ETCD_PREFIX="/kube-centos/network"\n'
        'FLANNEL_OPTIONS="-iface=eth1 -v 2"\n'
    )
    assert given.etcd_endpoints == ("https://10.0.0.1:2379", "https://10.0.0.2:2379")
    assert given.etcd_prefix == "/kube-centos/network"
    assert given.iface == ("eth1",)
    assert given.reacquire


def test_reacquire_can_be_switched_off() -> None:
    assert options("").reacquire
    assert not options("FLANNEL_OPTIONS=--reacquire=false").reacquire


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Type", "notify"),
        ("Restart", "on-failure"),
        ("KillMode", "process"),
        ("RuntimeDirectory", "flannel"),
        ("RuntimeDirectoryPreserve", "yes"),
        ("ExecStartPost", "/usr/local/bin/mk-docker-opts -k DOCKER_NETWORK_OPTIONS -d /run/flannel/docker"),
    ],
)
def test_unit_says(name: str, value: str) -> None:
    assert values(name) == [value]


def test_docker_comes_after() -> None:
    assert "docker.service" in " ".join(values("Before")).split()
    drop_in = dict(directives(SYSTEMD / "docker.service.d" / "flannel.conf"))
    assert drop_in["EnvironmentFile"] == "-/run/flannel/docker"
    assert drop_in["ExecStart"].endswith(" $DOCKER_NETWORK_OPTIONS")


@pytest.mark.parametrize("path", ["/proc/sys", "/dev/net/tun", "/run/flannel"])
def test_hardening_leaves_what_the_daemon_writes(path: str) -> None:
    hides = {"/proc/sys": "ProtectKernelTunables", "/dev/net/tun": "PrivateDevices", "/run/flannel": "ProtectSystem"}
    assert values(hides[path]) in ([], ["no"], ["full"])
    assert "CAP_NET_ADMIN" in values("CapabilityBoundingSet")[0].split()


def test_every_drop_in_is_in_the_readme() -> None:
    readme = (SYSTEMD / "README.md").read_text()
    shipped = [path.name for path in SYSTEMD.rglob("*") if path.is_file() and path.name != "README.md"]
    assert [name for name in shipped if name not in readme] == []
