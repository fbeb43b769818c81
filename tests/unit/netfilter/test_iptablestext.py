from dataclasses import replace
from ipaddress import ip_network

import pytest

from flanneld_py.firewall.plan import RuleWish, rule_plan
from flanneld_py.model.ruleset import Chain, Engine, Hook, Masquerade, Rule, Source, Table, Unknown, Verdict
from flanneld_py.netfilter.iptablestext import format_rule, format_table, parse_rule, parse_saved, read_table

WISH = RuleWish(Engine.IPTABLES_NFT, masquerade=True)
(TABLE,) = (
    one
    for one in rule_plan(WISH, (ip_network("10.244.0.0/16"),), (ip_network("10.244.1.0/24"),))
    if isinstance(one, Table)
)
FRESH = """*nat
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.1.0/24 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.0.0/16 -d 10.244.1.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.1.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
COMMIT
*filter
:FLANNEL-FWD - [0:0]
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A FLANNEL-FWD -s 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
COMMIT
"""


def test_a_table_as_text_and_back() -> None:
    assert format_table(TABLE, {}) == FRESH
    assert read_table(parse_saved(FRESH), TABLE) == TABLE


def test_a_jump_that_is_there_stays_in_its_place() -> None:
    assert "-A POSTROUTING" not in format_table(TABLE, parse_saved(FRESH))


@pytest.mark.parametrize(
    "other",
    [
        '-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD',
        "-A FORWARD -i eth0 -j FLANNEL-FWD",
        "-A OTHER -j FLANNEL-FWD",
    ],
)
def test_a_second_jump_is_seen_and_goes(other: str) -> None:
    saved = parse_saved(FRESH)
    saved["filter"].append(other)
    found = read_table(saved, TABLE)
    assert found is not None and found.chains[1].hook is None
    text = format_table(TABLE, saved)
    assert other.replace("-A", "-D", 1) in text
    assert text.count("-A FORWARD") == 1


def test_a_jump_with_a_condition_is_none() -> None:
    saved = parse_saved(FRESH.replace("-A FORWARD -m", "-A FORWARD -i eth0 -m"))
    found = read_table(saved, TABLE)
    assert found is not None and found.chains[1].hook is None


def test_a_chain_that_is_not_wanted_any_more_goes_with_its_jump() -> None:
    text = format_table(replace(TABLE, chains=TABLE.chains[:1]), parse_saved(FRESH))
    assert '-D FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD' in text
    assert text.endswith("-X FLANNEL-FWD\nCOMMIT\n")


def test_nothing_to_do_is_no_text() -> None:
    assert format_table(replace(TABLE, chains=()), {}) == ""


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("-A X -s 10.0.0.1/32 -j ACCEPT", Rule((Source(ip_network("10.0.0.1/32")),), Verdict.ACCEPT)),
        ("-A X -j MASQUERADE", Rule((), Masquerade(fully_random=False))),
        ("-A X -j MASQUERADE --to-ports 1-2", Rule((), Unknown("MASQUERADE --to-ports 1-2"))),
        ("-A X", Rule((), Unknown("no target"))),
    ],
)
def test_lines_of_others(line: str, rule: Rule) -> None:
    assert parse_rule(line) == rule


def test_unknown_matches_make_a_rule_another() -> None:
    for line in ("-A X -p tcp -s 10.0.0.0/8 -j ACCEPT", "-A X -m mark ! --mark 0x1 -s 10.0.0.0/8 -j ACCEPT"):
        assert parse_rule(line) != Rule((Source(ip_network("10.0.0.0/8")),), Verdict.ACCEPT)


def test_what_was_read_from_others_is_never_written() -> None:
    for rule in (Rule((Unknown("x"),), Verdict.ACCEPT), Rule((), Unknown("x"))):
        with pytest.raises(ValueError, match="cannot write"):
            format_rule("X", rule, "c")


def test_names_of_another_instance() -> None:
    text = format_table(replace(TABLE, instance="1a2b3c", chains=(Chain(Hook.FORWARD, ()),)), {})
    assert ":FLANNEL-FWD-1a2b3c - [0:0]" in text
