"""What our tables and chains are called, which is how they are known as ours. The names are Go flannel's, so that
either takes over what the other left (pkg/trafficmngr)."""

from flanneld_py.model.ruleset import Hook
from flanneld_py.netfilter.nftcodec import FILTER, NF_FORWARD, NF_POSTROUTING, SRCNAT, BaseHook

NFT_HOOKS = {
    Hook.POSTROUTING: BaseHook(NF_POSTROUTING, SRCNAT, "nat"),
    Hook.FORWARD: BaseHook(NF_FORWARD, FILTER, "filter"),
}
NFT_CHAINS = {Hook.POSTROUTING: "postrtg", Hook.FORWARD: "forward"}
IPTABLES_BASE = {Hook.POSTROUTING: ("nat", "POSTROUTING"), Hook.FORWARD: ("filter", "FORWARD")}
"""Table and chain that call ours."""
_IPTABLES_CHAINS = {Hook.POSTROUTING: "FLANNEL-POSTRTG", Hook.FORWARD: "FLANNEL-FWD"}
COMMENTS = {Hook.POSTROUTING: "flanneld masq", Hook.FORWARD: "flanneld forward"}

ADMITTING = ("DOCKER-USER", "FORWARD")
"""Chains of iptables' table filter in which rules of others have their place, the better one first."""


def nft_table(version: int, instance: str) -> str:
    return f"flannel-ipv{version}{_suffix(instance)}"


def iptables_chain(hook: Hook, instance: str) -> str:
    """At most 28 characters (XT_EXTENSION_MAXNAMELEN), for an instance of up to 12."""
    return _IPTABLES_CHAINS[hook] + _suffix(instance)


def admission_comment(instance: str) -> str:
    """Tells our rules in a chain of somebody else's."""
    return f"flanneld admission{_suffix(instance)}"


def _suffix(instance: str) -> str:
    return f"-{instance}" if instance else ""
