"""What fails every test; options of the whole run; its closing table: the tests by kind, their folder under tests."""

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePath

import pytest
from hypothesis import HealthCheck, settings

# A machine with much to do may stop for longer than an example may take.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

OUTCOMES = ("passed", "failed", "error", "skipped", "xfailed", "xpassed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-go",
        action="store_true",
        help="fail, instead of skipping, the tests that need the Go flannel when it is not there",
    )


@pytest.fixture(autouse=True)
def _asyncio_complains_of_nothing(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A task that fails with nobody waiting for it, or is destroyed before its end: asyncio only logs that."""
    yield
    said = [record for when in ("call", "teardown") for record in caplog.get_records(when)]
    errors = [one.getMessage() for one in said if one.name == "asyncio" and one.levelno >= logging.ERROR]
    # grpc has one queue of events for all loops, and may hand one to the loop of a test that has ended.
    assert [text for text in errors if "PollerCompletionQueue._handle_events" not in text] == []


def kind_of(nodeid: str) -> str:
    """`netns` for `tests/netns/test_links.py::test_x[a]`; `tests` for a file directly in tests/."""
    parts = PurePath(nodeid.partition("::")[0]).parts
    return parts[1] if len(parts) > 2 else parts[0]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts: dict[str, Counter[str]] = {}
    for outcome in OUTCOMES:
        for report in terminalreporter.stats.get(outcome, []):
            counts.setdefault(kind_of(report.nodeid), Counter())[outcome] += 1
    if not counts:
        return
    columns = [outcome for outcome in OUTCOMES if any(row[outcome] for row in counts.values())]
    terminalreporter.section("tests by kind")
    terminalreporter.write_line(f"{'kind':<12}" + "".join(f"{name:>9}" for name in columns))
    for kind, row in [*sorted(counts.items()), ("all", sum(counts.values(), Counter()))]:
        terminalreporter.write_line(f"{kind:<12}" + "".join(f"{row[name]:>9}" for name in columns))
