"""The packet filter under a running daemon: chosen, written before it is ready, repaired by event, and taken away."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from flanneld_py.daemon.rundir import instance
from tests.daemon.conftest import Ground
from tests.daemon.field import Daemon, call
from tests.waiting import eventually

IPTABLES = ("iptables-nft", "iptables-legacy")
PATIENT = "-w 20"
"""The daemon's own iptables may hold the lock just then."""


def config(*, nft: bool = False, dual: bool = False, backend: str = "vxlan") -> str:
    found: dict[str, object] = {"Network": "10.77.0.0/16", "EnableNFTables": nft, "Backend": {"Type": backend}}
    if dual:
        found |= {"EnableIPv6": True, "IPv6Network": "fd77::/48"}
    return json.dumps(found)


def shell(space: str, text: str) -> str:
    command = ["ip", "netns", "exec", space, "sh", "-ec", text]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{text}: {done.stderr}"
    return done.stdout


def rules(space: str) -> dict[str, str]:
    """What is there of ours, by engine."""
    tables = [line for line in shell(space, "nft list tables").splitlines() if " flannel-ipv" in line]
    shown = {"nft": "".join(shell(space, f"nft list {table}") for table in tables)}
    for tool in IPTABLES:
        text = shell(space, f"{tool}-save; {tool.replace('ip', 'ip6', 1)}-save")
        shown[tool] = "\n".join(line for line in text.splitlines() if "FLANNEL" in line)
    return shown


def engines(space: str) -> set[str]:
    return {engine for engine, text in rules(space).items() if text}


@pytest.fixture
def ground(ground: Ground) -> Iterator[Ground]:
    """Whose packet filters are empty before and after."""
    yield ground
    for daemon in ground.daemons:
        daemon.end()
    for number in (1, 2):
        clean = "; ".join(
            f"for t in filter nat mangle; do {tool} -t $t -F; {tool} -t $t -X; done; {tool} -P FORWARD ACCEPT"
            for base in IPTABLES
            for tool in (f"{base} {PATIENT}", f"{base.replace('ip', 'ip6', 1)} {PATIENT}")
        )
        shell(ground.namespace(number), f"nft flush ruleset; {clean}; nft flush ruleset")


def status(daemon: Daemon) -> "subprocess.CompletedProcess[str]":
    return call(daemon.namespace, "status", f"--subnet-file={daemon.folder}/subnet.env")


def test_iptables_by_default_and_forward_rules_only(ground: Ground) -> None:
    ground.put("config", config())
    daemon = ground.daemon().ready()
    assert engines(daemon.namespace) == {"iptables-nft"}
    shown = rules(daemon.namespace)["iptables-nft"]
    assert "FLANNEL-FWD" in shown and "POSTRTG" not in shown
    assert daemon.env()["FLANNEL_IPMASQ"] == "false"
    assert "rules      forward; kept by iptables-nft (the default, without EnableNFTables)" in status(daemon).stdout


@pytest.mark.parametrize(
    ("flags", "nft", "engine"),
    [
        ((), True, "nft"),
        (("--packet-filter=nft",), False, "nft"),
        (("--packet-filter=iptables",), True, "iptables-nft"),
    ],
)
def test_rules_stand_when_it_is_ready(ground: Ground, flags: tuple[str, ...], nft: bool, engine: str) -> None:
    ground.put("config", config(nft=nft, dual=True))
    daemon = ground.daemon("--ip-masq", *flags).ready()
    assert engines(daemon.namespace) == {engine}
    shown = rules(daemon.namespace)[engine]
    for words in ("10.77.0.0/16", "fd77::/48", "RETURN" if engine != "nft" else "return", "flanneld forward"):
        assert words in shown
    assert daemon.env()["FLANNEL_IPMASQ"] == "true"
    answer = status(daemon)
    assert answer.returncode == 0
    assert f"rules      masquerade, forward; kept by {engine} (" in answer.stdout


def test_without_rules_there_are_none(ground: Ground) -> None:
    ground.put("config", config())
    daemon = ground.daemon("--iptables-forward-rules=false").ready()
    assert engines(daemon.namespace) == set()
    assert "rules      none; kept by" in status(daemon).stdout


def test_ports_are_not_random_if_that_is_not_wanted(ground: Ground) -> None:
    ground.put("config", config(nft=True))
    daemon = ground.daemon("--ip-masq", "--ip-masq-fully-random-disable").ready()
    shown = rules(daemon.namespace)["nft"]
    assert "masquerade" in shown and "fully-random" not in shown


