"""Which packets leave with the node's address instead of a pod's: `--ip-masq`. As flannel does (pkg/trafficmngr)."""

from ipaddress import ip_network

from flanneld_py.model.net import Net
from flanneld_py.model.ruleset import Chain, Destination, Hook, Mark, Masquerade, Rule, Source, Verdict

KUBE_PROXY_MASQUERADES = Mark(0x4000, 0x4000)
"""kube-proxy's mark on what it masquerades itself; other bits of the mark belong to others."""
_MULTICAST = {4: ip_network("224.0.0.0/4"), 6: ip_network("ff00::/8")}


def masquerade(network: Net, subnet: Net, *, fully_random: bool) -> Chain:
    """Rules for one family; `network` is the whole overlay, `subnet` this node's slice.

    Traffic between pods keeps its addresses, as does what reaches our own pods from outside, whose answers come back
    through us anyway. What a pod sends out of the overlay is masqueraded; so is what a node sends to the pods of
    another from an address outside the overlay, since the answer would otherwise take another way than the question.
    """
    mask = Masquerade(fully_random)
    return Chain(
        Hook.POSTROUTING,
        (
            Rule((KUBE_PROXY_MASQUERADES,), Verdict.RETURN),
            Rule((Source(subnet), Destination(network)), Verdict.RETURN),
            Rule((Source(network), Destination(subnet)), Verdict.RETURN),
            Rule((Source(network, negated=True), Destination(subnet)), Verdict.RETURN),
            Rule((Source(network), Destination(_MULTICAST[network.version], negated=True)), mask),
            Rule((Source(network, negated=True), Destination(network)), mask),
        ),
    )
