"""The packet filter's part of the daemon: which rules are wanted, whether they stand, and who drops our packets."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from ipaddress import ip_address

from flanneld_py.daemon.board import Board
from flanneld_py.daemon.options import Options
from flanneld_py.daemon.rundir import instance
from flanneld_py.errors import KernelError
from flanneld_py.firewall.engine import choose_engine
from flanneld_py.firewall.plan import RuleWish
from flanneld_py.model.config import NetworkConfig
from flanneld_py.model.entry import Entry, Link
from flanneld_py.model.net import Net, Subnets, of_family
from flanneld_py.model.ruleset import Admission, Engine, Table
from flanneld_py.netfilter.applier import PacketFilter
from flanneld_py.netfilter.monitor import GenerationMonitor
from flanneld_py.netfilter.socket import NftSocket
from flanneld_py.netfilter.survey import take_survey
from flanneld_py.netfilter.walk import Packet
from flanneld_py.reconcile.loop import Reconciler

log = logging.getLogger(__name__)

SETTLES_S = 0.05
"""Who changes a packet filter makes several transactions at a time; they are looked at once."""
FOREIGN_S = 10.0
"""Least time between two looks at the chains of others, which may be many."""
POD_DEVICE = "cni0"
"""The bridge that the CNI plugin makes; not there before the first pod."""
_MARK = "of pods: "
"""In every warning about a foreign chain, and in no other."""


def wish_of(options: Options, config: NetworkConfig) -> RuleWish:
    """What options and configuration ask for, with the engine that fits the node; said in the log.

    KernelError: rules are wanted, and the engine that was asked for cannot be used here.
    """
    with closing(NftSocket()) as sock:
        choice = choose_engine(options.packet_filter, take_survey(sock), enable_nftables=config.enable_nftables)
    wanted = options.ip_masq or options.iptables_forward_rules
    if wanted and choice.missing is not None:
        mend = "use --packet-filter=auto, or install it" if choice.engine is Engine.NFT else "install iptables"
        raise KernelError(f"cannot use {choice.engine.value} ({choice.reason}): {choice.missing}", hint=mend)
    if wanted:
        log.info("packet filter: %s (%s)", choice.engine.value, choice.reason)
    return RuleWish(
        engine=choice.engine,
        reason=choice.reason,
        instance=instance(options.subnet_file),
        masquerade=options.ip_masq,
        fully_random=not options.ip_masq_fully_random_disable,
        forward=options.iptables_forward_rules,
        blackhole=options.ip_blackhole_route,
    )


def describe_rules(wish: RuleWish) -> dict[str, object]:
    """For the status."""
    return {
        "engine": wish.engine.value,
        "reason": wish.reason,
        "masquerade": wish.masquerade,
        "forward": wish.forward,
        "blackhole": wish.blackhole,
    }


@dataclass(frozen=True, slots=True)
class Watched:
    """What the rules are about. `devices`: those through which packets of other nodes come."""

    networks: tuple[Net, ...]
    own: Callable[[], Subnets]
    devices: tuple[str, ...]
    pod_device: Callable[[], str]


class RuleWatch:
    """Looks whether the rules stand, and whether chains of others drop what they accept.

    `fix`: the latter is mended where there is a place for it, by `admissions`.
    """

    def __init__(self, rules: PacketFilter, board: Board, watched: Watched, wish: RuleWish, *, fix: bool) -> None:
        self._filter = rules
        self._board = board
        self._watched = watched
        self._wish = wish
        self._fix = fix
        self.admissions: tuple[Admission, ...] = ()

    async def follow(self, monitor: GenerationMonitor, reconciler: Reconciler, every_s: float) -> None:
        """For ever: after each change of nf_tables, and every `every_s` seconds.

        A change of legacy iptables is told to nobody: there the timer is all.
        """
        loop = asyncio.get_running_loop()
        generation: int | None = None
        next_foreign = loop.time()
        while True:
            now = self._filter.generation()
            if now is None or now != generation or self._in_legacy():
                generation = now
                await self._compare(reconciler)
            if loop.time() >= next_foreign:
                next_foreign = loop.time() + FOREIGN_S
                await self._look_for_foreign(reconciler)
            try:
                # Not wait_for: before Python 3.12 it loses a cancellation that meets the event (CPython issue 86296).
                async with asyncio.timeout(every_s):
                    await monitor.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(SETTLES_S)

    def _in_legacy(self) -> bool:
        """Whether rules of ours are where no change is told."""
        return Engine.IPTABLES_LEGACY in (self._wish.engine, *(one.engine for one in self.admissions))

    async def _compare(self, reconciler: Reconciler) -> None:
        desired = reconciler.desired
        try:
            seen = await self._filter.known(desired)
        except KernelError:
            if reconciler.is_read:  # else it has said why, and tries again in its own time
                reconciler.look_again()
            return
        wanted = {key: one for key, one in desired.entries.items() if isinstance(one, Table | Admission)}
        differing = {key for key in wanted.keys() | seen.keys() if wanted.get(key) != seen.get(key)}
        # What has failed is tried again by the reconciler, in its own time.
        if differing - reconciler.progress.failures.keys():
            reconciler.look_again()

    async def _look_for_foreign(self, reconciler: Reconciler) -> None:
        try:
            found = await self._filter.foreign(self._packets(), self._watched.networks, self._wish.instance)
        except KernelError as err:
            log.warning("%s", err)
            return
        admissions = tuple(one.admission for one in found if one.admission is not None) if self._fix else ()
        self._board.warn(_MARK, [str(one) for one in found if one.admission not in admissions or one.admission is None])
        if admissions != self.admissions:
            for one in set(admissions) - set(self.admissions):
                log.warning("--fix-foreign-forward: %s", one)
            self.admissions = admissions
            reconciler.wake()

    def _packets(self) -> list[Packet]:
        """The first of a connection from another node's pod to one of ours, and of one the other way."""
        pod_device = self._watched.pod_device()
        packets = []
        for network in self._watched.networks:
            own = of_family(self._watched.own(), network.version)
            if own is None:
                continue
            size = own.num_addresses
            # Of the subnet beside ours, on whichever side there is one.
            beside = int(own.network_address) + (size if own[-1] != network[-1] else -size)
            here, there = own.network_address + 5, ip_address(own.network_address.packed) + (beside - int(own[0])) + 5
            for device in self._watched.devices:
                packets += [Packet(there, here, device, pod_device), Packet(here, there, pod_device, device)]
        return packets


def devices_of(plan: tuple[Entry, ...], external: str) -> tuple[str, ...]:
    """Those of the overlay, else the interface to the other nodes."""
    return tuple(entry.name for entry in plan if isinstance(entry, Link)) or (external,)
