"""The daemon does what the plugin and host-local do: one reading of a configuration, one set of files."""

import json
import os
import subprocess
from ipaddress import ip_network
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugin import jsontext, netconf, request, subnetenv
from cni_plugin.result import CniError
from flanneld_py.model.subnetenv import parse_subnet_env
from flanneld_py.pods import addresses
from flanneld_py.pods.exchange import HEAD, NotForUs, encode_record, parse_question
from flanneld_py.pods.network import Attachment, attachment_of, delegate_config, network_of, version_of
from flanneld_py.pods.place import PlaceError

HOST_LOCAL = Path("/usr/lib/cni/host-local")
NAMES = st.sampled_from(["cbr0", "a-b.c_d", "", "-a", "a/b", 7, None])
NETS = st.sampled_from(["192.0.2.0/24", "192.0.2.7/24", "fd00::/8", "::ffff:0:0/96", "10.0.0.0/255.0.0.0", "x", 1])
ADDRESSES = st.sampled_from(["192.0.2.1", "fd00::1", "", None, "x", "fe80::1%eth0"])
ROUTES = st.lists(st.fixed_dictionaries({"dst": NETS}, optional={"gw": ADDRESSES, "mtu": st.just(1400)}), max_size=2)
VALUES: st.SearchStrategy[Any] = st.sampled_from([True, False, None, 0, 1400, "yes", "cni0", {}, []])
CONFIGS = st.fixed_dictionaries(
    {"name": NAMES},
    optional={
        "cniVersion": st.sampled_from(["", "0.1.0", "0.3.1", "1.0.0", "1.1.0", "9.9.9", 1]),
        "delegate": st.dictionaries(
            st.sampled_from(["type", "mtu", "isGateway", "hairpinMode", "ipMasq", "name", "ipam", "vlan", "bridge"]),
            VALUES | st.just("bridge"),
            max_size=4,
        )
        | VALUES,
        "ipam": st.fixed_dictionaries(
            {},
            optional={"routes": ROUTES | VALUES, "type": st.just("host-local"), "dataDir": st.just("/d"), "x": VALUES},
        )
        | VALUES,
        "runtimeConfig": VALUES,
        "args": VALUES,
    },
)
ENVS = st.builds(
    lambda four, six, mtu, masq: "".join(
        (
            f"FLANNEL_NETWORK=10.77.0.0/16,10.78.0.0/16\nFLANNEL_SUBNET={four}\n" if four else "",
            f"FLANNEL_IPV6_NETWORK=fd77::/48\nFLANNEL_IPV6_SUBNET={six}\n" if six else "",
            f"FLANNEL_MTU={mtu}\nFLANNEL_IPMASQ={masq}\n",
        )
    ),
    st.sampled_from(["10.77.9.1/24", "10.77.9.9/24,10.77.5.1/24"]),
    st.sampled_from(["", "fd77:0:0:9::1/64", "fd77::ffff:1.2.3.1/112"]),
    st.integers(576, 9000),
    st.sampled_from(["true", "false"]),
)


def question(config: dict[str, Any]) -> bytes:
    variables = {"COMMAND": "ADD", "CONTAINERID": "pod1", "NETNS": "/n", "IFNAME": "eth0", "ARGS": ""}
    lines = [
        HEAD,
        b"SOCKET=/run/flannel/cni.sock",
        *(f"CNI_{key}={value}".encode() for key, value in variables.items()),
    ]
    return b"\0".join(lines) + b"\0\0" + json.dumps(config).encode()


def by_the_plugin(config: dict[str, Any], env: str) -> bytes:
    environ = {b"CNI_COMMAND": b"ADD", b"CNI_CONTAINERID": b"pod1"}
    asked = request.parse_request(request.Environment(environ), json.dumps(config).encode())
    return jsontext.encode(netconf.delegate_config(netconf.NetConf(asked), subnetenv.parse_subnet_env(env)[0]))


@given(CONFIGS, ENVS)
def test_what_the_daemon_takes_it_reads_as_the_plugin_does(config: dict[str, Any], env: str) -> None:
    try:
        asked = parse_question(question(config))
        attachment_of(asked)
        ours = delegate_config(asked, parse_subnet_env(env)[0])
        network_of(ours, version_of(asked))
    except NotForUs:
        return
    assert encode_record(ours) == by_the_plugin(config, env)


def test_the_usual_is_taken() -> None:
    """Else the property above would hold of a daemon that takes nothing."""
    for delegate in ({}, {"hairpinMode": True, "isDefaultGateway": True}, {"mtu": 1300, "bridge": "br0"}):
        config = {
            "name": "cbr0",
            "cniVersion": "1.0.0",
            "delegate": delegate,
            "ipam": {"routes": [{"dst": "0.0.0.0/0"}]},
        }
        env = "FLANNEL_NETWORK=10.77.0.0/16\nFLANNEL_SUBNET=10.77.9.1/24\nFLANNEL_MTU=1400\nFLANNEL_IPMASQ=true\n"
        ours = delegate_config(parse_question(question(config)), parse_subnet_env(env)[0])
        assert network_of(ours, "1.0.0").gateway
        assert encode_record(ours) == by_the_plugin(config, env)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_records_are_encoded_alike(value: Any) -> None:
    try:
        plugins = jsontext.encode({"delegate": value})
    except (CniError, ValueError):
        return
    assert encode_record({"delegate": value}) == plugins


class Twins:
    """One network's address files twice: of host-local, and of ours."""

    RANGES = ("10.77.9.0/29", "fd77:0:0:9::/125")

    def __init__(self, folder: Path) -> None:
        self.plugin, self.own = folder / "plugin", folder / "own"
        for path in (self.plugin, self.own):
            path.mkdir()

    def by_the_plugin(self, verb: str, container: str) -> list[str] | None:
        """The addresses; None: there is none."""
        conf = {
            "cniVersion": "1.0.0",
            "name": "cbr0",
            "type": "bridge",
            "ipam": {
                "type": "host-local",
                "dataDir": str(self.plugin),
                "ranges": [[{"subnet": one}] for one in self.RANGES],
            },
        }
        environ = {"CNI_COMMAND": verb, "CNI_CONTAINERID": container, "CNI_NETNS": "/n", "CNI_IFNAME": "eth0"}
        done = subprocess.run(
            [HOST_LOCAL],
            input=json.dumps(conf).encode(),
            env=environ | {"CNI_PATH": "/"},
            capture_output=True,
            check=False,
        )
        if verb == "DEL" or done.returncode:
            return None
        return [one["address"] for one in json.loads(done.stdout)["ips"]]

    def by_us(self, verb: str, container: str) -> list[str] | None:
        base = os.open(self.own, os.O_RDONLY)
        attachment = Attachment("cbr0", container, "eth0")
        try:
            with addresses.locked(base, "cbr0") as files:
                if verb == "DEL":
                    files.release(attachment)
                    return None
                return [str(one) for one in files.reserve(attachment, tuple(map(ip_network, self.RANGES)))]
        except PlaceError:
            return None
        finally:
            os.close(base)


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mode) for path in (folder / "cbr0").iterdir()}


@pytest.mark.parametrize("seed", range(4))
def test_addresses_and_files_are_those_of_host_local(tmp_path: Path, seed: int) -> None:
    twins, random = Twins(tmp_path), Random(seed)
    for _ in range(30):
        verb, container = random.choice(["ADD", "ADD", "DEL"]), f"c{random.randrange(7)}"
        assert twins.by_us(verb, container) == twins.by_the_plugin(verb, container), (verb, container)
        assert content(twins.own) == content(twins.plugin)
