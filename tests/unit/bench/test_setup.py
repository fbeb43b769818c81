"""The small parts that a run is set up from."""

import io
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from bench import bar, crowd, machine, paths, peers, tunnels
from bench.bar import Bar
from bench.datapaths import KINDS
from bench.measure import MEASUREMENTS, METRICS
from bench.paths import FULL, QUICK
from bench.x25519 import BASE, clamp, multiply
from flanneld_py.errors import UsageError
from flanneld_py.lab.terminal import Screen


def test_x25519_is_that_of_rfc_7748() -> None:
    scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    assert multiply(scalar, point).hex() == "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"


def test_x25519_repeated_is_that_of_rfc_7748() -> None:
    scalar = point = BASE
    for _ in range(1000):
        scalar, point = multiply(scalar, point), scalar
    assert scalar.hex() == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


def test_x25519_both_sides_agree() -> None:
    one, other = clamp(bytes(range(32))), clamp(bytes(range(32, 64)))
    assert multiply(one, multiply(other)) == multiply(other, multiply(one))


def test_clocks_are_those_of_proc_stat() -> None:
    before = machine.parse_clocks("cpu  100 0 50 1000 0 5 5 10 0 0")
    after = machine.parse_clocks("cpu  150 10 60 1100 20 10 15 30 0 0")
    spent = after.since(before)
    # 85 ticks of work, 20 stolen, 120 idle.
    assert spent.busy_share == pytest.approx(105 / 225)
    assert machine.Clocks(1, 1, 5).since(machine.Clocks(1, 1, 6)).stolen_s == 0


def test_facts_and_clocks_can_be_read_here() -> None:
    facts = machine.machine_facts()
    assert facts["cores"] >= 1
    assert facts["memory_mib"] > 0
    assert machine.read_clocks().idle_s > 0


def test_uapi_request_is_one_set() -> None:
    text = tunnels.uapi_request(b"\1" * 32, 51820, b"\2" * 32, "172.18.1.12:51820", "10.0.0.0/8")
    assert text.startswith("set=1\nprivate_key=0101")
    assert text.endswith("allowed_ip=10.0.0.0/8\n\n")
    assert text.index("public_key=0202") < text.index("endpoint=") < text.index("allowed_ip=")


def test_absent_nodes_have_networks_of_their_own() -> None:
    network = IPv4Network("10.0.0.0/8")
    leases = crowd.absent_nodes(network, 1000)
    subnets = {lease.subnets[0] for lease in leases}
    assert len(subnets) == len({lease.attrs.public_ip for lease in leases}) == 1000
    assert all(isinstance(one, IPv4Network) and one.subnet_of(network) for one in subnets)
    assert {lease.attrs.backend_type for lease in leases} == {""}


@pytest.mark.parametrize(("plan", "limit_s"), [(QUICK, 360), (FULL, 1800)])
def test_plan_fits_its_time(plan: paths.Plan, limit_s: float) -> None:
    count = len(KINDS)
    turns = count * plan.rounds
    each = plan.seconds_each(count)
    assert each >= 0.4
    expected = count * paths._LAB_COST_S + turns * (paths._TURN_COST_S + each * len(MEASUREMENTS))
    assert expected * (1 + paths._WAITING_SHARE) < limit_s
    assert plan.seconds_each(2) >= each


def test_plan_does_as_told() -> None:
    assert paths.Plan(1, 10, 1, seconds=0.2).seconds_each(9) == 0.2


def test_chosen_paths_have_the_bare_veth() -> None:
    assert [kind.name for kind in paths._chosen("udp,vxlan")] == ["direct", "vxlan", "udp"]
    assert paths._chosen(None) == KINDS
    with pytest.raises(UsageError, match="no path 'tcp'"):
        paths._chosen("vxlan,tcp")


def test_gates_are_metrics() -> None:
    assert {metric.gate for metric in METRICS.values() if metric.gate} <= METRICS.keys()


def test_names_of_labs_are_short_enough() -> None:
    assert all(len(f"bench-{kind.name}") <= 20 for kind in KINDS)


def test_drawing_of_the_bar() -> None:
    assert bar.drawing(0, 0) == "[------------------------]   0 %"
    assert bar.drawing(1, 2) == "[############------------]  50 %"
    assert bar.drawing(3, 2) == "[########################] 100 %"


def test_bar_without_a_terminal_says_each_place_once() -> None:
    out = io.StringIO()
    progress = Bar(Screen(io.StringIO(), out), live=False)
    progress.restart(4)
    progress.step("making namespaces")
    for place in ("round 1, udp", "round 1, udp", "round 1, vxlan"):
        progress.advance(place, "tcp1")
    assert out.getvalue() == "round 1, udp\nround 1, vxlan\n"
    assert progress.done == 3


def test_bar_hears_that_the_run_shall_end() -> None:
    screen = Screen(io.StringIO(), io.StringIO())
    progress = Bar(screen, live=False)
    screen.stop()
    with pytest.raises(KeyboardInterrupt):
        progress.advance("round 1, udp", "tcp1")


def test_peers_are_found_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(peers, "SBIN", ())
    monkeypatch.delenv("GO_FLANNEL", raising=False)
    assert (peers.find_flannel(), peers.find_wireguard(), peers.find_fastd()) == (None, None, None)
    for name in (f"go-flannel/{peers.FLANNEL_VERSION}/flannel", "wireguard-go/wireguard-go", "fastd/usr/bin/fastd"):
        program = tmp_path / "flanneld_py" / name
        program.parent.mkdir(parents=True)
        program.touch(mode=0o755)
    library = tmp_path / "flanneld_py/fastd/usr/lib/somewhere/libuecc.so.0"
    library.parent.mkdir(parents=True)
    library.touch()
    flannel, wireguard, fastd = peers.find_flannel(), peers.find_wireguard(), peers.find_fastd()
    assert flannel is not None and wireguard is not None and fastd is not None
    assert fastd.environ == {"LD_LIBRARY_PATH": str(library.parent)}


def test_peers_that_are_missing_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(peers, "SBIN", ())
    monkeypatch.delenv("GO_FLANNEL", raising=False)
    assert peers.run(["list"]) == 0
    assert "fastd: missing" in capsys.readouterr().out
