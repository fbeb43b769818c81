"""Chains of others that drop what passes between pods are found, and only those; as real tools write them."""

import subprocess
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from flanneld_py.firewall.plan import RuleWish, rule_plan
from flanneld_py.model.entry import Desired, Scope
from flanneld_py.model.ruleset import Admission, Engine
from flanneld_py.netfilter.applier import PacketFilter
from flanneld_py.netfilter.foreign import Finding
from flanneld_py.netfilter.walk import Packet
from flanneld_py.reconcile.diff import diff
from tests.netns.space import Namespace

NETWORK = ip_network("10.244.0.0/16")
IN = Packet(ip_address("10.244.2.5"), ip_address("10.244.1.5"), "flannel.1", "cni0")
OUT = Packet(ip_address("10.244.1.5"), ip_address("10.244.2.5"), "cni0", "flannel.1")
IN6 = Packet(ip_address("fd00:10:244:2::5"), ip_address("fd00:10:244:1::5"), "flannel.1", "cni0")
NETWORK6 = ip_network("fd00:10:244::/56")

HOOK = "type filter hook forward"
PASSING = {
    "nothing": "true",
    "policy accept": "nft 'add table ip a; add chain ip a f { $HOOK priority 0; }'",
    "another hook": "nft 'add table ip a; add chain ip a f { type filter hook input priority 0; policy drop; }'",
    "a chain that nothing calls": "nft 'add table ip a; add chain ip a f; add rule ip a f drop'",
    "another interface": (
        "nft 'add table inet a; add chain inet a f { $HOOK priority 0; }; "
        'add rule inet a f iifname "eth7" drop; add rule inet a f oifname "veth*" reject\''
    ),
    "another network": (
        "nft 'add table inet a; add chain inet a f { $HOOK priority 0; }; "
        "add rule inet a f ip saddr 172.16.0.0/12 drop; add rule inet a f ip daddr != 10.0.0.0/8 reject'"
    ),
    "the other family": "nft 'add table ip6 a; add chain ip6 a f { $HOOK priority 0; policy drop; }'",
    "accepted before the end": (
        "nft 'add table inet a; add chain inet a f { $HOOK priority 0; policy drop; }; "
        "add rule inet a f ip saddr 10.244.0.0/16 ip daddr 10.244.0.0/16 accept'"
    ),
    "accepted in a chain that is jumped to": (
        "nft 'add table ip a; add chain ip a g; add rule ip a g return; add chain ip a h; add rule ip a h accept; "
        "add chain ip a f { $HOOK priority 0; policy drop; }; "
        "add rule ip a f jump g; add rule ip a f goto h'"
    ),
    "only what has gone wrong": (
        "nft 'add table inet a; add chain inet a f { $HOOK priority 0; }; "
        "add rule inet a f ct state invalid drop; add rule inet a f ct state established,related accept'"
    ),
    "only some ports": (
        "nft 'add table inet a; add chain inet a f { $HOOK priority 0; }; "
        "add rule inet a f tcp dport 22 drop; add rule inet a f tcp dport { 80, 443 } reject'"
    ),
    "iptables with another network": (
        "{iptables} -A FORWARD -s 192.0.2.0/24 -j DROP; {iptables} -A FORWARD -i eth7 -j REJECT"
    ),
    "iptables with an acceptance": (
        "{iptables} -P FORWARD DROP; {iptables} -N MINE; {iptables} -A FORWARD -j MINE; "
        "{iptables} -A MINE -m comment --comment 'all of it' -s 10.244.0.0/16 -j ACCEPT"
    ),
    "iptables with an acceptance of what is new": (
        "{iptables} -P FORWARD DROP; {iptables} -A FORWARD -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT"
    ),
    "iptables with a reject of what is not new": (
        "{iptables} -A FORWARD -m conntrack ! --ctstate NEW -j REJECT; {iptables} -A FORWARD -m state --state INVALID "
        "-j DROP"
    ),
    "docker's way for its own bridge": (
        "{iptables} -N DOCKER; {iptables} -A FORWARD -o docker0 -j DOCKER; {iptables} -A DOCKER -j DROP; "
        "{iptables} -A FORWARD -i docker0 ! -o docker0 -j DROP"
    ),
}
DROPPING = {
    "policy drop": (
        "nft 'add table inet fw; add chain inet fw gate { $HOOK priority 10; policy drop; }'",
        "the chain gate of the table inet fw drops packets of pods: its policy is drop, and no rule accepts them; "
        "nft 'insert rule inet fw gate ip saddr 10.244.0.0/16 accept', and the same with daddr",
    ),
    "policy drop with an acceptance of what goes on": (
        "nft 'add table ip fw; add chain ip fw gate { $HOOK priority 0; policy drop; }; "
        "add rule ip fw gate ct state established,related accept'",
        "the chain gate of the table ip fw drops packets",
    ),
    "a reject": (
        "nft 'add table ip fw; add chain ip fw gate { $HOOK priority 0; }; add rule ip fw gate reject'",
        "the chain gate of the table ip fw drops packets of pods: a rule of it does; nft 'insert rule ip fw gate",
    ),
    "a reject further on": (
        "nft 'add table ip fw; add chain ip fw deny; add rule ip fw deny counter reject; "
        "add chain ip fw gate { $HOOK priority 0; }; "
        'add rule ip fw gate iifname "flannel.1" ip saddr 10.0.0.0/8 jump deny\'',
        "a rule of its chain deny does",
    ),
    "perhaps": (
        "nft 'add table ip fw; add set ip fw good { type ipv4_addr; }; "
        "add chain ip fw gate { $HOOK priority 0; policy drop; }; "
        "add rule ip fw gate ip saddr @good accept'",
        "the chain gate of the table ip fw may drop packets of pods",
    ),
    "firewalld": (
        "nft 'add table inet firewalld; add chain inet firewalld filter_FWD_public; "
        "add chain inet firewalld filter_FORWARD { $HOOK priority 10; }; "
        "add rule inet firewalld filter_FORWARD ct state { established, related } accept; "
        'add rule inet firewalld filter_FORWARD iifname "eth7" goto filter_FWD_public; '
        "add rule inet firewalld filter_FORWARD ct state invalid drop; "
        "add rule inet firewalld filter_FORWARD reject with icmpx admin-prohibited'",
        "firewall-cmd --permanent --zone=trusted --add-source=10.244.0.0/16",
    ),
    "iptables' policy": ("{iptables} -P FORWARD DROP", "or {iptables} -I FORWARD -s 10.244.0.0/16 -j ACCEPT, and"),
    "iptables' reject": (
        "{iptables} -A FORWARD -j REJECT",
        "a rule of it does; start flanneld with --fix-foreign-forward",
    ),
    "docker": (
        "{iptables} -P FORWARD DROP; {iptables} -N DOCKER-USER; {iptables} -A FORWARD -j DOCKER-USER; "
        "{iptables} -A DOCKER-USER -j RETURN; {iptables} -A FORWARD -o docker0 -m conntrack --ctstate "
        "RELATED,ESTABLISHED -j ACCEPT; {iptables} -A FORWARD -m state --state ESTABLISHED -j ACCEPT; "
        "{iptables} -A FORWARD -i docker0 ! -o docker0 -j ACCEPT",
        "drops packets of pods: its policy is drop, and no rule accepts them; start flanneld with "
        "--fix-foreign-forward, or {iptables} -I DOCKER-USER -s 10.244.0.0/16 -j ACCEPT, and the same with -d",
    ),
}


