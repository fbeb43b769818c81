import asyncio
from collections.abc import Mapping
from typing import Any

from flanneld_py.daemon.workerwatch import follow_worker


def stats(replayed: int = 0, too_big: int = 0) -> dict[str, Any]:
    return {"outbound": {"replayed": replayed, "drops": {"too_big": too_big} if too_big else {}}}


async def looks_after(*found: dict[str, Any] | None) -> tuple[list[Mapping[str, Any] | None], list[int]]:
    """What is published of these statistics, and after how many of them the kernel was looked at again."""
    left = list(found)
    published: list[Mapping[str, Any] | None] = []
    looks: list[int] = []

    async def ask() -> dict[str, Any] | None:
        if not left:
            raise EOFError
        return left.pop(0)

    try:
        await follow_worker(ask, published.append, lambda: looks.append(len(published)), every_s=0, not_yet_s=0)
    except EOFError:
        return published, looks
    raise AssertionError("it ended")


def test_all_is_published_and_nothing_else_happens_while_nothing_is_refused() -> None:
    given = (stats(), stats(), None, stats())
    assert asyncio.run(looks_after(*given)) == (list(given), [])


def test_what_a_worker_had_refused_before_the_daemon_came_is_no_news() -> None:
    assert asyncio.run(looks_after(stats(7, 3), stats(7, 3)))[1] == []


def test_a_refused_train_or_packet_is_a_reason_to_look_again() -> None:
    assert asyncio.run(looks_after(stats(), stats(1), stats(1), stats(1, 5), stats(1, 5)))[1] == [2, 4]


def test_a_new_worker_begins_to_count_anew() -> None:
    assert asyncio.run(looks_after(stats(9), stats(0), stats(1)))[1] == [3]
