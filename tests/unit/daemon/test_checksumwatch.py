import asyncio

from flanneld_py.daemon.checksumwatch import FEW, FORGET_AFTER, MARK, follow_checksums


def said(*counts: int) -> list[tuple[int, str | None]]:
    """What is said of these counts, and after how many of them."""
    left, told = list(counts), []

    def count() -> int:
        if not left:
            raise EOFError
        return left.pop(0)

    async def follow() -> None:
        await follow_checksums(count, lambda text: told.append((len(counts) - len(left), text)), every_s=0)

    try:
        asyncio.run(follow())
    except EOFError:
        return told
    raise AssertionError("it ended")


def test_what_was_counted_before_is_no_news() -> None:
    assert said(5000, 5000, 5000) == []


def test_a_few_are_noise() -> None:
    assert said(0, FEW - 1, 2 * (FEW - 1)) == []


def test_many_are_told_with_the_mend_and_forgotten_after_a_while() -> None:
    (at, text), last = said(7, 7, 7 + 120, *([127] * (FORGET_AFTER + 3)))
    assert at == 3 and text is not None
    assert text.startswith("120 UDP datagrams") and MARK in text and "TxChecksum to off" in text
    assert last == (3 + FORGET_AFTER, None)


def test_every_further_burst_is_told() -> None:
    assert [at for at, text in said(0, 100, 200, 200, 300) if text] == [2, 3, 5]
