"""What the kernel does for the userspace data path, as a value: probed once, and withdrawn when it turns out wrong."""

import re
from dataclasses import dataclass

_UDP_GRO_SINCE = (5, 12)


@dataclass(frozen=True, slots=True)
class Offload:
    """`tso`, `uso`: super-packets of TCP and UDP from and to the TUN device. `gso`: UDP_SEGMENT. `gro`: UDP_GRO."""

    tso: bool = True
    uso: bool = True
    gso: bool = True
    gro: bool = True

    def __and__(self, other: "Offload") -> "Offload":
        """What both have: what was asked for, of what there is."""
        return Offload(self.tso & other.tso, self.uso & other.uso, self.gso & other.gso, self.gro & other.gro)

    def __str__(self) -> str:
        names = [name for name in self.__slots__ if getattr(self, name)]
        return "+".join(names) or "none"


NO_OFFLOAD = Offload(tso=False, uso=False, gso=False, gro=False)


def kernel_version(release: str) -> tuple[int, int]:
    """(major, minor) of a `uname -r`; (0, 0) if it does not begin with them."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def gro_is_right(release: str) -> bool:
    """UDP_GRO exists since 5.0, but hands over wrong trains before 5.12, which no probe can tell."""
    return kernel_version(release) >= _UDP_GRO_SINCE
