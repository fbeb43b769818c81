"""What the kernel itself tells of chains that iptables' programs do not show: one foreign rule hides all of a chain."""

from errno import EAGAIN

from flanneld_py.errors import KernelError
from flanneld_py.netfilter.expressions import jumps_to
from flanneld_py.netfilter.legacy import holds
from flanneld_py.netfilter.names import COMMENTS
from flanneld_py.netfilter.nft import jump_comment
from flanneld_py.netfilter.nftcodec import FAMILY, FAMILY_NAME
from flanneld_py.netfilter.socket import NftSocket


class NftChains:
    """Of iptables-nft, whose tables others may write to with `nft`."""

    def __init__(self, sock: NftSocket) -> None:
        self._sock = sock

    def has_chain(self, version: int, table: str, chain: str) -> bool:
        return self._sock.chain(FAMILY[version], table, chain) is not None

    def jumps(self, version: int, table: str, base: str, chain: str, why: str) -> list[str]:
        """As `Chains.jumps`: a jump that is not as we write it cannot be put into iptables' words."""
        family = FAMILY[version]
        found = [one for one in self._sock.rules(family, table, base) if jumps_to(one.expressions) == chain]
        comments = [jump_comment(one.expressions) for one in found]
        if not set(comments) <= set(COMMENTS.values()):
            shown = f"nft -a list chain {FAMILY_NAME[family]} {table} {base}"
            mend = f"delete the rule that goes to {chain} by its handle: {shown}"
            raise KernelError(f"cannot read the rules of iptables-nft: {why}", hint=mend, errno=EAGAIN)
        return [f'-A {base} -m comment --comment "{comment}" -j {chain}' for comment in comments]


class LegacyChains:
    """Of legacy iptables; of its rules nothing can be told."""

    def __init__(self, netns: str | None) -> None:
        self._netns = netns

    def has_chain(self, version: int, table: str, chain: str) -> bool:
        return holds(version, table, chain, self._netns)

    def jumps(self, version: int, table: str, base: str, chain: str, why: str) -> list[str]:
        raise KernelError(f"cannot read the rules of iptables-legacy: {why}", errno=EAGAIN)
