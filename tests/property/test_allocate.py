"""The choice of a subnet, against a plain walk over all of them."""

import json
from ipaddress import IPv4Network, ip_network
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flanneld_py.errors import OutOfSubnets
from flanneld_py.model.allocate import CANDIDATES, choose_subnets, free_slots, share_used
from flanneld_py.model.config import NetworkConfig, parse_config
from flanneld_py.model.net import Net, Subnets, overlaps


def config(**keys: object) -> NetworkConfig:
    return parse_config(json.dumps({"Backend": {"Type": "vxlan"}} | keys), "test")[0]


SMALL = config(Network="10.0.0.0/20", SubnetLen=24)
DUAL = config(Network="10.0.0.0/20", SubnetLen=24, EnableIPv6=True, IPv6Network="fd00::/60", IPv6SubnetLen=64)
HUGE = config(EnableIPv4=False, EnableIPv6=True, IPv6Network="fd00::/16", IPv6SubnetLen=120)


def all_subnets(cfg: NetworkConfig, version: int) -> list[Net]:
    family = cfg.family(version)
    assert family is not None
    step = family.network.subnets(new_prefix=family.subnet_len)
    return [net for net in step if family.subnet_min <= net.network_address <= family.subnet_max]  # type: ignore[operator]


four = st.tuples(st.integers(0x09FFF000, 0x0A002000), st.integers(18, 30)).map(
    lambda pair: IPv4Network((pair[0] >> (32 - pair[1]) << (32 - pair[1]), pair[1]))
)
six = st.tuples(st.integers(-2, 18), st.integers(60, 68)).map(
    lambda pair: ip_network(((0xFD << 120) + (pair[0] << 64), pair[1]), strict=False)
)


@given(st.lists(st.one_of(four, six), max_size=40), st.randoms(use_true_random=False))
def test_choice_is_free_and_fits_or_nothing_is_free(taken: list[Net], rng: Random) -> None:
    free = {
        version: [net for net in all_subnets(DUAL, version) if not any(overlaps(net, other) for other in taken)]
        for version in (4, 6)
    }
    try:
        chosen = choose_subnets(DUAL, taken, (), rng)
    except OutOfSubnets:
        assert not free[4] or not free[6]
    else:
        assert DUAL.fits(chosen)
        assert all(net in free[net.version] for net in chosen)


@given(st.integers(1, 15), st.randoms(use_true_random=False))
def test_last_free_subnet_is_found(free: int, rng: Random) -> None:
    taken = [net for number, net in enumerate(all_subnets(SMALL, 4), 1) if number != free]
    assert choose_subnets(SMALL, taken, (), rng) == (ip_network(f"10.0.{free}.0/24"),)


@given(st.lists(four, max_size=10), four, st.randoms(use_true_random=False))
def test_previous_is_taken_exactly_if_it_fits_and_is_free(taken: list[Net], previous: Net, rng: Random) -> None:
    good = SMALL.fits((previous,)) and not any(overlaps(previous, net) for net in taken)
    try:
        chosen = choose_subnets(SMALL, taken, (previous,), rng)
    except OutOfSubnets:
        assert not good
    else:
        assert not good or chosen == (previous,)


@pytest.mark.parametrize("previous", [(), (ip_network("10.0.7.0/24"),)])
def test_half_of_the_previous_is_kept(previous: Subnets) -> None:
    chosen = choose_subnets(DUAL, [], previous, Random(1))
    assert DUAL.fits(chosen)
    assert chosen[: len(previous)] == previous


def test_choice_is_among_the_first_hundred() -> None:
    cfg = config(Network="10.0.0.0/8")
    seen = {choose_subnets(cfg, [ip_network("10.0.1.0/24")], (), Random(n))[0] for n in range(2000)}
    assert seen == {ip_network(f"10.0.{n}.0/24") for n in range(2, 2 + CANDIDATES)}


class Counted:
    """Counts how often it is walked."""

    def __init__(self, nets: list[Net]) -> None:
        self.nets, self.walks = nets, 0

    def __iter__(self):  # type: ignore[no-untyped-def]
        self.walks += 1
        return iter(self.nets)


def test_huge_network_is_not_walked() -> None:
    """2^104 subnets, of which 10,000 are leased: a walk over either squared would not end."""
    family = HUGE.families[0]
    base = int(family.subnet_min)
    taken = Counted([ip_network((base + n * 256, 120)) for n in range(10_000)])
    chosen = choose_subnets(HUGE, taken, (), Random(1))
    assert 10_000 <= (int(chosen[0].network_address) - base) // 256 < 10_000 + CANDIDATES
    assert taken.walks == 1
    assert next(free_slots(family, taken.nets)) == 10_000


def test_full_network_says_how_full_and_what_to_do() -> None:
    with pytest.raises(OutOfSubnets) as caught:
        choose_subnets(SMALL, [ip_network("10.0.0.0/8"), ip_network("192.168.0.0/16")], (), Random(1))
    assert "10.0.0.0/20" in str(caught.value) and "15 subnets" in str(caught.value) and "1 lease;" in str(caught.value)
    assert caught.value.hint and "Network" in caught.value.hint


@given(st.lists(four, max_size=40))
def test_share_used_is_what_is_not_free(taken: list[Net]) -> None:
    subnets = all_subnets(SMALL, 4)
    used = [net for net in subnets if any(overlaps(net, other) for other in taken)]
    assert share_used(SMALL.families[0], taken) == pytest.approx(len(used) / len(subnets))
