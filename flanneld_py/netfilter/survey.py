"""What a node has of packet filters: which engines can be used, and which one kube-proxy uses."""

from flanneld_py.firewall.engine import Survey
from flanneld_py.model.ruleset import Engine
from flanneld_py.netfilter.legacy import has_chains_like
from flanneld_py.netfilter.nftcodec import FAMILY
from flanneld_py.netfilter.programs import find_engines
from flanneld_py.netfilter.socket import NftSocket

_KUBE_PROXY = "kube-proxy"
"""kube-proxy's table in its nftables mode."""
_KUBE_CHAINS = (("nat", "KUBE-SERVICES"), ("mangle", "KUBE-PROXY-CANARY"))
"""Table and chain that kube-proxy keeps in its iptables and ipvs modes."""


def take_survey(sock: NftSocket) -> Survey:
    """KernelError: the packet filter cannot be read."""
    return Survey(kube_proxy=_kube_proxy(sock), nft=sock.is_there(), programs=find_engines())


def _kube_proxy(sock: NftSocket) -> Engine | None:
    if any(sock.uses(family, _KUBE_PROXY) is not None for family in FAMILY.values()):
        return Engine.NFT
    if any(sock.chain(family, *where) is not None for family in FAMILY.values() for where in _KUBE_CHAINS):
        return Engine.IPTABLES_NFT
    if any(has_chains_like(version, chain) for version in FAMILY for _, chain in _KUBE_CHAINS):
        return Engine.IPTABLES_LEGACY
    return None
