from ipaddress import ip_network

from flanneld_py.firewall.plan import NO_RULES, RuleWish, rule_plan
from flanneld_py.model.entry import Route
from flanneld_py.model.ruleset import Engine, Hook, Table

NETWORKS = (ip_network("10.244.0.0/16"), ip_network("fd00:10:244::/56"))
OWN = (ip_network("10.244.1.0/24"), ip_network("fd00:10:244:1::/64"))


def texts(wish: RuleWish, version: int) -> dict[Hook | None, list[str]]:
    (table,) = (one for one in rule_plan(wish, NETWORKS, OWN) if isinstance(one, Table) and one.version == version)
    return {chain.hook: list(map(str, chain.rules)) for chain in table.chains}


def test_masquerade_rules() -> None:
    found = texts(RuleWish(Engine.NFT, masquerade=True, forward=False), 4)
    assert found == {
        Hook.POSTROUTING: [
            "mark 0x4000/0x4000 return",
            "saddr 10.244.1.0/24 daddr 10.244.0.0/16 return",
            "saddr 10.244.0.0/16 daddr 10.244.1.0/24 return",
            "saddr != 10.244.0.0/16 daddr 10.244.1.0/24 return",
            "saddr 10.244.0.0/16 daddr != 224.0.0.0/4 masquerade fully-random",
            "saddr != 10.244.0.0/16 daddr 10.244.0.0/16 masquerade fully-random",
        ]
    }


def test_ipv6_has_its_own_multicast_range_and_ports_need_not_be_random() -> None:
    found = texts(RuleWish(Engine.NFT, masquerade=True, fully_random=False), 6)
    assert "saddr fd00:10:244::/56 daddr != ff00::/8 masquerade" in found[Hook.POSTROUTING]
    assert found[Hook.FORWARD] == ["saddr fd00:10:244::/56 accept", "daddr fd00:10:244::/56 accept"]


def test_only_families_of_the_lease_have_a_table() -> None:
    plan = rule_plan(RuleWish(Engine.NFT), NETWORKS, OWN[1:])
    assert [one.version for one in plan if isinstance(one, Table)] == [6]


def test_no_rules_need_no_table() -> None:
    assert rule_plan(NO_RULES, NETWORKS, OWN) == ()


def test_blackholes_lie_behind_every_other_route() -> None:
    plan = rule_plan(RuleWish(Engine.NFT, forward=False, blackhole=True), NETWORKS, OWN)
    assert plan == tuple(Route(net, None, metric=8192, kind="blackhole") for net in OWN)
