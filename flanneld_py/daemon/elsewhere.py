"""Peers whose packets come from an outer address that no node publishes (NAT, several interfaces). Sans-I/O.

Read from what the udp backend's worker saw of strangers. Whoever can send to the port can make this up, so it is a
warning in one line, whatever comes, and never a reason to let anything in.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from flanneld_py.model.lease import Lease

MARK = "which they do not publish"
FEWEST = 3
"""Datagrams; fewer may be a stray of an address that was."""
MOST_NAMED = 4


def senders_elsewhere(stats: Mapping[str, Any] | None, leases: Iterable[Lease]) -> str | None:
    """What to tell the operator; None if every stranger is one."""
    if stats is None or not stats["seen"]:
        return None
    by_subnet = {net: lease for lease in leases for net in lease.subnets if isinstance(net, IPv4Network)}
    lengths = {net.prefixlen for net in by_subnet}
    found: Counter[tuple[str, str]] = Counter()
    for place in stats["seen"]:
        inner = IPv4Address(place["inner"])
        owners = (by_subnet.get(IPv4Network((inner, length), strict=False)) for length in lengths)
        for owner in owners:
            if owner is not None:
                found[str(owner), str(place["outer"])] += int(place["datagrams"])
    certain = sorted(who for who, datagrams in found.items() if datagrams >= FEWEST)
    if not certain:
        return None
    named = ", ".join(f"{lease} from {outer}" for lease, outer in certain[:MOST_NAMED])
    more = f", and {len(certain) - MOST_NAMED} more" if len(certain) > MOST_NAMED else ""
    return (
        f"packets of peers come from addresses {MARK}, and are dropped: {named}{more}; start flanneld there with the "
        '--iface or --public-ip that they leave by, or put "SourceValidation": "loose" into the Backend of the '
        "network configuration"
    )
