from bench.restart import UNDISTURBED, Run, is_within, rows


def run(retransmits: int, *, lost: int = 0, drops: int = 0) -> Run:
    return Run(5.0, retransmits, 800, lost, drops)


STILL = [run(number) for number in (3, 40, 0, 7, 12)]


def test_as_many_retransmits_as_an_undisturbed_run_may_have() -> None:
    assert is_within([run(40), run(40), run(40), run(40), run(900)], STILL)
    assert is_within([run(0), run(0), run(41), run(41), run(41)], STILL), "this may be chance"
    assert not is_within([run(41)] * 5, STILL)


def test_one_lost_echo_or_one_drop_is_too_many() -> None:
    assert not is_within([run(0), run(0, lost=1)], STILL)
    assert not is_within([run(0), run(0, drops=1)], STILL)


def test_the_table_says_what_was_lost() -> None:
    head, still, killed = rows({UNDISTURBED: STILL, "daemon killed": [run(2000, lost=2), run(900, drops=5)]})
    assert head[0] == "runs" and still[-1] == "within the spread"
    assert killed == ("2 daemon killed", "5.00", "1450", "900..2000", "0.10", "2 of 1600", "5", "BEYOND")
