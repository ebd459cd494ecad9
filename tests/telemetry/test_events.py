from __future__ import annotations

import logging

from mdstream.telemetry.events import Severity, SymbolChange, SymbolState, compare_symbols


def test_symbols_are_compared_by_state_and_reason() -> None:
    before = (["A", "B", "C"], {"D": "bad", "E": "bad"})
    now = (["A", "D", "N"], {"B": "refused", "E": "worse"})
    assert list(compare_symbols(before, now)) == [
        SymbolChange("D", SymbolState.OK, None),
        SymbolChange("N", SymbolState.OK, None),
        SymbolChange("B", SymbolState.FAILED, "refused"),
        SymbolChange("E", SymbolState.FAILED, "worse"),
        SymbolChange("C", SymbolState.DROPPED, None),
    ]


def test_symbols_that_stay_as_they_are_make_no_row() -> None:
    symbols = (["A"], {"B": "bad"})
    assert list(compare_symbols(symbols, symbols)) == []


def test_severities_are_log_levels() -> None:
    assert {s.name: int(s) for s in Severity} == {s.name: logging.getLevelName(s.name) for s in Severity}
