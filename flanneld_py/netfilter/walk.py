"""What becomes of a packet in the chains of others: a walk through their rules, as the kernel takes it. Sans-I/O.

An accept ends the walk through one base chain only; a drop in any of them is the end. So rules of ours cannot let a
packet pass that a foreign chain drops, and all that is left is to name that chain.

What a rule looks at may not be known of an ordinary packet (ports, sets, counters). Such a rule is taken not to match,
and remembered: where it would have accepted, the verdict is not certain.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Generic, TypeVar

_DEPTH = 16  # NFT_JUMP_STACK_SIZE

R = TypeVar("R")
DROP, ACCEPT, JUMP, GOTO, RETURN = "drop", "accept", "jump", "goto", "return"
Verdict = tuple[str, str]
"""One of the above, and the chain that is jumped to."""
Judged = tuple[bool | None, Verdict | None]
"""Whether a rule matches (None: who knows), and its verdict (None: it has none that ends or calls)."""


@dataclass(frozen=True, slots=True)
class Packet:
    """The first of a connection, with names of the interfaces between which it passes."""

    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    iif: str
    oif: str

    @property
    def version(self) -> int:
        return self.source.version


@dataclass(frozen=True, slots=True)
class Fate:
    """`dropped`: it goes no further, by a rule of the chain `by` or, if that is None, by the base chain's policy.

    `certain`: no rule on the way could have said otherwise.
    """

    dropped: bool
    by: str | None = None
    certain: bool = True


class Walk(Generic[R]):
    """`rules`: those of a chain by its name, of one table; `judge`: what a rule does with the packet."""

    def __init__(self, rules: Callable[[str], Sequence[R] | None], judge: Callable[[R], Judged]) -> None:
        self._rules = rules
        self._judge = judge
        self._doubtful = False

    def through(self, chain: str, *, drops_by_policy: bool) -> Fate:
        """The fate of the packet in the base chain."""
        self._doubtful = False
        end = self._chain(chain, 0)
        if end is None:
            return Fate(drops_by_policy, certain=not self._doubtful)
        verdict, by = end
        return Fate(verdict == DROP, by, not self._doubtful)

    def _chain(self, name: str, depth: int) -> tuple[str, str] | None:
        """A verdict that ends the walk, and the chain that has it; None: the calling chain goes on."""
        if depth > _DEPTH:
            return None
        for rule in self._rules(name) or ():
            matches, verdict = self._judge(rule)
            if verdict is None or matches is False:
                continue
            code, target = verdict
            if matches is None:
                self._doubtful = self._doubtful or code != DROP
            elif code == RETURN:
                return None
            elif code in (JUMP, GOTO):
                end = self._chain(target, depth + 1)
                if end is not None or code == GOTO:
                    return end
            else:
                return code, name
        return None
