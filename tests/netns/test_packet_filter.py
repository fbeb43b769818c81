"""Rules in a real kernel: written, read back, shown by the tools that people use, mended and taken away."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

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


@pytest.fixture
def packet_filter(netns: Namespace) -> Iterator[PacketFilter]:
    made = PacketFilter(netns=netns.path)
    yield made
    made.close()


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


_BROKEN = {
    "kill -SEGV $$": ("ended by Segmentation fault",),
    'echo "Another app is currently holding the xtables lock." >&2; exit 4': ("holding the xtables lock", "see fuser"),
    'echo "Fatal: can\'t open lock file /run/xtables.lock: Permission denied" >&2; exit 4': ("let the daemon write",),
    'echo "Can\'t find library for match time" >&2; exit 1': ("Can't find library for match",),
}


def break_listing(folder: Path, engine: Engine, how: str) -> None:
    """Programs in `folder` that fail for every list of a chain."""
    for name in (engine.value, engine.value.replace("ip", "ip6", 1)):
        fake = folder / name
        fake.write_text(f'#!/bin/sh\ncase "$*" in *" -S "*) {how};; esac\nexec {shutil.which(name)} "$@"\n')
        fake.chmod(0o755)


@pytest.mark.parametrize("how", _BROKEN)
async def test_a_program_that_cannot_tell_is_not_taken_to_say_that_there_is_nothing(
    netns: Namespace, packet_filter: PacketFilter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """What cannot be read counts as something else than is wanted, and writing it fails with the reason."""
    engine = Engine.IPTABLES_LEGACY
    desired = wanted(engine)
    await converge(packet_filter, wanted(engine, masquerade=False))
    before = tool(netns, "iptables-legacy-save")
    break_listing(tmp_path, engine, how)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        ops = diff(desired.entries, await packet_filter.known(desired))
        failures = await packet_filter.apply(ops)
    assert [op.verb for op in ops] == [Verb.CHANGE, Verb.CHANGE]
    for failure in failures:
        assert not failure.cannot
        assert [text for text in _BROKEN[how] if text not in str(failure)] == [], str(failure)
    assert len(failures) == 2
    assert without_counters(tool(netns, "iptables-legacy-save")) == without_counters(before)
    await converge(packet_filter, desired)
    assert await converge(packet_filter, desired) == ()


async def test_what_one_program_could_not_tell_is_asked_again(
    packet_filter: PacketFilter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desired = wanted(Engine.IPTABLES_NFT)
    await converge(packet_filter, desired)
    packet_filter._read.clear()
    break_listing(tmp_path, Engine.IPTABLES_NFT, "kill -SEGV $$")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        assert len(await packet_filter.apply(diff(desired.entries, await packet_filter.known(desired)))) == 2
    assert await packet_filter.known(desired) == dict(desired.entries)


def without_counters(saved: str) -> list[str]:
    return [line.split(" [")[0] for line in saved.splitlines() if not line.startswith("#")]


HIDING = "nft add rule ip nat POSTROUTING oifname eth9 masquerade"
"""A rule that iptables-nft has no words for: it shows nothing of that chain any more, and ends as for a missing one."""


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "iptables-nft -t nat -F POSTROUTING",
        "iptables-nft -t nat -A POSTROUTING -m comment --comment {comment} -j FLANNEL-POSTRTG",
        "nft add rule ip nat FLANNEL-POSTRTG oifname eth9 masquerade",
        "nft flush chain ip nat FLANNEL-POSTRTG",
    ],
)
async def test_a_rule_that_iptables_cannot_show_hides_nothing_from_us(
    netns: Namespace, packet_filter: PacketFilter, damage: str
) -> None:
    desired = wanted(Engine.IPTABLES_NFT)
    await converge(packet_filter, desired)
    tool(netns, *HIDING.split())
    assert await converge(packet_filter, desired) == ()
    if damage:
        tool(netns, *(word.replace("{comment}", "flanneld masq") for word in damage.split()))
        tool(netns, *HIDING.split())
        assert [op.verb for op in await converge(packet_filter, desired)] == [Verb.CHANGE]
    shown = tool(netns, "nft", "list", "chain", "ip", "nat", "POSTROUTING")
    assert shown.count("FLANNEL-POSTRTG") == 1
    assert 'oifname "eth9" masquerade' in shown


async def test_a_jump_that_is_not_ours_in_a_chain_that_is_not_shown_is_a_failure(
    netns: Namespace, packet_filter: PacketFilter
) -> None:
    desired = wanted(Engine.IPTABLES_NFT)
    await converge(packet_filter, desired)
    tool(netns, *HIDING.split())
    tool(netns, *HIDING.replace("masquerade", "jump FLANNEL-POSTRTG").split())
    (failure,) = await packet_filter.apply(diff(desired.entries, await packet_filter.known(desired)))
    assert "by its handle: nft -a list chain ip nat POSTROUTING" in str(failure)
    assert tool(netns, "nft", "list", "chain", "ip", "nat", "POSTROUTING").count("FLANNEL-POSTRTG") == 2


async def test_without_an_instance_nothing_is_read(packet_filter: PacketFilter) -> None:
    await converge(packet_filter, wanted(Engine.NFT))
    assert await packet_filter.known(Desired()) == {}


def test_tables_differ_by_engine_family_and_instance() -> None:
    keys = {Table(engine, version, name, ()).key for engine in Engine for version in (4, 6) for name in ("", "x")}
    assert len(keys) == 12
