"""The node's part of the overlay: what leases and facts call for, handed to the reconciler; and how it stands."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from flanneld_py.daemon import checksumwatch, elsewhere
from flanneld_py.daemon.board import Board
from flanneld_py.daemon.planner import Planner, problems_of
from flanneld_py.daemon.setup import Setup
from flanneld_py.errors import ConfigError, KernelError
from flanneld_py.model.entry import Desired, Failure, Op, Sysctl, TxChecksum, Verb
from flanneld_py.model.lease import Lease
from flanneld_py.model.leaseset import LeaseSet
from flanneld_py.model.net import Addr
from flanneld_py.model.node import Interface, Reaches
from flanneld_py.model.ruleset import Admission, Table
from flanneld_py.model.subnetenv import SubnetEnv, format_subnet_env
from flanneld_py.observe.status import PeerLine, Report
from flanneld_py.reconcile.loop import Progress

log = logging.getLogger(__name__)


class Underlay(Protocol):
    """What the node's kernel says of the network below the overlay."""

    async def interface(self, name: str) -> Interface | None:
        """None: there is no such interface now."""

    async def reaches(self, addresses: frozenset[Addr]) -> Reaches: ...


class Overlay:
    """`own`: our lease at this moment. `write_env` puts the text of subnet.env in place."""

    def __init__(
        self, setup: Setup, own: Callable[[], Lease], underlay: Underlay, board: Board, write_env: Callable[[str], None]
    ) -> None:
        self.leases = LeaseSet()
        self._networks = setup.config.networks
        self._backend = setup.backend
        self._facts = setup.facts
        self._own = own
        self._underlay = underlay
        self._board = board
        self._write_env = write_env
        self._written: str | None = None
        self._reaches: Reaches = {}
        self._takeover = frozenset({setup.facts.external.name})
        self._planner = Planner(setup.backend, self._networks, setup.former, setup.facts.alias, setup.rules)
        self._masquerades = setup.rules.masquerade
        self.admissions: Callable[[], tuple[Admission, ...]] = lambda: ()
        self._desired = Desired()
        self._problems: dict[str, str] = {}

    async def desired(self, read: bool) -> Desired:
        """What we want now; `read`: the node may have changed, so ask the kernel about it again."""
        if read:
            await self._refresh()
        publics = self._planner.publics(self.leases)
        if read or not publics <= self._reaches.keys():
            self._reaches = await self._underlay.reaches(publics) if publics else {}
        self._desired = self._planner.plan(
            self._own(), self.leases, self._facts, self._reaches, self._takeover, admissions=self.admissions()
        )
        return self._desired

    async def _refresh(self) -> None:
        """Follow the MTU of the underlay; say so if our address has gone from it."""
        external = self._facts.external
        found = await self._underlay.interface(external.name)
        if found is None or found.mtu == 0:
            return
        self._facts = replace(self._facts, external=replace(external, index=found.index, steady=found.steady))
        self._follow_mtu(found.mtu)
        have = {address.ip for address in found.addresses}
        lost = [str(addr) for addr in (external.addr4, external.addr6) if addr is not None and addr not in have]
        warning = f"{', '.join(lost)} is no longer an address of {external.name}; restart flanneld to publish another"
        self._warn("is no longer an address of", warning if lost else None)

    def _follow_mtu(self, mtu: int) -> None:
        """An MTU that leaves pods too little is a slip, or on its way to another: the overlay keeps the one it has."""
        external = self._facts.external
        followed = replace(self._facts, external=replace(external, mtu=mtu))
        mark = f"MTU of {external.name} is"
        try:
            self._backend.mtu(followed)
        except ConfigError as error:
            self._warn(mark, f"{mark} {mtu}, and the overlay keeps to {external.mtu}: {error}")
            return
        self._warn(mark, None)
        if mtu != external.mtu:
            log.warning("MTU of %s changed from %d to %d: following", external.name, external.mtu, mtu)
        self._facts = followed

    def worker(self, stats: Mapping[str, Any] | None) -> None:
        """What the udp backend's worker counts goes to the board, and what it tells of peers into the warnings."""
        self._board.worker(stats)
        leases = (state.lease for state in self._planner.peers.values())
        self._warn(elsewhere.MARK, elsewhere.senders_elsewhere(stats, leases))

    def warn_of_checksums(self, warning: str | None) -> None:
        """None: there is no reason any more."""
        self._warn(checksumwatch.MARK, warning)

    def _warn(self, mark: str, text: str | None) -> None:
        """Replace the warning that contains `mark`; said in the log when it is new."""
        self._board.warn(mark, [] if text is None else [text])

    def on_pass(self, progress: Progress) -> None:
        """A pass is over: publish how it went, and subnet.env once the node's own part stands.

        KernelError: the node's own part is refused for good.
        """
        self._takeover = frozenset()
        self._say_problems()
        peers = self._planner.peers
        self._board.update(
            entries=progress.entries,
            difference=len(progress.failures),
            repaired=progress.repaired,
            failures=tuple(map(str, progress.failures.values())),
            offload=tuple(str(entry) for entry in self._desired.entries.values() if isinstance(entry, TxChecksum)),
            peers=len(peers),
            peers_unreached=len(self._problems),
        )
        blocking = [failure for failure in progress.failures.values() if self._is_blocking(failure)]
        if not blocking:
            self._board.block(None)
            self._publish()
            return
        worst = next((failure for failure in blocking if failure.cannot), None)
        if worst is not None:
            raise KernelError(f"cannot {worst.op}: {worst.reason}", hint=worst.hint, errno=worst.errno)
        self._board.block(blocking[0])

    def _is_blocking(self, failure: Failure) -> bool:
        """Without it the node has no network. A sysctl may be right to be refused: in a container the host sets it."""
        entry, leftover = failure.op.entry, failure.op.verb is Verb.DELETE
        if isinstance(entry, Sysctl | TxChecksum | Admission) or (isinstance(entry, Table) and leftover):
            return False
        return entry.key not in self._desired.owners

    def _publish(self) -> None:
        mtu, gso, own = self._backend.mtu(self._facts), self._backend.gso_max_size(self._facts), self._own()
        env = SubnetEnv.of(self._networks, own.subnets, mtu, ipmasq=self._masquerades, gso_max_size=gso)
        text = format_subnet_env(env)
        if text != self._written:
            self._write_env(text)
            self._written = text
            log.info("Wrote subnet file: %s", text.replace("\n", " ").strip())
        subnets = tuple(map(str, own.subnets))
        self._board.update(mtu=mtu, subnets=subnets, expires=own.expires, reserved=own.reserved)
        self._board.ready()

    def _say_problems(self) -> None:
        found = problems_of(self._planner.peers)
        for key, text in found.items():
            if self._problems.get(key) != text:
                log.warning("peer %s", text)
        for key in self._problems.keys() - found.keys():
            log.info("peer %s: no longer in trouble", key)
        self._problems = found

    def report(self, ops: tuple[Op, ...], rejected: tuple[str, ...], worker: Mapping[str, Any] | None) -> Report:
        """All that `flanneld status` shows. `ops`: what the kernel lacks at this moment; `worker`: its statistics."""
        differing = {op.entry.key for op in ops}
        peers = tuple(
            PeerLine(
                subnets=tuple(map(str, state.lease.subnets)),
                public=tuple(str(a) for a in (state.lease.attrs.public_ip, state.lease.attrs.public_ipv6) if a),
                path=state.path,
                missing=sum(key in differing for key in state.keys),
                problems=state.problems,
            )
            for state in self._planner.peers.values()
        )
        return Report(self._board.status, peers, tuple(map(str, ops)), rejected, worker)
