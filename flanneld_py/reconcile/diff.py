"""What must be done so that what is there becomes what is wanted. Pure, and the only place that decides it."""

from collections.abc import Mapping

from flanneld_py.model.entry import APPLY_ORDER, Entry, Key, Link, LinkUp, Op, Sysctl, TxChecksum, UdpWorker, Verb

_RANK = {kind: rank for rank, kind in enumerate(APPLY_ORDER)}


def diff(desired: Mapping[Key, Entry], known: Mapping[Key, Entry]) -> tuple[Op, ...]:
    """Ops that turn `known` into `desired`, in an order in which the kernel takes them and traffic flows on.

    Adds and changes come first and in APPLY_ORDER, so that a route moves to its new device before the old one goes;
    deletes follow in the reverse order. A device that must be made anew takes everything on it along, and a deleted
    device needs no deletes for what was on it, but for the worker, which holds it open.
    """
    remade = {key[1] for key, entry in desired.items() if isinstance(entry, Link) and _is_remade(entry, known.get(key))}
    dropped = {key[1] for key, entry in known.items() if isinstance(entry, Link) and key not in desired}
    wanted = []
    for key, entry in desired.items():
        old = known.get(key)
        if (old is entry or old == entry) and entry.dev not in remade:
            continue
        wanted.append(Op(_verb(entry, old, remade), entry))
    unwanted = [
        Op(Verb.DELETE, entry)
        for key, entry in known.items()
        if key not in desired
        and not isinstance(entry, LinkUp | Sysctl | TxChecksum)
        and (isinstance(entry, Link | UdpWorker) or entry.dev not in remade | dropped)
    ]
    wanted.sort(key=lambda op: _RANK[type(op.entry)])
    unwanted.sort(key=lambda op: -_RANK[type(op.entry)])
    return (*wanted, *unwanted)


def _is_remade(entry: Link, old: Entry | None) -> bool:
    return not isinstance(old, Link) or entry.must_recreate(old)


def _verb(entry: Entry, old: Entry | None, remade: set[str]) -> Verb:
    if isinstance(entry, Link) and isinstance(old, Link):
        return Verb.RECREATE if entry.must_recreate(old) else Verb.CHANGE
    return Verb.ADD if old is None or old.dev in remade else Verb.CHANGE


def after(known: Mapping[Key, Entry], ops: tuple[Op, ...]) -> dict[Key, Entry]:
    """What is there once `ops` have taken effect: the kernel's own rules, as a value."""
    state = dict(known)
    for op in ops:
        if isinstance(op.entry, Link) and op.verb is not Verb.CHANGE:
            state = {key: entry for key, entry in state.items() if entry.dev != op.entry.name}
        if op.verb is Verb.DELETE:
            state.pop(op.entry.key, None)
        else:
            state[op.entry.key] = op.entry
    return state
