"""Programs of iptables that cannot tell what is there: killed, locked out, or without words for a rule of others."""

import os
import shutil
from pathlib import Path

import pytest

from flanneld_py.model.entry import Verb
from flanneld_py.model.ruleset import Admission, Engine
from flanneld_py.netfilter.applier import PacketFilter
from flanneld_py.reconcile.diff import diff
from tests.netns.space import Namespace
from tests.netns.test_packet_filter import NETWORKS, NOTHING, converge, tool, wanted

PATH = os.environ["PATH"]
_BROKEN = {
    "kill -SEGV $$": ("ended by Segmentation fault",),
    'echo "Another app is currently holding the xtables lock." >&2; exit 4': ("holding the xtables lock", "see fuser"),
    'echo "Fatal: can\'t open lock file /run/xtables.lock: Permission denied" >&2; exit 4': ("let the daemon write",),
}


def break_programs(folder: Path, engine: Engine, how: str, only: str = " -S ") -> None:
    """Programs in `folder` that fail for every command line with `only` in it."""
    for name in (engine.value, engine.value.replace("ip", "ip6", 1)):
        for program in (name, f"{name}-save"):
            fake = folder / program
            fake.write_text(
                f'#!/bin/sh\ncase "$0 $*" in *"{only}"*) {how};; esac\nexec {shutil.which(program, path=PATH)} "$@"\n'
            )
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
    break_programs(tmp_path, engine, how)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{tmp_path}:{PATH}")
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
    break_programs(tmp_path, Engine.IPTABLES_NFT, "kill -SEGV $$")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{tmp_path}:{PATH}")
        assert len(await packet_filter.apply(diff(desired.entries, await packet_filter.known(desired)))) == 2
    assert await packet_filter.known(desired) == dict(desired.entries)


def without_counters(saved: str) -> list[str]:
    return [line.split(" [")[0] for line in saved.splitlines() if not line.startswith("#")]


HIDE = 'echo "chain is incompatible" >&2; exit 1'


async def test_an_iptables_that_hides_our_chains_for_good_is_not_asked_for_ever(
    netns: Namespace, packet_filter: PacketFilter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As some versions do for one foreign rule in whatever chain of the table."""
    desired = wanted(Engine.IPTABLES_NFT)
    break_programs(tmp_path, Engine.IPTABLES_NFT, HIDE, "-S FLANNEL-")
    monkeypatch.setenv("PATH", f"{tmp_path}:{PATH}")
    await converge(packet_filter, desired)
    assert await converge(packet_filter, desired) == ()
    tool(netns, "nft", "flush", "chain", "ip", "nat", "FLANNEL-POSTRTG")
    assert [op.verb for op in await converge(packet_filter, desired)] == [Verb.CHANGE]
    assert "FLANNEL-POSTRTG -s 10.244.1.0/24" in tool(netns, "iptables-nft-save")


async def test_legacy_chains_of_others_that_are_not_shown_are_asked_for_our_jump(
    netns: Namespace, packet_filter: PacketFilter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desired = wanted(Engine.IPTABLES_LEGACY)
    for base in ("-S FORWARD", "-S POSTROUTING"):
        break_programs(tmp_path, Engine.IPTABLES_LEGACY, HIDE, base)
        with monkeypatch.context() as patch:
            patch.setenv("PATH", f"{tmp_path}:{PATH}")
            await converge(packet_filter, desired)
            assert await converge(packet_filter, desired) == ()
            tool(netns, "iptables-legacy", "-F", "FORWARD")
            tool(netns, "iptables-legacy", "-t", "nat", "-F", "POSTROUTING")
            assert [op.verb for op in await converge(packet_filter, desired)] == [Verb.CHANGE]
    saved = tool(netns, "iptables-legacy-save")
    assert saved.count("-j FLANNEL-FWD") == saved.count("-j FLANNEL-POSTRTG") == 1


async def test_a_legacy_table_that_cannot_be_saved_hides_no_admission(
    netns: Namespace, packet_filter: PacketFilter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor one that nobody wants any more."""
    tool(netns, "iptables-legacy", "-N", "DOCKER-USER")
    desired = wanted(Engine.NFT, Admission(Engine.IPTABLES_LEGACY, 4, "filter", "DOCKER-USER", NETWORKS[:1]))
    break_programs(tmp_path, Engine.IPTABLES_LEGACY, HIDE, "-save")
    monkeypatch.setenv("PATH", f"{tmp_path}:{PATH}")
    await converge(packet_filter, desired)
    assert await converge(packet_filter, desired) == ()
    break_programs(tmp_path, Engine.IPTABLES_LEGACY, HIDE, "-S ")
    ops = diff(NOTHING.entries, await packet_filter.known(NOTHING))
    assert {op.entry.key[4] for op in ops if isinstance(op.entry, Admission)} == {"DOCKER-USER", "FORWARD"}
    assert len(await packet_filter.apply([op for op in ops if isinstance(op.entry, Admission)])) == 2


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
