"""Which engine keeps our rules: the one that is asked for, else the one that the node's kube-proxy or kubelet uses."""

from dataclasses import dataclass

from flanneld_py.model.ruleset import Engine

WISHES = ("auto", "nft", "iptables")


@dataclass(frozen=True, slots=True)
class Survey:
    """What is on this node. `kube_proxy`, `kubelet`: the engine in which it keeps chains, None: there are none.

    `nft`: whether the kernel has it. `programs`: the engines for which there is an iptables-restore, the system's own
    choice first.
    """

    kube_proxy: Engine | None = None
    kubelet: Engine | None = None
    nft: bool = True
    programs: tuple[Engine, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """`missing`: the chosen engine cannot be used, and why."""

    engine: Engine
    reason: str
    missing: str | None = None


def choose_engine(wish: str, survey: Survey, *, enable_nftables: bool) -> EngineChoice:
    """`wish` is one of WISHES; `enable_nftables`: EnableNFTables of the network configuration.

    "auto" takes nft if EnableNFTables asks for it, or kube-proxy uses it, or there is no iptables here: so it never
    fails for a missing program.
    """
    if wish == "nft" or (wish == "auto" and enable_nftables):
        reason = "--packet-filter=nft" if wish == "nft" else "EnableNFTables"
        return EngineChoice(Engine.NFT, reason, None if survey.nft else "the kernel has no nf_tables")
    if wish == "iptables":
        return _iptables(survey, "--packet-filter=iptables")
    if survey.kube_proxy is Engine.NFT:
        return EngineChoice(Engine.NFT, "as kube-proxy on this node")
    if survey.kube_proxy in survey.programs:
        return EngineChoice(survey.kube_proxy, "as kube-proxy on this node")
    if survey.kubelet in survey.programs:
        return EngineChoice(survey.kubelet, "as the kubelet on this node")
    if survey.nft and not survey.programs:
        return EngineChoice(Engine.NFT, "there is no iptables here")
    return _iptables(survey, "the default, without EnableNFTables")


def _iptables(survey: Survey, reason: str) -> EngineChoice:
    if not survey.programs:
        return EngineChoice(Engine.IPTABLES_NFT, reason, "there is no iptables-restore")
    for theirs in (survey.kube_proxy, survey.kubelet):
        if theirs in survey.programs and theirs is not Engine.NFT:
            return EngineChoice(theirs, reason)
    usable = [one for one in survey.programs if survey.nft or one is not Engine.IPTABLES_NFT]
    return EngineChoice((usable or survey.programs)[0], reason)
