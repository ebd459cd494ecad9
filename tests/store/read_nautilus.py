"""Print what NautilusTrader's catalogue and backtest engine read from an export, as JSON lines.

`make test-nautilus` runs this with NautilusTrader's own interpreter.
"""

import json
import sys

from nautilus_trader.backtest.engine import BacktestEngine
from nautilus_trader.config import BacktestEngineConfig, LoggingConfig
from nautilus_trader.model.currencies import USD
from nautilus_trader.model.enums import AccountType, OmsType
from nautilus_trader.model.identifiers import Venue
from nautilus_trader.model.objects import Money
from nautilus_trader.persistence.catalog import ParquetDataCatalog

catalog = ParquetDataCatalog(sys.argv[1])
trades, quotes, bars = catalog.trade_ticks(), catalog.quote_ticks(), catalog.bars()
for each in catalog.instruments():
    print(json.dumps(["instrument", str(each.id), each.price_precision, type(each).__name__]))
for t in trades:
    print(
        json.dumps(
            [
                "trade",
                str(t.instrument_id),
                t.ts_event,
                str(t.price),
                str(t.size),
                t.aggressor_side.name,
                str(t.trade_id),
            ]
        )
    )
for q in quotes:
    print(
        json.dumps(
            [
                "quote",
                str(q.instrument_id),
                q.ts_event,
                str(q.bid_price),
                str(q.bid_size),
                str(q.ask_price),
                str(q.ask_size),
            ]
        )
    )
for b in bars:
    print(
        json.dumps(
            [
                "bar",
                str(b.bar_type),
                b.ts_event,
                str(b.open),
                str(b.high),
                str(b.low),
                str(b.close),
                str(b.volume),
            ]
        )
    )

engine = BacktestEngine(BacktestEngineConfig(logging=LoggingConfig(log_level="ERROR")))
engine.add_venue(Venue("ALPACA"), OmsType.NETTING, AccountType.MARGIN, [Money(1_000_000, USD)], USD)
for each in catalog.instruments():
    engine.add_instrument(each)
engine.add_data(trades)
engine.add_data(quotes)
engine.run()
print(json.dumps(["backtest", engine.get_result().iterations]))
