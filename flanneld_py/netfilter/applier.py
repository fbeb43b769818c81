"""The packet filter made real: the `Applier` for tables and admissions, whichever engine keeps them.

What another engine holds of ours is known too, as a table that nobody wants: so a change of engine adds the new rules,
then takes the old ones away, and needs no code of its own.
"""

import errno
import os
from collections.abc import Sequence

from flanneld_py.errors import KernelError
from flanneld_py.model.entry import Desired, Entry, Failure, Key, Op, Verb
from flanneld_py.model.net import Net
from flanneld_py.model.ruleset import Admission, Engine, Table
from flanneld_py.netfilter import nft
from flanneld_py.netfilter.chains import LegacyChains, NftChains
from flanneld_py.netfilter.foreign import Finding, NftForeign, find_legacy, unique
from flanneld_py.netfilter.iptables import Iptables, is_hidden
from flanneld_py.netfilter.legacy import has_legacy_admissions, has_legacy_chains
from flanneld_py.netfilter.programs import Programs
from flanneld_py.netfilter.socket import Change, NftSocket
from flanneld_py.netfilter.walk import Packet
from flanneld_py.netlink.wire import Refusal

_FAMILIES = (4, 6)


class PacketFilter:
    """Applies in `netns`, a path, or our own namespace if None. Close it with `close`."""

    handles: frozenset[type[Entry]] = frozenset({Table, Admission})

    def __init__(self, *, netns: str | None = None) -> None:
        self._netns = netns
        self._sock = NftSocket(netns=netns)
        self._programs = {engine: Programs(engine, netns=netns) for engine in Engine if engine is not Engine.NFT}
        legacy = self._programs[Engine.IPTABLES_LEGACY]
        self._iptables = {
            Engine.IPTABLES_NFT: Iptables(self._programs[Engine.IPTABLES_NFT], NftChains(self._sock)),
            Engine.IPTABLES_LEGACY: Iptables(legacy, LegacyChains(legacy, netns)),
        }
        self._foreign: dict[Net, list[Finding]] = {}
        self._read: dict[Key, tuple[tuple[object, ...], Table | None]] = {}

    def close(self) -> None:
        self._sock.close()

    async def known(self, desired: Desired) -> dict[Key, Entry]:
        """KernelError: the packet filter cannot be read."""
        instance = desired.scope.instance
        if instance is None:
            return {}
        wanted = [entry for entry in desired.entries.values() if isinstance(entry, Table | Admission)]
        found: dict[Key, Entry] = {**nft.known_tables(self._sock, instance)}
        found |= nft.known_admissions(self._sock, instance)
        tables = {(one.engine, one.version): one for one in wanted if isinstance(one, Table)}
        present = nft.iptables_versions(self._sock, instance)
        for version in _FAMILIES:
            table = tables.get((Engine.IPTABLES_NFT, version))
            if table is not None:
                found |= _keyed(await self._read_nft(table) if version in present else None)
            elif version in present:
                found |= _keyed(nft.leftover(Engine.IPTABLES_NFT, version, instance))
            table = tables.get((Engine.IPTABLES_LEGACY, version))
            if has_legacy_chains(version, instance, netns=self._netns):
                old = nft.leftover(Engine.IPTABLES_LEGACY, version, instance)
                found |= _keyed(old if table is None else await self._ask_program(table))
            if has_legacy_admissions(version, instance, netns=self._netns):
                found |= await self._admissions(version, instance, desired)
        return found

    def generation(self) -> int | None:
        """Another number after each change of nf_tables, and so of iptables-nft; None: there is no nf_tables."""
        return self._sock.generation()

    async def foreign(self, packets: Sequence[Packet], networks: Sequence[Net], instance: str) -> tuple[Finding, ...]:
        """The chains of others that drop any of `packets`, each of which is of one of `networks`."""
        found: list[Finding] = []
        theirs = NftForeign(self._sock, instance)
        for network in networks:
            ours = [packet for packet in packets if packet.version == network.version]
            for packet in ours:
                found += theirs.find(packet, network)
            programs = self._programs[Engine.IPTABLES_LEGACY]
            try:
                self._foreign[network] = await find_legacy(programs, ours, network, instance, netns=self._netns)
            except KernelError as err:
                if not err.errno:  # there is no program that shows it: nothing can be said of it
                    self._foreign.pop(network, None)
                # Else it cannot be shown now, and what was found last stands.
            found += self._foreign.get(network, [])
        return unique(found)

    async def apply(self, ops: Sequence[Op]) -> list[Failure]:
        failures = []
        for op in ops:
            try:
                refused = await self._apply(op)
            except KernelError as err:
                refused = Failure(op, err.message, err.errno, err.hint, cannot=err.errno in {0, errno.EPERM})
            if refused is not None:
                failures.append(refused)
        return failures

    async def _apply(self, op: Op) -> Failure | None:
        entry = op.entry
        if not isinstance(entry, Table | Admission):
            raise TypeError(entry)
        self._read.pop(entry.key, None)
        if entry.engine is Engine.IPTABLES_LEGACY:
            return await self._iptables[entry.engine].apply(op)
        if isinstance(entry, Table) and entry.engine is Engine.IPTABLES_NFT and op.verb is not Verb.DELETE:
            failure = await self._iptables[entry.engine].apply(op)
            if failure is None:
                await self._look_after(entry)
            return failure
        changes = self._changes(op)
        refusal = self._sock.commit(changes) if changes else None
        return None if refusal is None else _failure(op, refusal)

    def _changes(self, op: Op) -> list[Change]:
        match op.entry, op.verb:
            case Admission() as entry, Verb.DELETE:
                return nft.remove_admission(self._sock, entry)
            case Admission() as entry, _:
                return nft.write_admission(self._sock, entry)
            case Table(engine=Engine.NFT) as entry, Verb.DELETE:
                return nft.remove_table(self._sock, entry)
            case Table(engine=Engine.NFT) as entry, _:
                return nft.write_table(self._sock, entry)
            case Table() as entry, _:
                return nft.remove_iptables(self._sock, entry.version, entry.instance)
        raise TypeError(op.entry)

    async def _read_nft(self, table: Table) -> Table | None:
        """By iptables' own program, which knows every form of its rules; not again while the kernel's are the same."""
        digest = nft.iptables_digest(self._sock, table.version, table.instance)
        before = self._read.get(table.key)
        if before is None or before[0] != digest:
            before = (digest, await self._ask_program(table))
            if before[1] is None or not before[1].strange:
                self._read[table.key] = before
        return before[1]

    async def _ask_program(self, table: Table) -> Table | None:
        """If there is one and it cannot tell: something strange.

        So it is asked again when that is to be mended, which fails, and says why, if it has to. What else there is to
        do is done.
        """
        try:
            return await self._iptables[table.engine].read(table)
        except KernelError as err:
            if not err.errno:
                raise
            return nft.leftover(table.engine, table.version, table.instance)

    async def _look_after(self, table: Table) -> None:
        """Some iptables-nft hide our chains for good, for a rule of others in whatever chain of the table.

        Then what was written counts as read, until the kernel shows another digest.
        """
        if is_hidden(await self._read_nft(table)):
            self._read[table.key] = (nft.iptables_digest(self._sock, table.version, table.instance), table)

    async def _admissions(self, version: int, instance: str, desired: Desired) -> dict[Key, Entry]:
        found, unread = await self._iptables[Engine.IPTABLES_LEGACY].admissions(version, instance)
        # Some are there: if they are in no chain that can be read, they are in the others.
        return found | {one.key: one for one in unread if not found or one.key in desired.entries}


def _keyed(table: Table | None) -> dict[Key, Entry]:
    return {} if table is None else {table.key: table}


def _failure(op: Op, refusal: Refusal) -> Failure:
    reason = os.strerror(refusal.errno) + (f" ({refusal.text})" if refusal.text else "")
    hint = None
    if refusal.errno == errno.EPERM:
        hint = "run with CAP_NET_ADMIN in this network namespace"
    elif refusal.errno in {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOENT}:
        hint = "the kernel may lack a part of nf_tables: modprobe nf_tables, nft_chain_nat and nft_masq"
    return Failure(op, reason, refusal.errno, hint, cannot=refusal.errno == errno.EPERM)
