"""How long each layer of a run took, set-up included; said at its end. ``make test`` loads this.

``LAYERS_BEFORE`` names what ran before pytest, with whole seconds: ``installation=12 lint=95``.
"""

from __future__ import annotations

import os
import time
from collections import Counter

import pytest

_BEGAN = time.monotonic()
_seconds: Counter[str] = Counter()
_tests: Counter[str] = Counter()


def pytest_collection_finish() -> None:
    _seconds["collection"] += time.monotonic() - _BEGAN  # type: ignore[assignment]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    layer = report.nodeid.split("/")[1]
    _seconds[layer] += report.duration  # type: ignore[assignment]
    _tests[layer] += report.when == "setup"


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    before = {name: int(seconds) for name, _, seconds in _words(os.environ.get("LAYERS_BEFORE", ""))}
    terminalreporter.section("time of each layer")
    for layer, seconds in {**before, **_seconds}.items():
        tests = f"{_tests[layer]:6} tests" if layer in _tests else ""
        terminalreporter.line(f"{seconds:8.0f} s  {layer:14}{tests}")
    terminalreporter.line(f"{sum(before.values()) + time.monotonic() - _BEGAN:8.0f} s  in all")


def _words(said: str) -> list[tuple[str, str, str]]:
    return [word.partition("=") for word in said.split()]
