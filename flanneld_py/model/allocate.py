"""Which subnet a node takes: the one it had, or one of the first free ones at random."""

from collections.abc import Iterable, Iterator
from itertools import islice
from random import Random

from flanneld_py.errors import OutOfSubnets
from flanneld_py.model.config import FamilyConfig, NetworkConfig
from flanneld_py.model.net import Net, Subnets, of_family, overlaps

CANDIDATES = 100
"""Among how many free subnets the choice is random, as in flannel: nodes that start together seldom meet."""


def choose_subnets(config: NetworkConfig, taken: Iterable[Net], previous: Subnets, rng: Random) -> Subnets:
    """One subnet of each family of `config`, none of which overlaps one of `taken`.

    Of each family, the one in `previous` if it may be leased and is free. Raises OutOfSubnets.
    """
    known = tuple(taken)
    return tuple(_choose(family, known, of_family(previous, family.version), rng) for family in config.families)


def _choose(family: FamilyConfig, taken: tuple[Net, ...], previous: Net | None, rng: Random) -> Net:
    if previous is not None and family.fits(previous) and not any(overlaps(previous, net) for net in taken):
        return previous
    slots = list(islice(free_slots(family, taken), CANDIDATES))
    if not slots:
        raise OutOfSubnets(_full(family, taken), hint=_MEND)
    base = int(family.subnet_min) + rng.choice(slots) * family.subnet_size
    return type(family.network)((base, family.subnet_len))


def free_slots(family: FamilyConfig, taken: Iterable[Net]) -> Iterator[int]:
    """Numbers of the free subnets, ascending; 0 is the one at `subnet_min`.

    One sort of `taken`, then a walk over its gaps: the size of the network does not matter.
    """
    free = 0
    for first, last in sorted(_slots_of(net, family) for net in taken if net.version == family.version):
        yield from range(free, min(first, family.subnet_count))
        free = max(free, last + 1)
    yield from range(free, family.subnet_count)


def share_used(family: FamilyConfig, taken: Iterable[Net]) -> float:
    """How much of the subnets is leased or otherwise held, from 0 to 1."""
    free = end = 0
    for first, last in sorted(_slots_of(net, family) for net in taken if net.version == family.version):
        free += max(0, min(first, family.subnet_count) - end)
        end = max(end, last + 1)
    free += max(0, family.subnet_count - end)
    return 1 - free / family.subnet_count


def _slots_of(net: Net, family: FamilyConfig) -> tuple[int, int]:
    """The first and last slot that the network touches, which may be below 0 or beyond the last one."""
    low, size = int(family.subnet_min), family.subnet_size
    return (int(net.network_address) - low) // size, (int(net.broadcast_address) - low) // size


_MEND = "delete the leases of nodes that are gone, or widen Network, or raise SubnetLen"


def _full(family: FamilyConfig, taken: tuple[Net, ...]) -> str:
    touching = 0
    for net in taken:
        if net.version == family.version:
            first, last = _slots_of(net, family)
            touching += last >= 0 and first < family.subnet_count
    what = f"{family.subnet_count} subnets of /{family.subnet_len} from {family.subnet_min} to {family.subnet_max}"
    return f"no free subnet in {family.network}: its {what} are held by {touching} lease{'s'[: touching != 1]}"
