"""Which packets may pass through the node: `--iptables-forward-rules`. As flannel does (pkg/trafficmngr)."""

from flanneld_py.model.net import Net
from flanneld_py.model.ruleset import Chain, Destination, Hook, Rule, Source, Verdict


def forward(network: Net) -> Chain:
    """Accepts what comes from the overlay or goes there. Needed where the policy of FORWARD is DROP, as with docker."""
    return Chain(
        Hook.FORWARD, (Rule((Source(network),), Verdict.ACCEPT), Rule((Destination(network),), Verdict.ACCEPT))
    )
