"""Rules of ours in nf_tables: our own tables, and what is ours among the rules of iptables-nft, which are there too."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from flanneld_py.model.entry import Key
from flanneld_py.model.net import Net
from flanneld_py.model.ruleset import Admission, Chain, Destination, Engine, Hook, Rule, Source, Table, Verdict
from flanneld_py.netfilter import nftcodec
from flanneld_py.netfilter.expressions import counter, decode_rule, encode_rule, jumps_to
from flanneld_py.netfilter.names import (
    COMMENTS,
    IPTABLES_BASE,
    NFT_CHAINS,
    NFT_HOOKS,
    admission_comment,
    iptables_chain,
    nft_table,
)
from flanneld_py.netfilter.nftcodec import FAMILY, ChainState, Expression, RuleState
from flanneld_py.netfilter.socket import Change, NftSocket
from flanneld_py.netlink.wire import attributes, encode_attr

_PURPOSE = {NFT_CHAINS[hook]: COMMENTS[hook] for hook in Hook}
_COMMENT_BYTES = 256  # struct xt_comment_info, include/uapi/linux/netfilter/xt_comment.h


@dataclass(frozen=True, slots=True)
class NftView:
    """All of a namespace's nf_tables that may concern us, read at one time."""

    tables: tuple[tuple[int, str], ...]
    chains: tuple[ChainState, ...]

    def has(self, family: int, table: str, chain: str | None = None) -> bool:
        if chain is None:
            return (family, table) in self.tables
        return any((one.family, one.table, one.name) == (family, table, chain) for one in self.chains)


def read_view(sock: NftSocket) -> NftView:
    return NftView(tuple(sock.tables()), tuple(sock.chains()))


def known_tables(sock: NftSocket, view: NftView, instance: str) -> dict[Key, Table]:
    """Our own tables, as they are."""
    found: dict[Key, Table] = {}
    for version, family in FAMILY.items():
        name = nft_table(version, instance)
        if view.has(family, name):
            table = _read(sock, view, version, name, instance)
            found[table.key] = table
    return found


def _read(sock: NftSocket, view: NftView, version: int, name: str, instance: str) -> Table:
    here = {one.name: one for one in view.chains if (one.family, one.table) == (FAMILY[version], name)}
    rules = sock.rules(FAMILY[version], name)
    chains = tuple(
        Chain(
            hook if here[chain].hook == NFT_HOOKS[hook] else None,
            tuple(decode_rule(version, one.expressions) for one in rules if one.chain == chain),
        )
        for hook, chain in NFT_CHAINS.items()
        if chain in here
    )
    return Table(Engine.NFT, version, instance, chains, strange=not here.keys() <= set(NFT_CHAINS.values()))


def write_table(view: NftView, table: Table) -> list[Change]:
    """One transaction, after which the table is as wanted. Chains stay where they can, so that no packet finds none.

    A chain of ours with another hook or policy can only be made anew, and then the whole table is.
    """
    family, name = FAMILY[table.version], nft_table(table.version, table.instance)
    here = [one for one in view.chains if (one.family, one.table) == (family, name)]
    wanted = {NFT_CHAINS[chain.hook]: chain for chain in table.chains if chain.hook is not None}
    fits = {NFT_CHAINS[hook]: base for hook, base in NFT_HOOKS.items()}
    make = nftcodec.new_table(family, name, f"rules for {name}")
    changes = [make]
    if any(fits.get(one.name) != one.hook for one in here):
        changes += [nftcodec.delete_table(family, name), make]
        here = []
    for one in here:
        changes.append(nftcodec.delete_rules(family, name, one.name))
        if one.name not in wanted:
            changes.append(nftcodec.delete_chain(family, name, one.name))
    for chain_name, chain in wanted.items():
        changes.append(nftcodec.new_chain(family, name, chain_name, fits[chain_name], _PURPOSE[chain_name]))
        changes += [nftcodec.new_rule(family, name, chain_name, encode_rule(rule)) for rule in chain.rules]
    return changes


def remove_table(view: NftView, table: Table) -> list[Change]:
    family, name = FAMILY[table.version], nft_table(table.version, table.instance)
    return [nftcodec.delete_table(family, name)] if view.has(family, name) else []


def iptables_versions(view: NftView, instance: str) -> tuple[int, ...]:
    """The IP versions for which there are chains of ours among iptables-nft's."""
    return tuple(
        version
        for version, family in FAMILY.items()
        if any(view.has(family, IPTABLES_BASE[hook][0], iptables_chain(hook, instance)) for hook in Hook)
    )


