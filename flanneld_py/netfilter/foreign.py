"""Which chains of others drop what passes between pods, and where a rule that accepts it can be put.

Read from nf_tables, where iptables-nft, docker, firewalld and ufw have theirs, and from legacy iptables.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flanneld_py.model.net import Net
from flanneld_py.model.ruleset import Admission, Engine
from flanneld_py.netfilter.iptables import read_filter
from flanneld_py.netfilter.iptablestext import admission_lines, judge_line
from flanneld_py.netfilter.judge import Judge
from flanneld_py.netfilter.legacy import legacy_tables
from flanneld_py.netfilter.names import ADMITTING, nft_table
from flanneld_py.netfilter.nft import is_admission
from flanneld_py.netfilter.nftcodec import FAMILY, FAMILY_NAME, INET, NF_FORWARD, ChainState, RuleState
from flanneld_py.netfilter.programs import Programs
from flanneld_py.netfilter.socket import NftSocket
from flanneld_py.netfilter.walk import Fate, Packet, Walk


@dataclass(frozen=True, slots=True)
class Finding:
    """A base chain that drops packets of the overlay. `where`: chain and table, as their tool names them; `admission`:
    what of ours would mend it, if there is a place for it."""

    where: str
    why: str
    certain: bool
    mend: str
    admission: Admission | None = None

    def __str__(self) -> str:
        return f"{self.where} {'drops' if self.certain else 'may drop'} packets of pods: {self.why}; {self.mend}"


class NftForeign:
    """The chains of nf_tables that are not ours; read when it is made."""

    def __init__(self, sock: NftSocket, instance: str) -> None:
        self._sock = sock
        self._instance = instance
        self._chains = [one for one in sock.base_chains() if one.hook is not None and one.hook.number == NF_FORWARD]
        self._ours = {nft_table(version, instance) for version in FAMILY}
        self._rules: dict[tuple[int, str, str], list[RuleState]] = {}

    def find(self, packet: Packet, network: Net) -> list[Finding]:
        """Those that drop `packet`, which is of `network`."""
        found = []
        for chain in self._chains:
            if chain.table not in self._ours and chain.family in (FAMILY[packet.version], INET):
                drops = chain.hook is not None and chain.hook.drops
                fate = Walk(self._of(chain), Judge(packet)).through(chain.name, drops_by_policy=drops)
                if fate.dropped:
                    found.append(_nft_finding(chain, fate, self._place(chain), network, self._instance))
        return found

    def _of(self, base: ChainState) -> Callable[[str], list[RuleState]]:
        """The rules of a chain in the table of `base`; only chains that a walk comes to are read."""

        def rules(name: str) -> list[RuleState]:
            key = base.family, base.table, name
            if key not in self._rules:
                found = self._sock.rules(*key)
                self._rules[key] = [one for one in found if not is_admission(one, self._instance)]
            return self._rules[key]

        return rules

    def _place(self, chain: ChainState) -> str | None:
        """Where rules of ours may go; only iptables has such chains."""
        if chain.family == INET or (chain.table, chain.name) != ("filter", "FORWARD"):
            return None
        return next((name for name in ADMITTING if self._sock.chain(chain.family, "filter", name) is not None), None)


def _nft_finding(chain: ChainState, fate: Fate, place: str | None, network: Net, instance: str) -> Finding:
    where = f"the chain {chain.name} of the table {FAMILY_NAME[chain.family]} {chain.table}"
    if place is not None:
        admission = Admission(Engine.IPTABLES_NFT, network.version, "filter", place, (network,), instance)
        return _iptables_finding(where, _why(fate, chain.name), admission, certain=fate.certain)
    if chain.table == "firewalld":
        mend = f"firewall-cmd --permanent --zone=trusted --add-source={network}, then firewall-cmd --reload"
    else:
        what = f"{FAMILY_NAME[chain.family]} {chain.table} {chain.name} {'ip' if network.version == 4 else 'ip6'}"
        mend = f"nft 'insert rule {what} saddr {network} accept', and the same with daddr"
    return Finding(where, _why(fate, chain.name), fate.certain, mend)


async def find_legacy(
    programs: Programs, packets: Sequence[Packet], network: Net, instance: str, *, netns: str | None = None
) -> list[Finding]:
    """Legacy iptables' chain FORWARD, if it drops one of `packets`. KernelError: it is in use, and cannot be read."""
    if not packets or "filter" not in legacy_tables(network.version, netns=netns):
        return []
    lines = (await read_filter(programs, network.version)).get("filter", [])
    chains = {line.split()[0][1:]: line.split()[1] for line in lines if line.startswith(":")}
    rules = {name: _foreign_lines(lines, name, instance) for name in chains}
    for packet in packets:
        walk = Walk(rules.get, lambda line, packet=packet: judge_line(line, packet, chains))  # type: ignore[misc]
        fate = walk.through("FORWARD", drops_by_policy=chains.get("FORWARD") == "DROP")
        if fate.dropped:
            place = next(name for name in ADMITTING if name in chains)
            admission = Admission(Engine.IPTABLES_LEGACY, network.version, "filter", place, (network,), instance)
            where = "the chain FORWARD of legacy iptables"
            return [_iptables_finding(where, _why(fate, "FORWARD"), admission, certain=fate.certain)]
    return []


def _foreign_lines(lines: Sequence[str], chain: str, instance: str) -> list[str]:
    ours = admission_lines(lines, chain, instance)
    return [line for line in lines if line.startswith(f"-A {chain} ") and line not in ours]


def _iptables_finding(where: str, why: str, admission: Admission, *, certain: bool) -> Finding:
    (network,) = admission.networks
    tool = admission.engine.value if network.version == 4 else admission.engine.value.replace("ip", "ip6", 1)
    command = f"{tool} -I {admission.chain} -s {network} -j ACCEPT, and the same with -d"
    return Finding(where, why, certain, f"start flanneld with --fix-foreign-forward, or {command}", admission)


def _why(fate: Fate, base: str) -> str:
    if fate.by is None:
        return "its policy is drop, and no rule accepts them"
    return "a rule of it does" if fate.by == base else f"a rule of its chain {fate.by} does"


def unique(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The first of each chain."""
    return tuple({(one.where, one.admission): one for one in reversed(findings)}.values())[::-1]