@pytest.mark.parametrize(
    ("nft", "damage"),
    [
        (True, "nft flush ruleset"),
        (True, "nft flush chain ip flannel-ipv4{suffix} postrtg"),
        (False, "iptables-nft -t nat -F; iptables-nft -F; iptables-nft -X"),
        (False, "nft flush ruleset"),
    ],
)
def test_damage_is_repaired_by_event(ground: Ground, nft: bool, damage: str) -> None:
    ground.put("config", config(nft=nft))
    # Neither timer can be what repairs it.
    daemon = ground.daemon("--ip-masq", "--iptables-resync=3600").ready()
    engine = "nft" if nft else "iptables-nft"
    before = rules(daemon.namespace)[engine]
    suffix = instance(daemon.folder / "subnet.env")
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGSTOP)  # a repair in the middle of the damage would spoil that
    shell(daemon.namespace, damage.replace("{suffix}", f"-{suffix}"))
    daemon.process.send_signal(signal.SIGCONT)
    eventually("repaired", lambda: rules(daemon.namespace)[engine] == before, lambda: rules(daemon.namespace))


def test_legacy_iptables_is_repaired_by_the_timer(ground: Ground) -> None:
    ground.put("config", config())
    shell(ground.namespace(), "iptables-legacy -t mangle -N KUBE-PROXY-CANARY")
    daemon = ground.daemon("--ip-masq", "--iptables-resync=1").ready()
    assert "kept by iptables-legacy (as kube-proxy on this node)" in status(daemon).stdout
    before = rules(daemon.namespace)["iptables-legacy"]
    shell(daemon.namespace, f"iptables-legacy {PATIENT} -t nat -F; iptables-legacy {PATIENT} -D FORWARD 1")
    eventually("repaired", lambda: rules(daemon.namespace)["iptables-legacy"] == before)


@pytest.mark.parametrize(
    ("chains", "engine"),
    [
        ("nft add table ip kube-proxy", "nft"),
        ("iptables-nft -t nat -N KUBE-SERVICES", "iptables-nft"),
        ("iptables-legacy -t nat -N KUBE-SERVICES", "iptables-legacy"),
        ("iptables-legacy -t mangle -N KUBE-KUBELET-CANARY", "iptables-legacy"),
        ("iptables-legacy -t mangle -N KUBE-IPTABLES-HINT; iptables-nft -t nat -N KUBE-SERVICES", "iptables-nft"),
    ],
)
def test_auto_goes_with_kube_proxy_and_before_it_has_come_with_the_kubelet(
    ground: Ground, chains: str, engine: str
) -> None:
    ground.put("config", config())
    shell(ground.namespace(), chains)
    daemon = ground.daemon("--ip-masq").ready()
    assert engines(daemon.namespace) == {engine}


def test_another_mode_at_the_next_start_leaves_nothing_of_the_one_before(ground: Ground) -> None:
    ground.put("config", config(dual=True))
    daemon = ground.daemon("--ip-masq")
    for flag, engine in (("nft", "nft"), ("iptables", "iptables-nft"), ("nft", "nft")):
        daemon.ready(f"--packet-filter={flag}")
        assert engines(daemon.namespace) == {engine}
        daemon.stop()
        assert engines(daemon.namespace) == {engine}, "rules stay when the daemon stops, as the data path does"


def test_rules_of_another_subnet_are_replaced(ground: Ground) -> None:
    ground.put("config", config(nft=True))
    daemon = ground.daemon("--ip-masq").ready()
    daemon.stop()
    ground.put("config", config(nft=True).replace("10.77.", "10.78."))
    daemon.ready()
    shown = rules(daemon.namespace)["nft"]
    assert "10.78.0.0/16" in shown and "10.77." not in shown


def test_cleanup_removes_the_rules_of_every_engine_and_names_them(ground: Ground) -> None:
    ground.put("config", config(dual=True))
    daemon = ground.daemon("--ip-masq", "--packet-filter=iptables").ready()
    daemon.stop(signal.SIGKILL)
    done = call(daemon.namespace, "cleanup", f"--subnet-file={daemon.folder}/subnet.env")
    assert done.returncode == 0, done.stderr
    assert "removed iptables-nft rules for IPv4" in done.stdout
    assert "removed iptables-nft rules for IPv6" in done.stdout
    assert engines(daemon.namespace) == set()


def test_a_missing_iptables_is_named_with_the_mend_before_a_lease_is_taken(ground: Ground, tmp_path: Path) -> None:
    ground.put("config", config())
    # A mount namespace in which the programs cannot be found: /usr/sbin and /sbin are empty.
    empty = tmp_path / "empty"
    empty.mkdir()
    daemon = ground.daemon("--packet-filter=iptables")
    hide = ["unshare", "--mount", "sh", "-ec", f'mount --bind {empty} /usr/sbin; export PATH=/usr/bin; exec "$@"', "-"]
    daemon._argv = [*hide, *daemon._argv]
    daemon.start()
    assert daemon.wait_exit() == 1
    assert "cannot use iptables-nft (--packet-filter=iptables): there is no iptables-restore; install" in daemon.log()
    assert ground.read("subnets/") == {}


