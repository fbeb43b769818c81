"""What the board says of trouble with the store and with the kernel, which may come and go in any order."""

from itertools import permutations
from pathlib import Path

import pytest

from flanneld_py.daemon.board import Board
from flanneld_py.model.entry import Failure, LinkUp, Op, Verb
from flanneld_py.observe.health import readiness
from flanneld_py.observe.status import Stage, Status
from flanneld_py.store.base import Condition

AWAY = Condition(False, "etcd is away", "start it")
BACK = Condition(True, "etcd answers")
REFUSED = Failure(Op(Verb.ADD, LinkUp("flannel.1")), "no memory", errno=12, hint="free some")
KERNEL = (f"cannot {REFUSED.op}: no memory", "free some")


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path, Status(Stage.READY, 0.0, 1, "0.1", "node1"), notify_socket=None)


def trouble(board: Board) -> tuple[str | None, str | None]:
    return board.status.error, board.status.hint


@pytest.mark.parametrize("order", [*permutations(["away", "back", "refused", "mended"])])
async def test_each_trouble_is_told_until_it_is_over(board: Board, order: tuple[str, ...]) -> None:
    steps = {
        "away": lambda: board.condition(AWAY),
        "back": lambda: board.condition(BACK),
        "refused": lambda: board.block(REFUSED),
        "mended": lambda: board.block(None),
    }
    away = blocked = False
    for step in order:
        steps[step]()
        away = step == "away" or (away and step != "back")
        blocked = step == "refused" or (blocked and step != "mended")
        expected = KERNEL if blocked else (AWAY.message, AWAY.hint) if away else (None, None)
        assert (trouble(board), board.status.store_ok, board.status.blocked) == (expected, not away, blocked)
        assert readiness(board.status).ready is not blocked


async def test_a_store_that_is_away_is_told_at_the_next_stage_too(board: Board) -> None:
    board.condition(AWAY)
    board.at(Stage.LEASE)
    assert trouble(board) == (AWAY.message, AWAY.hint)


async def test_what_the_store_says_is_logged_when_it_changes(board: Board, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for condition in (BACK, AWAY, AWAY, BACK, BACK, AWAY):
        board.condition(condition)
        board.block(REFUSED)
    assert caplog.messages == ["etcd is away; start it", "etcd answers", "etcd is away; start it"]
