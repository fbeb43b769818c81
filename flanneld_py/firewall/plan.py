"""From options, configuration and our own lease to all that we want in the packet filter, and beside it."""

from dataclasses import dataclass

from flanneld_py.firewall.forward import forward
from flanneld_py.firewall.masquerade import masquerade
from flanneld_py.model.entry import Plan, Route
from flanneld_py.model.net import Net, Subnets, of_family
from flanneld_py.model.ruleset import Chain, Engine, Table

BLACKHOLE_METRIC = 8192
"""Behind every other route to the same subnet: the bridge's own comes with metric 0, or 256 for IPv6."""


@dataclass(frozen=True, slots=True)
class RuleWish:
    """What the operator wants. `reason`: why it is this engine; `instance`: see `Table`."""

    engine: Engine
    reason: str = ""
    instance: str = ""
    masquerade: bool = False
    fully_random: bool = True
    forward: bool = True
    blackhole: bool = False


NO_RULES = RuleWish(Engine.NFT, forward=False)


def rule_plan(wish: RuleWish, networks: tuple[Net, ...], own: Subnets) -> Plan:
    """One table for each family of the lease, none without rules; and the blackhole routes, if they are wanted."""
    plan: Plan = ()
    for subnet in own:
        network = of_family(networks, subnet.version)
        chains = () if network is None else _chains(wish, network, subnet)
        if chains:
            plan += (Table(wish.engine, subnet.version, wish.instance, chains),)
        if wish.blackhole:
            plan += (Route(subnet, None, metric=BLACKHOLE_METRIC, kind="blackhole"),)
    return plan


def _chains(wish: RuleWish, network: Net, subnet: Net) -> tuple[Chain, ...]:
    chains: tuple[Chain, ...] = ()
    if wish.masquerade:
        chains += (masquerade(network, subnet, fully_random=wish.fully_random),)
    if wish.forward:
        chains += (forward(network),)
    return chains
