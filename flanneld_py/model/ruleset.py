"""Packet filter rules as values: one desired state, which nft and iptables render each in its own way.

A `Table` holds all that we want of one address family from one engine. It is an entry like a route: compared whole, and
replaced whole in one transaction.
"""

from dataclasses import dataclass
from enum import Enum

from flanneld_py.model.net import Net


class Engine(Enum):
    """Who keeps the rules. The two kinds of iptables do not see each other's rules, and the kernel applies both."""

    NFT = "nft"
    IPTABLES_NFT = "iptables-nft"
    IPTABLES_LEGACY = "iptables-legacy"


class Hook(Enum):
    """Where a chain is called from. What may be done there follows: addresses are translated in POSTROUTING only."""

    POSTROUTING = "postrouting"
    FORWARD = "forward"


class Verdict(Enum):
    ACCEPT = "accept"
    RETURN = "return"


@dataclass(frozen=True, slots=True)
class Masquerade:
    """The packet leaves with the address of the interface that it leaves through, and perhaps a random source port."""

    fully_random: bool = True

    def __str__(self) -> str:
        return "masquerade fully-random" if self.fully_random else "masquerade"


@dataclass(frozen=True, slots=True)
class Mark:
    """The packet's mark, of the bits in `mask`, equals `value`."""

    value: int
    mask: int

    def __str__(self) -> str:
        return f"mark {self.value:#x}/{self.mask:#x}"


@dataclass(frozen=True, slots=True)
class Source:
    net: Net
    negated: bool = False

    def __str__(self) -> str:
        return f"saddr {'!= ' if self.negated else ''}{self.net}"


@dataclass(frozen=True, slots=True)
class Destination:
    net: Net
    negated: bool = False

    def __str__(self) -> str:
        return f"daddr {'!= ' if self.negated else ''}{self.net}"


@dataclass(frozen=True, slots=True)
class Unknown:
    """Something read from the kernel that no rule of ours has, in whatever words the reader has for it."""

    text: str

    def __str__(self) -> str:
        return f"({self.text})"


Match = Mark | Source | Destination | Unknown


@dataclass(frozen=True, slots=True)
class Rule:
    matches: tuple[Match, ...]
    verdict: Verdict | Masquerade | Unknown

    def __str__(self) -> str:
        verdict = self.verdict.value if isinstance(self.verdict, Verdict) else str(self.verdict)
        return " ".join((*map(str, self.matches), verdict))


@dataclass(frozen=True, slots=True)
class Chain:
    """`hook` None: it is there, but nothing calls it, or not exactly once."""

    hook: Hook | None
    rules: tuple[Rule, ...]

    def __str__(self) -> str:
        where = "nowhere" if self.hook is None else self.hook.value
        return f"{where} {len(self.rules)} rule{'' if len(self.rules) == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class Table:
    """Our rules for one family. `instance` tells the daemons of one host apart; "" is the usual single one.

    `strange`: something else is in what is ours, in a table read from the kernel.
    """

    engine: Engine
    version: int
    instance: str
    chains: tuple[Chain, ...]
    strange: bool = False

    @property
    def key(self) -> tuple[str, ...]:
        return ("table", self.engine.value, str(self.version), self.instance)

    @property
    def dev(self) -> None:
        """A table is on no device."""
        return

    def __str__(self) -> str:
        inside = ", ".join(map(str, self.chains)) or "nothing"
        return f"{self.engine.value} rules for IPv{self.version} ({inside})"


@dataclass(frozen=True, slots=True)
class Admission:
    """Rules at the head of somebody else's chain that accept what comes from and goes to `networks`.

    `engine` NFT is not among those: only iptables has chains that are made for the rules of others.
    """

    engine: Engine
    version: int
    table: str
    chain: str
    networks: tuple[Net, ...]
    instance: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        return ("admission", self.engine.value, str(self.version), self.table, self.chain, self.instance)

    @property
    def dev(self) -> None:
        """An admission is on no device."""
        return

    def __str__(self) -> str:
        nets = " ".join(map(str, self.networks)) or "nothing"
        return f"acceptance of {nets} in the {self.engine.value} chain {self.chain} for IPv{self.version}"
