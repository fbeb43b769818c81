"""Work that is done at the same time by a few threads, and given up together."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import TypeVar

from flanneld_py.lab.progress import Progress

_CHECK_S = 0.2
_T = TypeVar("_T")


class Crew:
    """As many threads as there are processors, and two more, since the work is mostly to wait for other programs.

    At the end of the block none of them works any more; what had not begun is left undone. So each piece of work must
    have an end of its own.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._pool = ThreadPoolExecutor(max_workers=(os.cpu_count() or 1) + 2, thread_name_prefix="lab")

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def start(self, work: Callable[[], _T]) -> "Future[_T]":
        return self._pool.submit(work)

    def results(self, jobs: "Sequence[Future[_T]]") -> Iterator[_T]:
        """What the jobs return, as they end. Raises what one of them raised, or KeyboardInterrupt when asked to end."""
        left = set(jobs)
        while left:
            self._progress.check()
            done, left = wait(left, timeout=_CHECK_S, return_when=FIRST_COMPLETED)
            for job in done:
                yield job.result()
