"""From leases and facts to one set of entries. Pure; remembers the plans of peers that have not changed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flanneld_py.backend.base import Backend, PeerPlan
from flanneld_py.firewall.plan import NO_RULES, RuleWish, rule_plan
from flanneld_py.model.entry import Desired, Entry, Key, Link, Scope
from flanneld_py.model.lease import Lease
from flanneld_py.model.leaseset import objection
from flanneld_py.model.net import Addr, Net, Subnets
from flanneld_py.model.node import NodeFacts, Reached, Reaches
from flanneld_py.model.ruleset import Admission


@dataclass(frozen=True, slots=True)
class PeerState:
    """One peer as `status` shows it. `problems`: why it, or one family of it, is not reached."""

    lease: Lease
    path: tuple[str, ...]
    problems: tuple[str, ...]
    keys: tuple[Key, ...] = ()


@dataclass(frozen=True, slots=True)
class _Planned:
    lease: Lease
    reached: tuple[Reached | None, ...]
    state: PeerState
    name: str
    key: str
    entries: dict[Key, Entry]


class Planner:
    """`networks`: the overlay; `former`: networks of this daemon's earlier runs, whose leftovers are ours to remove."""

    def __init__(
        self,
        backend: Backend,
        networks: tuple[Net, ...],
        former: tuple[Net, ...],
        alias: str,
        rules: RuleWish = NO_RULES,
    ) -> None:
        self._backend = backend
        self._networks = networks
        self._scope_networks = tuple(dict.fromkeys(networks + former))
        self._alias = alias
        self._rules = rules
        self._plans: dict[Subnets, _Planned] = {}
        self._for: tuple[Lease, NodeFacts] | None = None
        self.peers: dict[Subnets, PeerState] = {}

    def publics(self, leases: Iterable[Lease]) -> frozenset[Addr]:
        """The addresses whose reach the backend needs to know; none if it does not care."""
        if not self._backend.needs_reach:
            return frozenset()
        return frozenset(
            public
            for lease in leases
            for version in (4, 6)
            if (public := lease.attrs.public(version)) is not None and not public.is_unspecified
        )

    def plan(
        self,
        own: Lease,
        leases: Iterable[Lease],
        facts: NodeFacts,
        reaches: Reaches,
        takeover: frozenset[str],
        *,
        admissions: tuple[Admission, ...] = (),
    ) -> Desired:
        """All that we want now; `peers` then tells how each peer is reached.

        Where two leases ask for one kernel object, the one with the lower key has it, and the other a problem.
        """
        if self._for != (own, facts):
            self._plans.clear()
            self._for = (own, facts)
        local = (
            *self._backend.local_plan(own, facts),
            *rule_plan(self._rules, self._networks, own.subnets),
            *admissions,
        )
        entries: dict[Key, Entry] = {entry.key: entry for entry in local}
        owners: dict[Key, str] = {}
        plans = [self._peer(lease, own, facts, reaches) for lease in leases if lease.subnets != own.subnets]
        plans.sort(key=lambda planned: planned.key)
        self.peers = {planned.lease.subnets: _merge(planned, entries, owners) for planned in plans}
        self._plans = {planned.lease.subnets: planned for planned in plans}
        devices = frozenset(entry.name for entry in local if isinstance(entry, Link))
        return Desired(entries, self._scope(devices, takeover), owners)

    def _scope(self, devices: frozenset[str], takeover: frozenset[str]) -> Scope:
        return Scope(self._scope_networks, devices, self._alias, takeover, self._rules.instance)

    def _peer(self, lease: Lease, own: Lease, facts: NodeFacts, reaches: Reaches) -> _Planned:
        attrs = lease.attrs
        reached = tuple(reaches.get(public) for public in (attrs.public_ip, attrs.public_ipv6) if public is not None)
        known = self._plans.get(lease.subnets)
        if known is not None and known.lease == lease and known.reached == reached:
            return known
        why = objection(lease, own, self._networks)
        plan = self._backend.peer_plan(lease, facts, reaches) if why is None else PeerPlan(problems=(why,))
        entries = {entry.key: entry for entry in plan.entries}
        state = PeerState(lease, plan.path, plan.problems, tuple(entries))
        return _Planned(lease, reached, state, str(lease), lease.key, entries)


def _merge(planned: _Planned, entries: dict[Key, Entry], owners: dict[Key, str]) -> PeerState:
    if clashes := entries.keys() & planned.entries.keys():
        holders = sorted({owners.get(key, "this node") for key in clashes})
        what = ", ".join(" ".join(key) for key in sorted(clashes))
        problem = f"it asks for {what}, which {' and '.join(holders)} has already"
        return PeerState(planned.lease, (), (*planned.state.problems, problem))
    entries.update(planned.entries)
    owners.update(dict.fromkeys(planned.entries, planned.name))
    return planned.state


def problems_of(peers: Mapping[Subnets, PeerState]) -> dict[str, str]:
    """By lease key, one line for each peer that is not wholly reached."""
    found = (state for state in peers.values() if state.problems)
    return {state.lease.key: f"{state.lease}: {'; '.join(state.problems)}" for state in found}
