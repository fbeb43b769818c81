"""A node's own lease in etcd: taking it, renewing it, giving it back.

Every write is a transaction on what was read before, so that of two nodes at most one gets a subnet, and a lease that
was lost is noticed instead of written over. The key, and our record of who holds it, hang on one etcd lease: they come
and go together.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from random import Random

from flanneld_py.errors import AccessDenied, DuplicatePublicIP, LeaseLost, StoreError, SubnetTaken
from flanneld_py.etcd.client import EtcdClient, Grant
from flanneld_py.etcd.verdict import CallError
from flanneld_py.etcd.wire import Delete, Find, Guard, KeyValue, Put, TxnOp, TxnResult, prefix_end
from flanneld_py.model.allocate import choose_subnets, share_used
from flanneld_py.model.backoff import Backoff
from flanneld_py.model.lease import Lease, LeaseAttrs, NodeIdentity
from flanneld_py.model.net import Net, Subnets, overlaps
from flanneld_py.store.base import LeaseRequest
from flanneld_py.store.conditions import Conditions
from flanneld_py.store.etcd_keys import Keys, shown
from flanneld_py.store.etcd_view import Held, LeaseReader, View, same_node
from flanneld_py.store.lease_codec import encode_attrs, encode_identity

_log = logging.getLogger(__name__)

_COURTESY_S = 1.0
"""How long tidying up may take when nothing depends on it."""
_DENIED_WAIT_S = 5.0
_NEARLY_FULL = 0.8


class LeaseHolder:
    """`rng` picks subnets and spreads retries; `clock` gives Unix seconds."""

    def __init__(
        self,
        client: EtcdClient,
        keys: Keys,
        reader: LeaseReader,
        conditions: Conditions,
        *,
        ttl_s: int,
        rng: Random,
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._keys = keys
        self._reader = reader
        self._conditions = conditions
        self._ttl_s = ttl_s
        self._rng = rng
        self._clock = clock
        self._identity: NodeIdentity | None = None
        self._said_ipv6_only = False

    async def stored(self, attrs: LeaseAttrs) -> LeaseAttrs | None:
        view = await self._view()
        return next((held.lease.attrs for held in view.held if same_node(attrs, held.lease.attrs)), None)

    async def acquire(self, request: LeaseRequest) -> Lease:
        self._identity = request.identity
        backoff = Backoff(0.02, 1.0, self._rng)
        while True:
            try:
                return await self._acquire_once(request)
            except SubnetTaken as error:
                _log.info("%s; choosing again", error)
            await asyncio.sleep(backoff.next_s())

    async def _acquire_once(self, request: LeaseRequest) -> Lease:
        view = await self._view()
        mine = [held for held in view.held if same_node(request.attrs, held.lease.attrs)]
        self._refuse_duplicate(mine, request.identity)
        self._warn_of_mixing(view, request)
        chosen = _choose_held(mine, request)
        given_up: list[Held] = []
        for held in mine:
            if held is chosen:
                continue
            if held.lease.reserved:
                _log.warning(
                    "reservation %s for this node is not used, it does not fit the network configuration or another "
                    "one does too; this node takes another subnet; delete it: etcdctl del %s",
                    held.lease,
                    shown(held.kv.key),
                )
            else:
                await self._give_up(held)
                given_up.append(held)
        if chosen is not None:
            return await self._reuse(chosen, request)
        free_again = {net for held in given_up for net in held.lease.subnets}
        taken = [net for net in view.taken if net not in free_again]
        subnets = choose_subnets(request.config, taken, request.previous, self._rng)
        _warn_if_nearly_full(request, (*taken, *subnets))
        return await self._create(subnets, request, view.revision)

    def _refuse_duplicate(self, mine: Sequence[Held], identity: NodeIdentity) -> None:
        for held in mine:
            if held.writer is not None and held.writer.machine != identity.machine:
                raise DuplicatePublicIP(
                    f"host {held.writer.host_name!r} holds the lease {held.lease} under our public address, "
                    f"etcd key {shown(held.kv.key)}",
                    hint="give this node another one (--public-ip, --iface); if that host is gone for good, "
                    f"etcdctl del {shown(self._keys.node(held.lease.subnets))}",
                )

    def _warn_of_mixing(self, view: View, request: LeaseRequest) -> None:
        if self._said_ipv6_only or request.config.family(4) is not None:
            return
        self._said_ipv6_only = True
        others = ", ".join(str(held.lease) for held in view.held if held.writer is None and not held.lease.reserved)
        _log.warning(
            "this network is IPv6 alone: Go flannel nodes cannot share it through etcd, since they know a node by its "
            "IPv4 address and would take over each other's leases and ours%s",
            f"; leases that no node of ours wrote: {others}" if others else "",
        )

    async def _reuse(self, held: Held, request: LeaseRequest) -> Lease:
        """Our lease again, under a new etcd lease, with what we publish now; a reservation stays one."""
        if held.lease.reserved:
            if held.kv.value != encode_attrs(request.attrs) or held.writer != request.identity:
                await self._write(held.kv, held.lease.subnets, request.attrs, None)
            _log.info("lease %s: reservation taken", held.lease)
            return Lease(held.lease.subnets, request.attrs, reserved=True)
        lease = await self._write_granted(held.kv, held.lease.subnets, request.attrs)
        _log.info("lease %s: taken again", lease)
        return lease

    async def _write_granted(self, kv: KeyValue, subnets: Subnets, attrs: LeaseAttrs) -> Lease:
        async with self._granted(ours=True) as (grant, expires):
            await self._write(kv, subnets, attrs, grant)
        await self._drop(kv.lease)
        return Lease(subnets, attrs, expires=expires)

    async def _write(self, kv: KeyValue, subnets: Subnets, attrs: LeaseAttrs, grant: Grant | None) -> None:
        """Put key and record anew if the key is still as `kv`. Raises SubnetTaken if not."""
        value = encode_attrs(attrs)
        puts = self._puts(subnets, value, grant)
        result = await self._txn([Guard(kv.key, kv.mod_revision)], puts, [Find(kv.key)])
        if not result.succeeded and not _wrote(result.found[0], value, grant):
            raise SubnetTaken(f"etcd key {shown(kv.key)} was changed while we took it")

    async def _create(self, subnets: Subnets, request: LeaseRequest, revision: int) -> Lease:
        """A new lease, if no other that overlaps it was created since `revision`. Raises SubnetTaken."""
        key, value = self._keys.subnet(subnets), encode_attrs(request.attrs)
        since = Find(self._keys.subnets, prefix_end(self._keys.subnets), created_from=revision + 1, keys_only=True)
        async with self._granted(ours=False) as (grant, expires):
            puts = self._puts(subnets, value, grant)
            result = await self._txn([Guard(key, 0)], [*puts, since], [Find(key), since])
            if not result.succeeded and not _wrote(result.found[0], value, grant):
                raise SubnetTaken(f"another node leased {shown(key)} first")
            if rival := self._older_rival(key, subnets, result.found[-1]):
                await self._client.revoke(grant.id)  # for as long as it takes: what overlaps must not stay
                raise SubnetTaken(f"another node leased {shown(rival)} first, which overlaps {shown(key)}")
        lease = Lease(subnets, request.attrs, expires=expires)
        _log.info("lease %s: new", lease)
        return lease

    def _older_rival(self, key: bytes, subnets: Subnets, created: Sequence[KeyValue]) -> bytes | None:
        """Keys of subnets that overlap may differ (10.5.1.0-24, 10.5.1.0-24&fd00::-64): the later one yields."""
        own = next((kv.create_revision for kv in created if kv.key == key), 0)
        for kv in created:
            rivals = self._keys.touched_by(kv.key) if kv.create_revision < own else ()
            if any(overlaps(net, rival) for net in subnets for rival in rivals):
                return kv.key
        return None

    def _puts(self, subnets: Subnets, value: bytes, grant: Grant | None) -> list[TxnOp]:
        lease = grant.id if grant is not None else 0
        puts: list[TxnOp] = [Put(self._keys.subnet(subnets), value, lease)]
        if self._identity is not None:
            puts.append(Put(self._keys.node(subnets), encode_identity(self._identity), lease))
        return puts

    async def _give_up(self, held: Held) -> None:
        """Delete a lease of ours that we do not use, unless somebody has changed it."""
        _log.info("lease %s: given up, it does not fit the network configuration or is one too many", held.lease)
        deletes = [Delete(held.kv.key), Delete(self._keys.node(held.lease.subnets))]
        await self._txn([Guard(held.kv.key, held.kv.mod_revision)], deletes)
        await self._drop(held.kv.lease)

    async def renew(self, lease: Lease) -> Lease:
        backoff = Backoff(0.1, _DENIED_WAIT_S, self._rng)
        while True:
            try:
                held = await self._own(lease)
                if held.lease.reserved:
                    _log.info("lease %s: has become a reservation", lease)
                    return Lease(lease.subnets, lease.attrs, reserved=True)
                renewed = await self._write_granted(held.kv, lease.subnets, lease.attrs)
            except SubnetTaken as error:
                _log.info("lease %s: not renewed yet: %s", lease, error)
            except AccessDenied as error:
                self._conditions.denied("renew", error)
            else:
                self._conditions.denied("renew", None)
                _log.info("lease %s: renewed", lease)
                return renewed
            await asyncio.sleep(backoff.next_s())

    async def _own(self, lease: Lease) -> Held:
        """Our lease as it is in etcd now. Raises LeaseLost if it is gone or another's."""
        key = self._keys.subnet(lease.subnets)
        found = (await self._txn([], [Find(key), Find(self._keys.node(lease.subnets))])).found
        if not found[0]:
            raise LeaseLost(f"our lease {lease} is gone from etcd, key {shown(key)}")
        view = self._reader.view(found[0], found[1], 0)
        if not view.held:
            raise LeaseLost(f"our lease {lease} was overwritten in etcd, key {shown(key)}")
        held = view.held[0]
        if not same_node(lease.attrs, held.lease.attrs):
            raise LeaseLost(f"our lease {lease} is another node's now: {held.lease}, etcd key {shown(key)}")
        if held.writer and self._identity and held.writer.machine != self._identity.machine:
            raise LeaseLost(
                f"our lease {lease} is now held by host {held.writer.host_name!r} under our public address",
                hint="give one of the two another one (--public-ip, --iface)",
            )
        return held

    async def release(self, lease: Lease) -> None:
        if lease.reserved:
            return
        try:
            async with asyncio.timeout(_COURTESY_S):
                held = await self._own(lease)
                if held.lease.reserved:
                    return
                deletes = [Delete(held.kv.key), Delete(self._keys.node(lease.subnets))]
                await self._client.txn([Guard(held.kv.key, held.kv.mod_revision)], deletes)
                await self._drop(held.kv.lease)
        except LeaseLost as error:
            _log.info("lease %s: nothing to release: %s", lease, error)
        except (TimeoutError, StoreError) as error:
            _log.warning("lease %s: not released, it will expire: %s", lease, str(error) or "etcd does not answer")

    async def _view(self) -> View:
        while True:
            leases = await self._client.list(self._keys.subnets)
            try:
                records = await self._client.list(self._keys.nodes, revision=leases.revision)
            except CallError as error:
                if "compacted" not in error.details:
                    raise
            else:
                return self._reader.view(leases.kvs, records.kvs, leases.revision)

    @asynccontextmanager
    async def _granted(self, *, ours: bool) -> AsyncIterator[tuple[Grant, float]]:
        """A new etcd lease and when it expires; revoked, with all keys on it, if what is done with it fails.

        `ours`: it is for a key that we have. Who is cancelled then cannot know where that key hangs now, and must not
        lose it: an etcd lease that stays without a key lapses by itself.
        """
        asked = self._clock()
        grant = await self._client.grant(self._ttl_s)
        try:
            yield grant, asked + grant.ttl_s
        except BaseException as error:
            if not (ours and isinstance(error, asyncio.CancelledError)):
                with suppress(TimeoutError, StoreError):
                    async with asyncio.timeout(_COURTESY_S):
                        await self._client.revoke(grant.id)
            raise

    async def _txn(self, guards: Sequence[Guard], then: Sequence[TxnOp], otherwise: Sequence[TxnOp] = ()) -> TxnResult:
        try:
            return await self._client.txn(guards, then, otherwise)
        except CallError as error:
            if "lease not found" in error.details:
                raise SubnetTaken("the etcd lease expired before the key was written") from None
            raise

    async def _drop(self, lease: int) -> None:
        """Revoke an etcd lease that we left, if no key hangs on it; else, or without an answer, it lapses by itself."""
        with suppress(TimeoutError, StoreError):
            async with asyncio.timeout(_COURTESY_S):
                if lease and await self._client.keys_on(lease) == ():
                    await self._client.revoke(lease)


def _choose_held(mine: Sequence[Held], request: LeaseRequest) -> Held | None:
    """Which of our leases we keep: one that fits the configuration, a reservation first, then what we had before."""
    fitting = [held for held in mine if request.config.fits(held.lease.subnets)]
    return min(fitting, key=lambda h: (not h.lease.reserved, h.lease.subnets != request.previous), default=None)


def _warn_if_nearly_full(request: LeaseRequest, taken: Sequence[Net]) -> None:
    for family in request.config.families:
        used = share_used(family, taken)
        if used >= _NEARLY_FULL:
            _log.warning(
                "%d %% of the %d subnets of %s are leased; leases of nodes that are gone expire within a day, "
                "or delete them, or widen Network",
                used * 100,
                family.subnet_count,
                family.network,
            )


def _wrote(found: Sequence[KeyValue], value: bytes, grant: Grant | None) -> bool:
    """Whether a transaction failed only because its first try, whose answer was lost, had succeeded."""
    lease = grant.id if grant is not None else 0
    return any(kv.value == value and kv.lease == lease for kv in found)
