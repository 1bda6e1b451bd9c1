"""The fault matrix's own: rows as marks, their verdicts as a table at the end, and a key that nobody may ever see."""

from __future__ import annotations

import pytest
from canary import CANARY, TOLD
from rows import NOT_TESTED, ROWS


@pytest.fixture(autouse=True)
def _canary(_no_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, CANARY)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seeds", type=int, default=300, help="random studies in test_random_plans.py")
    parser.addoption("--first-seed", type=int, default=0, help="the first of them")
    parser.addoption("--nonces", type=int, default=8000, help="calls of each test in test_nonces.py")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "row(*numbers): the rows of the fault matrix that a test holds")
    config.addinivalue_line("markers", "last: looks at what all other tests have left behind")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        numbers = [number for mark in item.iter_markers("row") for number in mark.args]
        unknown = set(numbers) - set(ROWS)
        if unknown:
            raise pytest.UsageError(f"{item.nodeid} names {', '.join(sorted(unknown))}, which no row has")
        item.user_properties += [("row", number) for number in numbers]
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what a test wrote, logged and raised, for the one that looks for the key."""
    TOLD.append((report.nodeid, "\n".join([report.longreprtext, *(text for _, text in report.sections)])))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    found: dict[str, list[str]] = {}
    for verdict in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(verdict, ()):
            for name, value in getattr(report, "user_properties", ()):
                if name == "row":
                    found.setdefault(value, []).append(verdict)
    if not found:
        return
    terminalreporter.section("fault matrix")
    for number, fault in ROWS.items():
        terminalreporter.write_line(f"{number}  {_verdict(number, found.get(number, [])):<12} {fault}")


def _verdict(number: str, verdicts: list[str]) -> str:
    for bad in ("failed", "error"):
        if bad in verdicts:
            return bad.upper()
    if "passed" in verdicts:
        return f"passed ({verdicts.count('passed')})"
    return "skipped" if verdicts else "not tested" if number in NOT_TESTED else "not run"
