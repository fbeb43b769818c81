"""What can be told of chains that iptables' programs do not show: one rule that they have no words for hides all."""

from errno import EAGAIN

from flanneld_py.errors import KernelError
from flanneld_py.model.ruleset import Hook
from flanneld_py.netfilter.expressions import jumps_to
from flanneld_py.netfilter.iptablestext import format_jump
from flanneld_py.netfilter.legacy import holds
from flanneld_py.netfilter.names import COMMENTS, IPTABLES_BASE
from flanneld_py.netfilter.nft import jump_comment
from flanneld_py.netfilter.nftcodec import FAMILY, FAMILY_NAME
from flanneld_py.netfilter.programs import Programs
from flanneld_py.netfilter.socket import NftSocket


class NftChains:
    """Of iptables-nft, whose tables others may write to with `nft`: the kernel tells."""

    def __init__(self, sock: NftSocket) -> None:
        self._sock = sock

    def has_chain(self, version: int, table: str, chain: str) -> bool:
        return self._sock.chain(FAMILY[version], table, chain) is not None

    async def jumps(self, version: int, hook: Hook, chain: str, why: str) -> list[str]:
        """As `Chains.jumps`: a jump that is not as we write it cannot be put into iptables' words."""
        family, (table, base) = FAMILY[version], IPTABLES_BASE[hook]
        found = [one for one in self._sock.rules(family, table, base) if jumps_to(one.expressions) == chain]
        comments = [jump_comment(one) for one in found]
        if not set(comments) <= set(COMMENTS.values()):
            shown = f"nft -a list chain {FAMILY_NAME[family]} {table} {base}"
            mend = f"delete the rule that goes to {chain} by its handle: {shown}"
            raise KernelError(f"cannot read the rules of iptables-nft: {why}", hint=mend, errno=EAGAIN)
        return [format_jump(base, str(comment), chain) for comment in comments]


class LegacyChains:
    """Of legacy iptables, which says at least whether a rule is there."""

    def __init__(self, programs: Programs, netns: str | None) -> None:
        self._programs = programs
        self._netns = netns

    def has_chain(self, version: int, table: str, chain: str) -> bool:
        return holds(version, table, chain, self._netns)

    async def jumps(self, version: int, hook: Hook, chain: str, why: str) -> list[str]:
        """As `Chains.jumps`: only ours, as we write it, and once."""
        (table, base), comment = IPTABLES_BASE[hook], COMMENTS[hook]
        rule = ("-m", "comment", "--comment", comment, "-j", chain)
        done = await self._programs.check(version, table, base, rule)
        if done.code not in {0, 1}:
            raise KernelError(f"cannot read the rules of iptables-legacy: {why}", errno=EAGAIN)
        return [format_jump(base, comment, chain)] if done.code == 0 else []
