"""Rules in a real kernel: written, read back, shown by the tools that people use, mended and taken away."""

import subprocess
from dataclasses import replace
from ipaddress import ip_network

import pytest

from flanneld_py.firewall.plan import RuleWish, rule_plan
from flanneld_py.model.entry import Desired, Entry, Op, Scope, Verb
from flanneld_py.model.ruleset import Admission, Engine, Table
from flanneld_py.netfilter.applier import PacketFilter
from flanneld_py.reconcile.diff import diff
from tests.netns.space import Namespace

NETWORKS = (ip_network("10.244.0.0/16"), ip_network("fd00:10:244::/56"))
OWN = (ip_network("10.244.1.0/24"), ip_network("fd00:10:244:1::/64"))
SCOPE = Scope(NETWORKS, instance="")
IPTABLES = [Engine.IPTABLES_NFT, Engine.IPTABLES_LEGACY]


def tool(space: Namespace, *words: str, text: str | None = None) -> str:
    done = subprocess.run(
        ["ip", "netns", "exec", space.name, *words], capture_output=True, text=True, input=text, timeout=30, check=False
    )
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout


def wanted(engine: Engine, *more: Entry, instance: str = "", masquerade: bool = True, forward: bool = True) -> Desired:
    wish = RuleWish(engine, instance=instance, masquerade=masquerade, forward=forward)
    entries = (*rule_plan(wish, NETWORKS, OWN), *more)
    return Desired({entry.key: entry for entry in entries}, replace(SCOPE, instance=instance))


NOTHING = Desired(scope=SCOPE)


async def converge(packet_filter: PacketFilter, desired: Desired) -> tuple[Op, ...]:
    """The ops it took. What is read back is then what is desired."""
    ops = diff(desired.entries, await packet_filter.known(desired))
    assert await packet_filter.apply(ops) == []
    assert await packet_filter.known(desired) == dict(desired.entries)
    return ops


@pytest.mark.parametrize("engine", Engine)
async def test_rules_are_read_back_as_they_were_written(packet_filter: PacketFilter, engine: Engine) -> None:
    await converge(packet_filter, wanted(engine))
    assert await converge(packet_filter, wanted(engine)) == ()


async def test_nft_shows_the_rules_as_they_are_meant(netns: Namespace, packet_filter: PacketFilter) -> None:
    await converge(packet_filter, wanted(Engine.NFT))
    assert tool(netns, "nft", "list", "table", "ip", "flannel-ipv4").splitlines() == [
        "table ip flannel-ipv4 {",
        '\tcomment "rules for flannel-ipv4"',
        "\tchain postrtg {",
        '\t\tcomment "flanneld masq"',
        "\t\ttype nat hook postrouting priority srcnat; policy accept;",
        "\t\tmeta mark & 0x00004000 == 0x00004000 return",
        "\t\tip saddr 10.244.1.0/24 ip daddr 10.244.0.0/16 return",
        "\t\tip saddr 10.244.0.0/16 ip daddr 10.244.1.0/24 return",
        "\t\tip saddr != 10.244.0.0/16 ip daddr 10.244.1.0/24 return",
        "\t\tip saddr 10.244.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random",
        "\t\tip saddr != 10.244.0.0/16 ip daddr 10.244.0.0/16 masquerade fully-random",
        "\t}",
        "",
        "\tchain forward {",
        '\t\tcomment "flanneld forward"',
        "\t\ttype filter hook forward priority filter; policy accept;",
        "\t\tip saddr 10.244.0.0/16 accept",
        "\t\tip daddr 10.244.0.0/16 accept",
        "\t}",
        "}",
    ]
    assert "ip6 saddr fd00:10:244:1::/64 ip6 daddr fd00:10:244::/56 return" in tool(netns, "nft", "list", "ruleset")