def iptables_digest(sock: NftSocket, version: int, instance: str) -> tuple[object, ...]:
    """Changes whenever our chains of iptables-nft, or the jumps to them, do; counters do not count."""
    parts: list[object] = []
    for hook, (table, _) in IPTABLES_BASE.items():
        name = iptables_chain(hook, instance)
        for one in sock.rules(FAMILY[version], table):
            if one.chain == name or jumps_to(one.expressions) == name:
                steps = tuple(step for step in one.expressions if step.name != "counter")
                parts.append((table, one.chain, steps))
    return tuple(parts)


def remove_iptables(sock: NftSocket, view: NftView, version: int, instance: str) -> list[Change]:
    """Takes our chains and the jumps to them out of iptables-nft's tables, without its programs."""
    changes: list[Change] = []
    family = FAMILY[version]
    for hook, (table, _) in IPTABLES_BASE.items():
        name = iptables_chain(hook, instance)
        if not view.has(family, table, name):
            continue
        jumps = [one for one in sock.rules(family, table) if jumps_to(one.expressions) == name]
        changes += [nftcodec.delete_rules(family, table, one.chain, one.handle) for one in jumps]
        changes += [nftcodec.delete_rules(family, table, name), nftcodec.delete_chain(family, table, name)]
    return changes


def known_admissions(sock: NftSocket, view: NftView, instance: str) -> dict[Key, Admission]:
    """Ours in chains of iptables-nft. Networks not accepted both ways are left out."""
    found: dict[Key, Admission] = {}
    for version, family in FAMILY.items():
        if not view.has(family, "filter"):
            continue
        ours = [one for one in sock.rules(family, "filter") if is_admission(one, instance)]
        for chain in dict.fromkeys(one.chain for one in ours):
            rules = [_plain_rule(version, one.expressions) for one in ours if one.chain == chain]
            entry = Admission(Engine.IPTABLES_NFT, version, "filter", chain, admitted(rules), instance)
            found[entry.key] = entry
    return found


def write_admission(sock: NftSocket, entry: Admission) -> list[Change]:
    """Rules before all others of the chain, in the form that iptables shows; ours of before go."""
    family = FAMILY[entry.version]
    changes = remove_admission(sock, entry)
    for rule in reversed(admission_rules(entry.networks)):
        *matches, verdict = encode_rule(rule)
        steps = [*matches, _comment(admission_comment(entry.instance)), counter(), verdict]
        changes.append(nftcodec.new_rule(family, entry.table, entry.chain, steps, first=True))
    return changes


def remove_admission(sock: NftSocket, entry: Admission) -> list[Change]:
    family = FAMILY[entry.version]
    return [
        nftcodec.delete_rules(family, entry.table, entry.chain, one.handle)
        for one in sock.rules(family, entry.table)
        if one.chain == entry.chain and is_admission(one, entry.instance)
    ]


def is_admission(rule: RuleState, instance: str) -> bool:
    return _xt_comment(rule.expressions) == admission_comment(instance)


def admission_rules(networks: Iterable[Net]) -> list[Rule]:
    return [Rule((kind(net),), Verdict.ACCEPT) for net in networks for kind in (Source, Destination)]


def admitted(rules: Sequence[Rule]) -> tuple[Net, ...]:
    """The networks for which both of `admission_rules` are there, and nothing else: () where there is anything else."""
    nets = tuple(dict.fromkeys(m.net for rule in rules for m in rule.matches if isinstance(m, Source)))
    return nets if rules == admission_rules(nets) else ()


def _plain_rule(version: int, expressions: Sequence[Expression]) -> Rule:
    """Without what iptables adds to every rule."""
    return decode_rule(version, [one for one in expressions if one.name not in {"counter", "match"}])


def _comment(text: str) -> bytes:
    """iptables' own comment: a match that always holds (nft_compat)."""
    info = encode_attr(3, text.encode().ljust(_COMMENT_BYTES, b"\0"))
    return nftcodec.expression("match", nftcodec.name_attr(1, "comment"), encode_attr(2, nftcodec.be32(0)), info)


def _xt_comment(expressions: Sequence[Expression]) -> str | None:
    for step in expressions:
        if step.name == "match":
            attrs = attributes(step.data)
            if attrs.get(1, b"").rstrip(b"\0") == b"comment":
                return attrs.get(3, b"").split(b"\0", 1)[0].decode(errors="replace")
    return None


def leftover(engine: Engine, version: int, instance: str) -> Table:
    """Stands for rules of an engine that is not ours now: what they are does not matter, for they go."""
    return replace(Table(engine, version, instance, ()), strange=True)
