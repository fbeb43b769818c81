"""The bytes that flannel's dist/mk-docker-opts.sh writes for the same subnet.env, flags and environment."""

from pathlib import Path

import pytest

from flanneld_py.cli.mk_docker_opts import run

SAMPLE = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.74.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n"
V6_ONLY = "FLANNEL_IPV6_NETWORK=fd00::/48\nFLANNEL_IPV6_SUBNET=fd00::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
BIP = 'DOCKER_OPT_BIP="--bip=10.1.74.1/24"\n'
IPMASQ = 'DOCKER_OPT_IPMASQ="--ip-masq=true"\n'
MTU = 'DOCKER_OPT_MTU="--mtu=1472"\n'
ALL = " --bip=10.1.74.1/24 --ip-masq=true --mtu=1472"

CASES = [
    (SAMPLE, [], {}, f'{BIP}{IPMASQ}{MTU}DOCKER_OPTS="{ALL}"\n'),
    (SAMPLE, ["-i", "-c"], {}, f'{BIP}{IPMASQ}{MTU}DOCKER_OPTS="{ALL}"\n'),
    (SAMPLE, ["-i"], {}, f"{BIP}{IPMASQ}{MTU}"),
    (SAMPLE, ["-c"], {}, f'DOCKER_OPTS="{ALL}"\n'),
    (SAMPLE, ["-k", "CUSTOM_KEY"], {}, f'{BIP}{IPMASQ}{MTU}CUSTOM_KEY="{ALL}"\n'),
    (SAMPLE, ["-ckX"], {}, f'X="{ALL}"\n'),
    (SAMPLE, ["-m"], {}, f'{BIP}{MTU}DOCKER_OPTS=" --bip=10.1.74.1/24 --mtu=1472"\n'),
    (SAMPLE.replace("false", "true"), ["-c"], {}, f'DOCKER_OPTS="{ALL.replace("masq=true", "masq=false")}"\n'),
    (SAMPLE, ["-c"], {"DOCKER_OPTS": "--debug"}, f'DOCKER_OPTS="--debug {ALL}"\n'),
    (SAMPLE, ["-c"], {"DOCKER_OPT_A": "--a=1"}, f'DOCKER_OPTS=" --a=1{ALL}"\n'),
    (SAMPLE, ["-i"], {"DOCKER_OPT_ZZ": "--z"}, f'{BIP}{IPMASQ}{MTU}DOCKER_OPT_ZZ="--z"\n'),
    (SAMPLE, ["-c"], {"FLANNEL_MTU": "9", "DOCKER_OPT_MTU": "--x"}, f'DOCKER_OPTS="{ALL}"\n'),
    ("", [], {"FLANNEL_MTU": "9"}, 'DOCKER_OPT_MTU="--mtu=9"\nDOCKER_OPTS=" --mtu=9"\n'),
    (V6_ONLY, ["-c"], {}, 'DOCKER_OPTS=" --ip-masq=false --mtu=1450"\n'),
    ("", [], {}, 'DOCKER_OPTS=""\n'),
    (None, [], {}, 'DOCKER_OPTS=""\n'),
    (None, ["-c"], {"DOCKER_OPTS": "--debug"}, 'DOCKER_OPTS="--debug "\n'),
    (None, ["-i"], {}, ""),
]


@pytest.mark.parametrize(("text", "flags", "environ", "output"), CASES)
def test_output_bytes(tmp_path: Path, text: str | None, flags: list[str], environ: dict[str, str], output: str) -> None:
    source, target = tmp_path / "subnet.env", tmp_path / "docker"
    target.write_text("what was there before, and is longer than all that is written now " * 9)
    if text is not None:
        source.write_text(text)
    argv = ["-f", str(source), "-d", str(target), *flags]
    assert run(argv, environ, routes=tmp_path / "none") == 0
    assert target.read_bytes() == output.encode()
