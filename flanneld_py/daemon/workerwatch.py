"""What the udp backend's worker counts, put on the board from time to time; and what of it calls for another look."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

EVERY_S = 10.0
NOT_YET_S = 1.0
"""While there is no worker."""

Stats = Mapping[str, Any]


async def follow_worker(
    stats: Callable[[], Awaitable[Stats | None]],
    publish: Callable[[Stats | None], None],
    look_again: Callable[[], None],
    *,
    every_s: float = EVERY_S,
    not_yet_s: float = NOT_YET_S,
) -> None:
    """Publish the worker's statistics, for ever.

    The kernel learns in silence that a way has become narrower (ICMP); what it then refuses of the worker is the sign.
    """
    refused: int | None = None
    while True:
        found = await stats()
        publish(found)
        if found is not None:
            before, refused = refused, _refused(found)
            if before is not None and refused > before:
                look_again()
        await asyncio.sleep(not_yet_s if found is None else every_s)


def _refused(stats: Stats) -> int:
    """How often a packet or a train was too big for its way."""
    outbound = stats["outbound"]
    return int(outbound["replayed"]) + int(outbound["drops"].get("too_big", 0))