@pytest.mark.parametrize("engine", IPTABLES)
async def test_iptables_shows_the_rules_as_flannel_writes_them(
    netns: Namespace, packet_filter: PacketFilter, engine: Engine
) -> None:
    await converge(packet_filter, wanted(engine))
    comment = '-m comment --comment "flanneld masq"'
    assert tool(netns, engine.value, "-t", "nat", "-S").splitlines()[-7:] == [
        f"-A POSTROUTING {comment} -j FLANNEL-POSTRTG",
        f"-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 {comment} -j RETURN",
        f"-A FLANNEL-POSTRTG -s 10.244.1.0/24 -d 10.244.0.0/16 {comment} -j RETURN",
        f"-A FLANNEL-POSTRTG -s 10.244.0.0/16 -d 10.244.1.0/24 {comment} -j RETURN",
        f"-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.1.0/24 {comment} -j RETURN",
        f"-A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 {comment} -j MASQUERADE --random-fully",
        f"-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.0.0/16 {comment} -j MASQUERADE --random-fully",
    ]
    assert '-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD' in tool(netns, engine.value, "-S")


HAND = {
    Engine.NFT: (
        "nft flush ruleset",
        "nft delete table ip6 flannel-ipv6",
        "nft flush chain ip flannel-ipv4 postrtg",
        "nft add rule ip flannel-ipv4 forward drop",
        "nft add chain ip flannel-ipv4 mine",
        "nft insert rule ip flannel-ipv4 postrtg ip saddr 10.244.0.0/16 tcp dport 80 accept",
        "nft 'add chain ip flannel-ipv4 forward { policy drop; }'",
        "nft delete chain ip flannel-ipv4 forward; "
        "nft 'add chain ip flannel-ipv4 forward { type filter hook input priority 0; }'",
    ),
    **{
        engine: (
            f"{engine.value} -t nat -F",
            f"{engine.value} -t nat -F FLANNEL-POSTRTG",
            f'{engine.value} -D FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD',
            f'{engine.value} -A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD',
            f"{engine.value} -I FLANNEL-FWD -j DROP",
            f"{engine.value} -R FLANNEL-FWD 1 -p tcp -s 10.244.0.0/16 -j ACCEPT",
            f"{engine.value} -t nat -F; {engine.value} -t nat -X; {engine.value} -F; {engine.value} -X",
        )
        for engine in IPTABLES
    },
}


@pytest.mark.parametrize(("engine", "damage"), [(engine, one) for engine, many in HAND.items() for one in many])
async def test_damage_is_seen_and_mended(
    netns: Namespace, packet_filter: PacketFilter, engine: Engine, damage: str
) -> None:
    await converge(packet_filter, wanted(engine))
    tool(netns, "sh", "-ec", damage)
    assert await converge(packet_filter, wanted(engine)) != ()
    assert await converge(packet_filter, wanted(engine)) == ()


@pytest.mark.parametrize("old", Engine)
@pytest.mark.parametrize("new", Engine)
async def test_a_change_of_engine_leaves_nothing_of_the_other(
    netns: Namespace, packet_filter: PacketFilter, old: Engine, new: Engine
) -> None:
    await converge(packet_filter, wanted(old))
    await converge(packet_filter, wanted(new))
    seen = {
        Engine.NFT: "flannel-ipv" in tool(netns, "nft", "list", "tables"),
        **{
            e: "FLANNEL" in "".join(tool(netns, f"{p}tables{e.value[8:]}-save") for p in ("ip", "ip6"))
            for e in IPTABLES
        },
    }
    assert seen == {engine: engine is new for engine in Engine}


@pytest.mark.parametrize("engine", Engine)
async def test_fewer_rules_and_then_none(packet_filter: PacketFilter, engine: Engine) -> None:
    await converge(packet_filter, wanted(engine))
    await converge(packet_filter, wanted(engine, masquerade=False))
    await converge(packet_filter, wanted(engine, forward=False))
    await converge(packet_filter, NOTHING)
    assert await packet_filter.known(wanted(engine)) == {}


@pytest.mark.parametrize("engine", Engine)
async def test_two_daemons_of_one_host_do_not_touch_each_others_rules(
    packet_filter: PacketFilter, engine: Engine
) -> None:
    mine, other = wanted(engine), wanted(engine, instance="1a2b3c")
    await converge(packet_filter, mine)
    await converge(packet_filter, other)
    assert await converge(packet_filter, mine) == ()
    await converge(packet_filter, NOTHING)
    assert await converge(packet_filter, other) == ()


