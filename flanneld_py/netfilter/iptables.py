"""Rules of ours in one kind of iptables, written by its own programs: what they write stands among others' rules."""

import errno
from typing import Protocol

from flanneld_py.errors import KernelError
from flanneld_py.model.entry import Entry, Failure, Key, Op, Verb
from flanneld_py.model.ruleset import Admission, Engine, Hook, Table, Unknown
from flanneld_py.netfilter.iptablestext import (
    Saved,
    format_admission,
    format_table,
    parse_saved,
    read_admissions,
    read_table,
)
from flanneld_py.netfilter.names import ADMITTING, IPTABLES_BASE, iptables_chain
from flanneld_py.netfilter.programs import Outcome, Programs

_OTHER_PROBLEM = 1
"""Exit code of `iptables -S` for a chain that is not there, or has a rule that iptables cannot show (xtables.h)."""
_BASES = frozenset(base for _, base in IPTABLES_BASE.values())
_NOT_SHOWN = "not-shown"
"""Stands for the rules of a chain of ours of which iptables shows none, since one of them is not its own."""
_NO_TABLE = "do you need to insmod"
"""iptables-legacy of a table that the kernel does not have: then there are no chains in it."""


class Chains(Protocol):
    """What can be told of chains of which iptables' programs show no rule."""

    def has_chain(self, version: int, table: str, chain: str) -> bool: ...

    async def jumps(self, version: int, hook: Hook, chain: str, why: str) -> list[str]:
        """The rules of the hook's own chain that lead to `chain`, as `-A` lines.

        KernelError: they cannot be told here either, and iptables cannot show them, which is `why`.
        """
        ...


class Iptables:
    """KernelError from every method: there is no program, it hangs, or it cannot tell what is there."""

    def __init__(self, programs: Programs, chains: Chains) -> None:
        self._programs = programs
        self._chains = chains

    async def read(self, table: Table) -> Table | None:
        """Ours as it is, for a table that we want; None: there is nothing of it."""
        return read_table(await self._saved(table), table)

    async def admissions(self, version: int, instance: str) -> tuple[dict[Key, Entry], list[Admission]]:
        """Ours in chains of others, as they are; and one without networks for each chain that cannot be read now."""
        found: dict[Key, Entry] = {}
        unread = []
        for chain in ADMITTING:
            try:
                saved = {"filter": await self._list(version, "filter", chain)}
            except KernelError:
                unread.append(Admission(self._programs.engine, version, "filter", chain, (), instance))
            else:
                found |= {one.key: one for one in read_admissions(saved, self._programs.engine, version, instance)}
        return found, unread

    async def apply(self, op: Op) -> Failure | None:
        entry = op.entry
        if not isinstance(entry, Table | Admission):
            raise TypeError(entry)
        if isinstance(entry, Table):
            saved = await self._saved(entry)
            wanted = Table(entry.engine, entry.version, entry.instance, () if op.verb is Verb.DELETE else entry.chains)
            text = format_table(wanted, saved)
        else:
            lines = await self._list(entry.version, entry.table, entry.chain)
            text = format_admission(entry, {entry.table: lines}, delete=op.verb is Verb.DELETE)
        if not text:
            return None
        done = await self._programs.restore(entry.version, text)
        return None if done.code == 0 else failed(op, done)

    async def _saved(self, table: Table) -> Saved:
        """Only our chains and those that call them: others may hold a hundred thousand rules."""
        saved: Saved = {}
        for hook, (name, _) in IPTABLES_BASE.items():
            chain = iptables_chain(hook, table.instance)
            saved[name] = await self._ours(table.version, name, chain)
            if saved[name]:  # else nothing can jump to it, and what others have there does not matter
                saved[name] += await self._callers(table.version, hook, chain)
        return saved

    async def _ours(self, version: int, table: str, chain: str) -> list[str]:
        done = await self._programs.list(version, table, chain)
        if done.code == _OTHER_PROBLEM and self._chains.has_chain(version, table, chain):
            return [f":{chain} - [0:0]", f"-A {chain} -j {_NOT_SHOWN}"]
        return self._lines(done, absent=done.code == _OTHER_PROBLEM)

    async def _callers(self, version: int, hook: Hook, chain: str) -> list[str]:
        """The hook's own chain; if iptables cannot show it, no more than what leads to `chain`."""
        done = await self._programs.list(version, *IPTABLES_BASE[hook])
        if done.code == _OTHER_PROBLEM:
            return await self._chains.jumps(version, hook, chain, done.reason)
        return self._lines(done, absent=False)

    async def _list(self, version: int, table: str, chain: str) -> list[str]:
        """A chain of others."""
        done = await self._programs.list(version, table, chain)
        fails = done.code == _OTHER_PROBLEM
        absent = fails and chain not in _BASES and not self._chains.has_chain(version, table, chain)
        return self._lines(done, absent=absent)

    def _lines(self, done: Outcome, *, absent: bool) -> list[str]:
        """No lines for a chain that is not there, and for nothing else: what was not read would be added once more."""
        if absent or _NO_TABLE in done.err:
            return []
        if done.code != 0:
            raise _unread(self._programs.engine, done)
        return parse_saved(done.out).get("", [])


def is_hidden(table: Table | None) -> bool:
    """Whether iptables shows none of the rules of a chain in what was read."""
    rules = () if table is None else (rule for chain in table.chains for rule in chain.rules)
    return any(rule.verdict == Unknown(_NOT_SHOWN) for rule in rules)


def failed(op: Op, done: Outcome) -> Failure:
    """The Failure for a program that did not do what was asked of it."""
    hint, code = _mend(done)
    return Failure(op, done.reason, hint=hint, cannot=code == errno.EPERM)


async def read_filter(programs: Programs, version: int) -> Saved:
    """All of the table filter. KernelError as from `Iptables`."""
    done = await programs.save(version, "filter")
    if done.code != 0:
        raise _unread(programs.engine, done)
    return parse_saved(done.out)


def _unread(engine: Engine, done: Outcome) -> KernelError:
    hint, code = _mend(done)
    return KernelError(f"cannot read the rules of {engine.value}: {done.reason}", hint=hint, errno=code)


def _mend(done: Outcome) -> tuple[str | None, int]:
    """What helps, and the kind of trouble: EPERM stays as it is, EAGAIN may have passed the next time."""
    if "lock file" in done.err:
        return "let the daemon write /run/xtables.lock, the lock of every iptables of the host", errno.EAGAIN
    if "xtables lock" in done.err:
        return "another program holds the lock /run/xtables.lock for long: see fuser /run/xtables.lock", errno.EAGAIN
    if "ermission denied" in done.err or "you must be root" in done.err:
        return "run with CAP_NET_ADMIN in this network namespace", errno.EPERM
    if "can't initialize" in done.err or "not supported" in done.err:
        mend = "modprobe ip_tables, nf_tables and nft_compat, or use another --packet-filter"
        return f"the kernel lacks it: {mend}", errno.EOPNOTSUPP
    return None, errno.EAGAIN