def test_without_iptables_auto_takes_nft_and_needs_no_program(ground: Ground, tmp_path: Path) -> None:
    ground.put("config", config())
    empty = tmp_path / "empty"
    empty.mkdir()
    daemon = ground.daemon("--ip-masq")
    hide = ["unshare", "--mount", "sh", "-ec", f'mount --bind {empty} /usr/sbin; export PATH=/usr/bin; exec "$@"', "-"]
    daemon._argv = [*hide, *daemon._argv]
    daemon.ready()
    assert engines(daemon.namespace) == {"nft"}
    assert "kept by nft (there is no iptables here)" in status(daemon).stdout


def test_the_blackhole_takes_only_what_no_pod_has(ground: Ground) -> None:
    ground.put("config", config())
    space = ground.namespace()
    daemon = ground.daemon("--ip-blackhole-route").ready()
    subnet = daemon.env()["FLANNEL_SUBNET"]
    net = subnet.replace(".1/24", ".0/24")
    shown = shell(space, f"ip route show {net} type blackhole")
    assert "proto 241 metric 8192" in shown
    shell(space, f"ip link add cni7 type bridge; ip addr add {subnet} dev cni7; ip link set cni7 up")
    try:
        assert "dev cni7" in shell(space, f"ip route get {net.replace('.0/24', '.9')}")
        shell(space, f"ip route del blackhole {net} metric 8192")
        eventually("it comes back", lambda: shell(space, f"ip route show {net} type blackhole"))
    finally:
        shell(space, "ip link del cni7")
    daemon.stop()
    call(space, "cleanup", f"--subnet-file={daemon.folder}/subnet.env")
    assert shell(space, f"ip route show {net} type blackhole") == ""


def test_a_foreign_chain_that_drops_is_named_in_log_and_status_and_forgotten_when_it_goes(ground: Ground) -> None:
    ground.put("config", config(nft=True))
    space = ground.namespace()
    shell(
        space, "nft 'add table inet gate; add chain inet gate f { type filter hook forward priority 0; policy drop; }'"
    )
    daemon = ground.daemon().ready()
    eventually("it is named", lambda: daemon.lines("the chain f of the table inet gate drops"), daemon.log)
    assert "warning    the chain f of the table inet gate drops packets of pods" in status(daemon).stdout
    shell(space, "nft delete table inet gate")
    eventually("it is forgotten", lambda: not daemon.status()["warnings"], daemon.status)
    assert len(daemon.lines("the chain f of the table inet gate drops")) == 1


@pytest.mark.parametrize("tool", [f"{tool} {PATIENT}" for tool in IPTABLES])
def test_foreign_chains_are_fixed_where_that_is_wanted(ground: Ground, tool: str) -> None:
    ground.put("config", config(nft=True))
    space = ground.namespace()
    shell(space, f"{tool} -P FORWARD DROP; {tool} -N DOCKER-USER; {tool} -A FORWARD -j DOCKER-USER")
    daemon = ground.daemon("--fix-foreign-forward").ready()
    eventually("accepted", lambda: "-s 10.77.0.0/16" in shell(space, f"{tool} -S DOCKER-USER"), daemon.log)
    eventually("all is well", lambda: status(daemon).returncode == 0, lambda: status(daemon).stdout)
    shell(space, f"{tool} -F DOCKER-USER")
    eventually("accepted again", lambda: "-s 10.77.0.0/16" in shell(space, f"{tool} -S DOCKER-USER"), daemon.log)
    daemon.stop()
    call(space, "cleanup", f"--subnet-file={daemon.folder}/subnet.env")
    assert "10.77" not in shell(space, f"{tool} -S DOCKER-USER")


def test_bad_flags_end_it_at_once(ground: Ground) -> None:
    for flag, words in (
        ("--packet-filter=ipfw", "is not known; write auto, nft or iptables"),
        ("--iptables-resync=0", "is not from 1 to 86400"),
        ("--fix-foreign-forward=perhaps", "is not a boolean"),
    ):
        daemon = ground.daemon(flag).start()
        assert daemon.wait_exit() == 2
        assert words in daemon.log()


def test_two_daemons_keep_their_rules_apart(ground: Ground, tmp_path: Path) -> None:
    ground.put("config", config(nft=True))
    first = ground.daemon("--ip-masq").ready()
    second = Daemon(
        first.namespace,
        tmp_path / "second",
        f"--etcd-endpoints={ground.topology.etcd_url}",
        f"--etcd-prefix={ground.prefix}/other",
        "--ip-masq",
    )
    ground.put("other/config", config(nft=True, backend="host-gw").replace("10.77.", "10.79."))
    ground.daemons.append(second)
    second.ready()
    tables = [line for line in shell(first.namespace, "nft list tables").splitlines() if "ip flannel" in line]
    names = {f"table ip flannel-ipv4-{instance(one.folder / 'subnet.env')}" for one in (first, second)}
    assert set(tables) == names and len(names) == 2


def test_the_usual_place_has_flannels_own_names() -> None:
    assert instance(Path("/run/flannel/subnet.env")) == ""
    assert len(instance(Path(os.devnull))) == 6