@pytest.mark.parametrize("engine", IPTABLES)
async def test_rules_of_others_stay_as_they_are(netns: Namespace, packet_filter: PacketFilter, engine: Engine) -> None:
    name = engine.value
    for words in ("-N THEIRS", "-A THEIRS -s 192.0.2.0/24 -j DROP", "-A FORWARD -j THEIRS", "-P FORWARD DROP"):
        tool(netns, name, *words.split())
    tool(netns, name, "-t", "nat", "-A", "POSTROUTING", "-o", "docker0", "-j", "MASQUERADE")

    def theirs() -> list[str]:
        lines = tool(netns, name, "-S").splitlines() + tool(netns, name, "-t", "nat", "-S").splitlines()
        return [line for line in lines if "FLANNEL" not in line]

    before = theirs()
    await converge(packet_filter, wanted(engine))
    assert theirs() == before
    await converge(packet_filter, NOTHING)
    assert theirs() == before


@pytest.mark.parametrize("engine", IPTABLES)
async def test_an_admission_comes_first_in_the_chain_of_another(
    netns: Namespace, packet_filter: PacketFilter, engine: Engine
) -> None:
    for words in ("-N DOCKER-USER", "-A DOCKER-USER -j RETURN"):
        tool(netns, engine.value, *words.split())
    admission = Admission(engine, 4, "filter", "DOCKER-USER", NETWORKS[:1])
    await converge(packet_filter, wanted(Engine.NFT, admission))
    comment = '-m comment --comment "flanneld admission"'
    shown = [
        f"-A DOCKER-USER -s 10.244.0.0/16 {comment} -j ACCEPT",
        f"-A DOCKER-USER -d 10.244.0.0/16 {comment} -j ACCEPT",
        "-A DOCKER-USER -j RETURN",
    ]
    assert tool(netns, engine.value, "-S", "DOCKER-USER").splitlines()[1:] == shown
    tool(netns, engine.value, "-D", "DOCKER-USER", "1")
    await converge(packet_filter, wanted(Engine.NFT, admission))
    assert tool(netns, engine.value, "-S", "DOCKER-USER").splitlines()[1:] == shown
    await converge(packet_filter, NOTHING)
    assert tool(netns, engine.value, "-S", "DOCKER-USER").splitlines()[1:] == shown[2:]


async def test_a_foreign_chain_that_is_not_there_is_a_failure(packet_filter: PacketFilter) -> None:
    (failure,) = await packet_filter.apply(
        [Op(Verb.ADD, Admission(Engine.IPTABLES_NFT, 4, "filter", "DOCKER-USER", NETWORKS[:1]))]
    )
    assert "No such file or directory" in str(failure)


@pytest.mark.parametrize("engine", Engine)
async def test_every_op_may_run_twice(packet_filter: PacketFilter, engine: Engine) -> None:
    desired = wanted(engine)
    for verb in (Verb.ADD, Verb.CHANGE, Verb.DELETE, Verb.DELETE):
        assert await packet_filter.apply([Op(verb, entry) for entry in desired.entries.values()]) == []
    assert await packet_filter.known(desired) == {}


async def test_without_its_programs_the_other_mode_is_still_taken_away(
    packet_filter: PacketFilter, monkeypatch: pytest.MonkeyPatch
) -> None:
    await converge(packet_filter, wanted(Engine.IPTABLES_NFT))
    monkeypatch.setattr("flanneld_py.netfilter.programs._find", lambda name: None)
    await converge(packet_filter, wanted(Engine.NFT))


async def test_a_missing_program_is_named_with_the_mend(
    packet_filter: PacketFilter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flanneld_py.netfilter.programs._find", lambda name: None)
    failures = await packet_filter.apply(diff(wanted(Engine.IPTABLES_LEGACY).entries, {}))
    assert [(failure.reason, failure.cannot) for failure in failures] == [
        ("there is no iptables-legacy", True),
        ("there is no ip6tables-legacy", True),
    ]
    assert "install iptables, or use --packet-filter=nft" in str(failures[0])


async def test_without_an_instance_nothing_is_read(packet_filter: PacketFilter) -> None:
    await converge(packet_filter, wanted(Engine.NFT))
    assert await packet_filter.known(Desired()) == {}


def test_tables_differ_by_engine_family_and_instance() -> None:
    keys = {Table(engine, version, name, ()).key for engine in Engine for version in (4, 6) for name in ("", "x")}
    assert len(keys) == 12
