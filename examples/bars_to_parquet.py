"""Fetch bars of some stocks and write them to one Parquet file.

It shows a backfill, how to report symbols that failed, and a query over the store.
Run it with keys in APCA_API_KEY_ID and APCA_API_SECRET_KEY. For made-up data, start `mdstream simulate`
and set MDSTREAM_DATA_URL=http://127.0.0.1:8765 instead:

    python examples/bars_to_parquet.py 2026-01-05 2026-01-09 bars.parquet AAPL MSFT 'NV*'
"""

from __future__ import annotations

import sys

import mdstream

STORE = "store"
TIMEFRAME = "1Hour"
COLUMNS = ("symbol", "ts", "open", "high", "low", "close", "volume", "vwap")


def main(start: str, end: str, path: str, symbols: list[str]) -> int:
    """Fetch the bars that the store lacks, and write all to a file. Return the number of failed symbols."""
    done = mdstream.backfill("stocks.bars", symbols, start, end, store=STORE, timeframe=TIMEFRAME)
    for symbol, reason in done.failed.items():
        print(f"{symbol}: {reason}", file=sys.stderr)
    bars = mdstream.scan(
        "stocks.bars", STORE, symbols=symbols, start=start, end=end, timeframe=TIMEFRAME
    ).select(COLUMNS)
    bars.sort("symbol", "ts").sink_parquet(path)
    print(f"{path}: bars of {TIMEFRAME} of {', '.join(symbols)}")
    return len(done.failed)


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    _start, _end, _path, *_symbols = sys.argv[1:]
    try:
        sys.exit(main(_start, _end, _path, _symbols) > 0)
    except mdstream.MdstreamError as error:
        sys.exit(f"bars_to_parquet: {error}")
