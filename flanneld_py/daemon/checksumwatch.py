"""Datagrams that come in with a wrong checksum: the sign, at the far side, of a sender whose offload breaks them."""

import asyncio
from collections.abc import Callable
from typing import NoReturn

EVERY_S = 60.0
FORGET_AFTER = 10
"""Looks without another one."""
FEW = 10
"""So many between two looks may be anybody's noise."""
MARK = "a wrong checksum"
"""In every warning, by which a newer one replaces it."""


async def follow_checksums(
    count: Callable[[], int], warn: Callable[[str | None], None], *, every_s: float = EVERY_S
) -> NoReturn:
    """Warn while the count grows, for ever. What was counted before the first look is no news."""
    before, quiet = count(), 0
    while True:
        await asyncio.sleep(every_s)
        now = count()
        grown, before = now - before, now
        if grown >= FEW:
            quiet = 0
            warn(_warning(grown, every_s))
            continue
        quiet += 1
        if quiet == FORGET_AFTER:
            warn(None)


def _warning(grown: int, every_s: float) -> str:
    return (
        f"{grown} UDP datagrams were dropped in {every_s:.0f} s for {MARK}: if peers sent them, set TxChecksum to off "
        "in the Backend of the network config"
    )