def shell(space: Namespace, text: str) -> None:
    command = ["ip", "netns", "exec", space.name, "sh", "-ec", text.replace("$HOOK", HOOK)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{text}: {done.stderr}"


async def found(packet_filter: PacketFilter) -> tuple[Finding, ...]:
    return await packet_filter.foreign([IN, OUT], [NETWORK], "")


def variants(cases: dict[str, str]) -> list[tuple[str, str]]:
    """Each case, with iptables for both kinds of it."""
    return [
        (f"{name} ({tool})", text.replace("{iptables}", tool))
        for name, text in cases.items()
        for tool in (("iptables-nft", "iptables-legacy") if "{iptables}" in text else ("nft",))
    ]


@pytest.mark.parametrize("text", [text for _, text in variants(PASSING)], ids=[name for name, _ in variants(PASSING)])
async def test_what_does_not_drop_is_not_found(netns: Namespace, packet_filter: PacketFilter, text: str) -> None:
    shell(netns, text)
    assert await found(packet_filter) == ()


@pytest.mark.parametrize("tool", ["iptables-nft", "iptables-legacy"])
@pytest.mark.parametrize("case", DROPPING)
async def test_what_drops_is_named_with_the_mend(
    netns: Namespace, packet_filter: PacketFilter, case: str, tool: str
) -> None:
    text, words = (part.replace("{iptables}", tool) for part in DROPPING[case])
    shell(netns, text)
    (finding,) = await found(packet_filter)
    assert words in str(finding)


@pytest.mark.parametrize(
    "case", [case for case in DROPPING if case not in {"docker", "iptables' policy", "iptables' reject"}]
)
async def test_the_mend_for_nft_is_one(netns: Namespace, packet_filter: PacketFilter, case: str) -> None:
    """What the message says to type, typed."""
    shell(netns, DROPPING[case][0])
    (finding,) = await found(packet_filter)
    if finding.mend.startswith("firewall-cmd"):
        return
    command, _, _ = finding.mend.partition(", and")
    shell(netns, f"{command}; {command.replace('saddr', 'daddr')}")
    assert await found(packet_filter) == ()


@pytest.mark.parametrize("engine", [Engine.IPTABLES_NFT, Engine.IPTABLES_LEGACY])
async def test_the_admission_mends_and_stays_wanted(
    netns: Namespace, packet_filter: PacketFilter, engine: Engine
) -> None:
    shell(netns, DROPPING["docker"][0].replace("{iptables}", engine.value))
    (finding,) = await found(packet_filter)
    assert finding.admission == Admission(engine, 4, "filter", "DOCKER-USER", (NETWORK,))
    desired = Desired({finding.admission.key: finding.admission}, Scope((NETWORK,), instance=""))
    assert await packet_filter.apply(diff(desired.entries, await packet_filter.known(desired))) == []
    assert await packet_filter.known(desired) == dict(desired.entries)
    assert await found(packet_filter) == (finding,)


@pytest.mark.parametrize("engine", [Engine.IPTABLES_NFT, Engine.IPTABLES_LEGACY])
async def test_our_own_rules_in_the_chain_count(netns: Namespace, packet_filter: PacketFilter, engine: Engine) -> None:
    shell(netns, f"{engine.value} -P FORWARD DROP")
    assert len(await found(packet_filter)) == 1
    plan = rule_plan(RuleWish(engine), (NETWORK,), (ip_network("10.244.1.0/24"),))
    desired = Desired({entry.key: entry for entry in plan}, Scope((NETWORK,), instance=""))
    assert await packet_filter.apply(diff(desired.entries, {})) == []
    assert await found(packet_filter) == ()
    shell(netns, f"{engine.value} -I FORWARD -j REJECT")
    assert len(await found(packet_filter)) == 1


async def test_ipv6(netns: Namespace, packet_filter: PacketFilter) -> None:
    shell(
        netns,
        "ip6tables-nft -P FORWARD DROP; nft 'add table inet f; "
        "add chain inet f x { $HOOK priority 0; }; add rule inet f x ip6 saddr fd00::/8 drop'",
    )
    findings = await packet_filter.foreign([IN6], [NETWORK6], "")
    assert {finding.where for finding in findings} == {
        "the chain FORWARD of the table ip6 filter",
        "the chain x of the table inet f",
    }
    assert any("ip6tables-nft -I FORWARD -s fd00:10:244::/56 -j ACCEPT" in finding.mend for finding in findings)
    assert await packet_filter.foreign([replace(IN6, iif="x")], [NETWORK], "") == ()
