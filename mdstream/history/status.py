"""What a backfill reports while it runs, and at its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from mdstream.errors import Exit
from mdstream.handoff.page_ticket import PageReceipt


class Activity(NamedTuple):
    """What a backfill does at a moment: between two pages, this is all that changes."""

    requests: int
    """Requests sent so far, each attempt counted."""
    waits_s: float = 0.0
    """Seconds until the budget allows the next one."""
    retries: int = 0
    """Requests that failed, and wait to be sent again."""
    retries_in_s: float = 0.0
    """Seconds until the first of them is."""

    def __str__(self) -> str:
        text = count_of(self.requests, "request")
        if self.retries:
            text += f", {self.retries:,} to be sent again in {self.retries_in_s:.0f} s"
        if self.waits_s > 1:
            text += f", waiting {self.waits_s:.0f} s for the request budget"
        return text


@dataclass(slots=True)
class Status:
    """Progress of a backfill."""

    shards: int = 0
    """Shards of this request that earlier runs have not stored."""
    fetched: int = 0
    done: float = 0.0
    """Shards fetched. A partly fetched shard counts by the time that its last row has reached."""
    pages: int = 0
    rows: int = 0
    """Rows fetched in this run."""
    stored: int = 0
    """Rows stored in this run, including those that an earlier run had fetched."""
    repeated: int = 0
    """Rows that repeat another one and were left out."""
    other_symbols: int = 0
    """Rows of symbols that were not requested; they were left out."""
    other_times: int = 0
    """Rows whose time was not requested; they were left out."""
    rejected: int = 0
    requests: int = 0
    bytes: int = 0
    """Bytes of the pages as received."""
    files: int = 0
    already: int = 0
    """Symbols that were complete before this run."""
    empty: int = 0
    """Shards without rows although the market was open. Later runs ask for them again for some days."""
    short: int = 0
    """Days that have fewer rows than the service's daily bars say; known after a repair only."""
    uncounted: int = 0
    """Symbols whose daily bars a repair could not fetch or read, so that some days are not compared."""
    until: str = ""
    """The time up to which all symbols are fetched that the service did not refuse, if the plan excludes
    later data; the next run goes on."""
    seconds: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)
    """Symbol → reason why it is incomplete."""
    excluded: set[str] = field(default_factory=set)
    """Those of the failed symbols whose data the plan does not include."""

    def count_page(self, receipt: PageReceipt) -> None:
        """Count a page and its rows."""
        self.pages += 1
        self.rows += receipt.rows
        self.rejected += len(receipt.rejects)
        self.other_symbols += receipt.other_symbols
        self.other_times += receipt.other_times

    @property
    def unrequested(self) -> str:
        """How many rows were left out because they were not requested, in words; empty if none were."""
        kinds = {"of other symbols": self.other_symbols, "outside the requested time": self.other_times}
        parts = [f"{number:,} {what}" for what, number in kinds.items() if number]
        return f"rows left out that were not requested: {', '.join(parts)}" if parts else ""

    @property
    def complete(self) -> bool:
        """Whether all requested rows are in the store that the plan allows to be fetched now."""
        return not self.why_incomplete

    @property
    def exit_code(self) -> Exit:
        """The exit code of the backfill: that of the refusal if the plan excludes all that is missing."""
        if self.complete:
            return Exit.OK
        others = self.failed.keys() - self.excluded or self.rejected or self.short or self.uncounted
        return Exit.CREDENTIALS if self.failed and not others else Exit.STREAM_FAILED

    @property
    def why_incomplete(self) -> str:
        """What this run found to be missing, in words; empty if nothing is."""
        counts = (
            (len(self.failed), "symbol", "failed"),
            (self.rejected, "record", "rejected"),
            (self.short, "day", "with fewer rows than the service's daily bars say"),
            (self.uncounted, "symbol", "with days that a repair could not count"),
        )
        parts = [f"{count_of(number, noun)} {what}" for number, noun, what in counts if number]
        if not parts and self.fetched != self.shards:
            parts = [f"{count_of(self.shards - self.fetched, 'shard')} not fetched"]
        return ", ".join(parts)


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is one."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
