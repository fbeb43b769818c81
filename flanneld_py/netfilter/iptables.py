"""Rules of ours in one kind of iptables, written by its own programs: what they write stands among others' rules."""

from flanneld_py.model.entry import Entry, Failure, Key, Op, Verb
from flanneld_py.model.ruleset import Admission, Table
from flanneld_py.netfilter.iptablestext import (
    Saved,
    format_admission,
    format_table,
    parse_saved,
    read_admissions,
    read_table,
)
from flanneld_py.netfilter.names import IPTABLES_BASE, iptables_chain
from flanneld_py.netfilter.programs import Outcome, Programs

_LOCKED = 4
"""Exit code of iptables for a lock that somebody holds (xshared.h RESOURCE_PROBLEM)."""


class Iptables:
    """KernelError from every method: there is no program, or it hangs."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs

    async def read(self, table: Table) -> Table | None:
        """Ours as it is, for a table that we want; None: there is nothing of it."""
        return read_table(await self._saved(table), table)

    async def admissions(self, version: int, instance: str) -> dict[Key, Entry]:
        """Ours in chains of others, as they are."""
        done = await self._programs.save(version, "filter")
        found = read_admissions(parse_saved(done.out), self._programs.engine, version, instance)
        return {entry.key: entry for entry in found}

    async def apply(self, op: Op) -> Failure | None:
        entry = op.entry
        if not isinstance(entry, Table | Admission):
            raise TypeError(entry)
        if isinstance(entry, Table):
            saved = await self._saved(entry)
            wanted = Table(entry.engine, entry.version, entry.instance, () if op.verb is Verb.DELETE else entry.chains)
            text = format_table(wanted, saved)
        else:
            done = await self._programs.list(entry.version, entry.table, entry.chain)
            text = format_admission(
                entry, {entry.table: parse_saved(done.out).get("", [])}, delete=op.verb is Verb.DELETE
            )
        if not text:
            return None
        done = await self._programs.restore(entry.version, text)
        return None if done.code == 0 else failed(op, done)

    async def _saved(self, table: Table) -> Saved:
        """Only our chains and those that call them: others may hold a hundred thousand rules."""
        saved: Saved = {}
        for hook, (name, base) in IPTABLES_BASE.items():
            lines = saved.setdefault(name, [])
            for chain in (iptables_chain(hook, table.instance), base):
                done = await self._programs.list(table.version, name, chain)
                if done.code == 0:
                    lines += parse_saved(done.out).get("", [])
        return saved


def failed(op: Op, done: Outcome) -> Failure:
    """The Failure for a program that did not do what was asked of it."""
    hint, cannot = None, False
    if done.code == _LOCKED or "xtables lock" in done.err:
        hint = "another program holds the lock /run/xtables.lock for long: see fuser /run/xtables.lock"
    elif "ermission denied" in done.err or "you must be root" in done.err:
        hint, cannot = "run with CAP_NET_ADMIN in this network namespace", True
    elif "can't initialize" in done.err or "not supported" in done.err:
        hint = "the kernel lacks it: modprobe ip_tables, nf_tables and nft_compat, or use another --packet-filter"
    return Failure(op, done.reason, hint=hint, cannot=cannot)
