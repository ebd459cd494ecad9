"""The rules by which trades make bars, and the conditions of trades as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import orjson

BAR_INTERVALS = {"bars_1s": 1_000_000_000, "bars_1m": 60_000_000_000}
"""Channels of bars that the feed builds → length of the bars in ns."""


@dataclass(frozen=True, slots=True)
class BarRules:
    """Which trades update which part of a minute bar, by condition code and tape.

    Source: Alpaca's published table (market data FAQ, 2026-09). A trade follows the strictest rule of its
    conditions. A condition that is not listed has no effect. A letter means one thing on the CTA tapes (A,
    B) and another on the UTP tapes (C, O). So each condition maps to the tapes on which the rule holds; no
    tapes means all.

    `trades` names the channel of trades. `midpoints` names the channel of quotes whose midpoints set prices
    too, as for crypto; such a bar needs no trade. `corrections` and `cancels` name the channels that amend
    trades; the identity of trades then begins with symbol, time, exchange and id. `mark` names the column
    of trades that says that one was amended later. With any text in it, the trade counts in no bar.
    """

    volume_only: Mapping[str, str] = field(default_factory=dict)
    excluded: Mapping[str, str] = field(default_factory=dict)
    has_condition_list: bool = False
    """Whether a trade has a list of conditions; otherwise it has one."""
    trades: str = "trades"
    midpoints: str = ""
    corrections: str = ""
    cancels: str = ""
    mark: str = ""

    @property
    def sources(self) -> tuple[str, str, str, str]:
        """The names of the channels that bars are made of; empty if there is none."""
        return self.trades, self.midpoints, self.corrections, self.cancels

    def counts(self, conditions: Iterable[str], tape: str) -> tuple[bool, bool]:
        """Return whether a trade with these conditions counts in prices, and in volume."""
        price = volume = True
        for condition in conditions:
            for table, is_excluded in ((self.volume_only, False), (self.excluded, True)):
                tapes = table.get(condition)
                if tapes is not None and (not tapes or tape in tapes):
                    price = False
                    volume = volume and not is_excluded
        return price, volume


def join_conditions(codes: list[str]) -> str:
    """Join condition codes to one text, without loss: `["@", "F", "T"]` → `@FT`.

    Codes of one character, as all are today, are concatenated. A list with any other code becomes a JSON
    array, which `split_conditions` recognises by its opening bracket.
    """
    if all(len(code) == 1 for code in codes) and (not codes or codes[0] != "["):
        return "".join(codes)
    return orjson.dumps(codes).decode()


def split_conditions(text: str) -> list[str]:
    """Return the codes that `join_conditions` joined."""
    if not text.startswith("["):
        return list(text)
    codes: list[str] = orjson.loads(text)
    return codes
