"""What a node has of packet filters: which engines can be used, and which ones kube-proxy and the kubelet use."""

from collections.abc import Sequence

from flanneld_py.firewall.engine import Survey
from flanneld_py.model.ruleset import Engine
from flanneld_py.netfilter.legacy import has_chains_like
from flanneld_py.netfilter.nftcodec import FAMILY
from flanneld_py.netfilter.programs import find_engines
from flanneld_py.netfilter.socket import NftSocket

_KUBE_PROXY = "kube-proxy"
"""kube-proxy's table in its nftables mode."""
_PROXY_CHAINS = (("nat", "KUBE-SERVICES"), ("mangle", "KUBE-PROXY-CANARY"))
"""Table and chain that kube-proxy keeps in its iptables and ipvs modes."""
_KUBELET_CHAINS = (("mangle", "KUBE-IPTABLES-HINT"), ("mangle", "KUBE-KUBELET-CANARY"))
"""The kubelet makes them, with the node's own iptables, before any pod runs."""


def take_survey(sock: NftSocket) -> Survey:
    """KernelError: the packet filter cannot be read."""
    kubelet = _keeper_of(sock, _KUBELET_CHAINS)
    return Survey(kube_proxy=_kube_proxy(sock), kubelet=kubelet, nft=sock.is_there(), programs=find_engines())


def _kube_proxy(sock: NftSocket) -> Engine | None:
    if any(sock.uses(family, _KUBE_PROXY) is not None for family in FAMILY.values()):
        return Engine.NFT
    return _keeper_of(sock, _PROXY_CHAINS)


def _keeper_of(sock: NftSocket, chains: Sequence[tuple[str, str]]) -> Engine | None:
    """The iptables in which one of the chains is."""
    if any(sock.chain(family, *where) is not None for family in FAMILY.values() for where in chains):
        return Engine.IPTABLES_NFT
    if any(has_chains_like(version, chain) for version in FAMILY for _, chain in chains):
        return Engine.IPTABLES_LEGACY
    return None
