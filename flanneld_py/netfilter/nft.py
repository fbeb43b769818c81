"""Rules of ours in nf_tables: our own tables, and what is ours among the rules of iptables-nft, which are there too."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from flanneld_py.model.entry import Key
from flanneld_py.model.net import Net
from flanneld_py.model.ruleset import Admission, Chain, Destination, Engine, Hook, Rule, Source, Table, Verdict
from flanneld_py.netfilter import nftcodec
from flanneld_py.netfilter.expressions import counter, decode_rule, encode_rule, jumps_to
from flanneld_py.netfilter.names import (
    ADMITTING,
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


def known_tables(sock: NftSocket, instance: str) -> dict[Key, Table]:
    """Our own tables, as they are."""
    found: dict[Key, Table] = {}
    for version, family in FAMILY.items():
        name = nft_table(version, instance)
        uses = sock.uses(family, name)
        if uses is not None:
            here = _chains(sock, family, name)
            chains = tuple(
                Chain(
                    hook if here[chain].hook == NFT_HOOKS[hook] else None,
                    tuple(decode_rule(version, one.expressions) for one in sock.rules(family, name, chain)),
                )
                for hook, chain in NFT_CHAINS.items()
                if chain in here
            )
            table = Table(Engine.NFT, version, instance, chains, strange=uses != len(here))
            found[table.key] = table
    return found


def _chains(sock: NftSocket, family: int, table: str) -> dict[str, ChainState]:
    """Those with names of ours."""
    states = {name: sock.chain(family, table, name) for name in NFT_CHAINS.values()}
    return {name: state for name, state in states.items() if state is not None}


def write_table(sock: NftSocket, table: Table) -> list[Change]:
    """One transaction, after which the table is as wanted. Chains stay where they can, so that no packet finds none.

    A chain of ours with another hook or policy can only be made anew, and then the whole table is, as it is when things
    of others are in it.
    """
    family, name = FAMILY[table.version], nft_table(table.version, table.instance)
    here = _chains(sock, family, name)
    wanted = {NFT_CHAINS[chain.hook]: chain for chain in table.chains if chain.hook is not None}
    fits = {NFT_CHAINS[hook]: base for hook, base in NFT_HOOKS.items()}
    make = nftcodec.new_table(family, name, f"rules for {name}")
    changes = [make]
    if sock.uses(family, name) not in (None, len(here)) or any(fits[one] != here[one].hook for one in here):
        changes += [nftcodec.delete_table(family, name), make]
        here = {}
    for one in here:
        changes.append(nftcodec.delete_rules(family, name, one))
        if one not in wanted:
            changes.append(nftcodec.delete_chain(family, name, one))
    for chain_name, chain in wanted.items():
        changes.append(nftcodec.new_chain(family, name, chain_name, fits[chain_name], _PURPOSE[chain_name]))
        changes += [nftcodec.new_rule(family, name, chain_name, encode_rule(rule)) for rule in chain.rules]
    return changes


def remove_table(sock: NftSocket, table: Table) -> list[Change]:
    family, name = FAMILY[table.version], nft_table(table.version, table.instance)
    return [] if sock.uses(family, name) is None else [nftcodec.delete_table(family, name)]


def iptables_versions(sock: NftSocket, instance: str) -> tuple[int, ...]:
    """The IP versions for which there are chains of ours among iptables-nft's."""
    return tuple(version for version in FAMILY if _iptables_chains(sock, version, instance))


def _iptables_chains(sock: NftSocket, version: int, instance: str) -> list[tuple[str, str, str]]:
    """Table, the chain that calls ours, and ours."""
    all_of_them = ((*IPTABLES_BASE[hook], iptables_chain(hook, instance)) for hook in Hook)
    return [one for one in all_of_them if sock.chain(FAMILY[version], one[0], one[2]) is not None]


def iptables_digest(sock: NftSocket, version: int, instance: str) -> tuple[object, ...]:
    """Changes whenever our chains of iptables-nft, or the jumps to them, do; counters do not count."""
    family = FAMILY[version]
    return tuple(
        (table, one.chain, tuple(step for step in one.expressions if step.name != "counter"))
        for table, base, name in _iptables_chains(sock, version, instance)
        for one in (*sock.rules(family, table, base), *sock.rules(family, table, name))
        if one.chain == name or jumps_to(one.expressions) == name
    )


def remove_iptables(sock: NftSocket, version: int, instance: str) -> list[Change]:
    """Takes our chains and the jumps to them out of iptables-nft's tables, without its programs."""
    changes: list[Change] = []
    family = FAMILY[version]
    for table, base, name in _iptables_chains(sock, version, instance):
        jumps = [one for one in sock.rules(family, table, base) if jumps_to(one.expressions) == name]
        changes += [nftcodec.delete_rules(family, table, base, one.handle) for one in jumps]
        changes += [nftcodec.delete_rules(family, table, name), nftcodec.delete_chain(family, table, name)]
    return changes


def known_admissions(sock: NftSocket, instance: str) -> dict[Key, Admission]:
    """Ours in chains of iptables-nft. Networks not accepted both ways are left out."""
    found: dict[Key, Admission] = {}
    for version, family in FAMILY.items():
        for chain in ADMITTING:
            ours = [one for one in sock.rules(family, "filter", chain) if is_admission(one, instance)]
            if ours:
                rules = [_plain_rule(version, one.expressions) for one in ours]
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
        for one in sock.rules(family, entry.table, entry.chain)
        if is_admission(one, entry.instance)
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


def jump_comment(rule: RuleState) -> str | None:
    """The comment, if a rule with one is nothing but a jump; None: it is something else."""
    matches = [one for one in rule.expressions if one.name == "match"]
    others = {one.name for one in rule.expressions} - {"counter", "match", "immediate"}
    if others or len(matches) > 1:
        return None
    # Until 1.8.2 iptables-nft wrote comments as nft does.
    return _xt_comment(rule.expressions) if matches else rule.comment or None


def leftover(engine: Engine, version: int, instance: str) -> Table:
    """Stands for rules of an engine that is not ours now: what they are does not matter, for they go."""
    return replace(Table(engine, version, instance, ()), strange=True)
