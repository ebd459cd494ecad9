"""What the columns of all frames mean, and their units: the words of the page "Frames and columns".

A column is looked up by its full name (`crypto.orderbooks.size`), by channel and column (`cancels.id`), by
stream and column (`options.size`), and by its own name. Columns of a nested row (`trade_price`,
`minute_open`) take that of the inner column.
"""

from __future__ import annotations

from typing import NamedTuple

from mdstream.telemetry.events import EventKind


class Meaning(NamedTuple):
    """What a column says, and in which unit (empty: none)."""

    text: str
    unit: str = ""


MEANINGS: dict[str, Meaning] = {
    "trades.update": Meaning(
        "Set in history if the trade is not valid: canceled, incorrect (replaced), corrected, or else."
    ),
    # times
    "ts": Meaning("Time of the event, as the service gives it."),
    "recv_ts": Meaning("When the payload was received here."),
    "bars.ts": Meaning("Begin of the bar."),
    "bars_1s.ts": Meaning("Begin of the bar."),
    "bars_1m.ts": Meaning("Begin of the bar."),
    "bars_1s.recv_ts": Meaning("When the bar was published."),
    "bars_1m.recv_ts": Meaning("When the bar was published."),
    # trades and quotes
    "symbol": Meaning("Symbol: ticker, OCC contract, crypto pair or perpetual."),
    "price": Meaning("Price of the trade.", "USD"),
    "size": Meaning("Size of the trade.", "shares"),
    "options.size": Meaning("Size of the trade.", "contracts"),
    "crypto.size": Meaning("Size of the trade.", "base currency"),
    "crypto.price": Meaning("Price of the trade.", "quote currency"),
    "exchange": Meaning("Code of the exchange."),
    "conditions": Meaning("Condition codes, side by side (`@FTI`)."),
    "tape": Meaning("Tape: A and B are the CTA's, C and O the UTP's."),
    "id": Meaning("Id of the trade, unique with exchange, tape and day."),
    "taker_side": Meaning("Side of the taker: `B` bought, `S` sold, `-` unknown."),
    "bid_price": Meaning("Best bid; null where there is none.", "USD"),
    "bid_size": Meaning("Size at the best bid; null where there is none.", "shares"),
    "bid_exchange": Meaning("Exchange of the best bid."),
    "ask_price": Meaning("Best ask; null where there is none.", "USD"),
    "ask_size": Meaning("Size at the best ask; null where there is none.", "shares"),
    "options.bid_size": Meaning("Size at the best bid; null where there is none.", "contracts"),
    "options.ask_size": Meaning("Size at the best ask; null where there is none.", "contracts"),
    "crypto.bid_price": Meaning("Best bid; null where there is none.", "quote currency"),
    "crypto.bid_size": Meaning("Size at the best bid; null where there is none.", "base currency"),
    "crypto.ask_price": Meaning("Best ask; null where there is none.", "quote currency"),
    "crypto.ask_size": Meaning("Size at the best ask; null where there is none.", "base currency"),
    "ask_exchange": Meaning("Exchange of the best ask."),
    # bars
    "open": Meaning("First price; null if every trade of the bar was cancelled.", "USD"),
    "high": Meaning("Highest price.", "USD"),
    "low": Meaning("Lowest price.", "USD"),
    "close": Meaning("Last price.", "USD"),
    "volume": Meaning("Traded volume.", "shares"),
    "options.volume": Meaning("Traded volume.", "contracts"),
    "crypto.volume": Meaning("Traded volume.", "base currency"),
    "trade_count": Meaning("Number of trades."),
    "vwap": Meaning("Volume-weighted average price.", "USD"),
    "kind": Meaning("`minute`, `updated` (a minute bar revised by late trades) or `daily`."),
    "vwap_volume": Meaning("Volume of the trades that count in `vwap`.", "as `volume`"),
    "revised": Meaning("Whether this row replaces an earlier one of the same symbol and time."),
    "complete": Meaning("Whether nothing was missed in the bar's time."),
    # stocks
    "status_code": Meaning("Trading status code of the exchange."),
    "status_message": Meaning("The same in words."),
    "reason_code": Meaning("Code of the reason."),
    "reason_message": Meaning("The same in words."),
    "limit_up_price": Meaning("Upper limit of the price band.", "USD"),
    "limit_down_price": Meaning("Lower limit of the price band.", "USD"),
    "indicator": Meaning("LULD indicator."),
    "imbalances.price": Meaning("Price of the order imbalance.", "USD"),
    "original_id": Meaning("Id of the trade that is corrected."),
    "original_price": Meaning("Its price.", "USD"),
    "original_size": Meaning("Its size.", "shares"),
    "original_conditions": Meaning("Its conditions."),
    "corrected_id": Meaning("Id of the corrected trade."),
    "corrected_price": Meaning("Its price.", "USD"),
    "corrected_size": Meaning("Its size.", "shares"),
    "corrected_conditions": Meaning("Its conditions."),
    "cancels.id": Meaning("Id of the trade that is cancelled."),
    "cancels.price": Meaning("Its price.", "USD"),
    "cancels.size": Meaning("Its size.", "shares"),
    "action": Meaning("`C` cancelled, `E` error."),
    # options
    "implied_volatility": Meaning("Implied volatility of the last snapshot.", "1 = 100 %"),
    "delta": Meaning("Change of the price with the underlying's."),
    "gamma": Meaning("Change of delta with the underlying's price.", "1/USD"),
    "theta": Meaning("Change of the price with time.", "USD a day"),
    "vega": Meaning("Change of the price with volatility.", "USD a point"),
    "rho": Meaning("Change of the price with the interest rate.", "USD a point"),
    "greeks_recv_ts": Meaning("When the Greeks were received."),
    "root": Meaning("Root of the contract, mostly the underlying."),
    "expiry": Meaning("Date of expiry."),
    "strike": Meaning("Strike price.", "USD"),
    "right": Meaning("`call` or `put`."),
    "bid": Meaning("Best bid; null where there is none.", "USD"),
    "ask": Meaning("Best ask; null where there is none.", "USD"),
    "mid": Meaning("Middle of bid and ask; null where a side is absent.", "USD"),
    "last": Meaning("Price of the last trade.", "USD"),
    "last_size": Meaning("Size of the last trade.", "contracts"),
    # crypto
    "side": Meaning("`bid` or `ask`; null in a row that only resets the book."),
    "orderbooks.price": Meaning("Price of the level.", "quote currency"),
    "orderbooks.size": Meaning("New size of the level; 0 removes it.", "base currency"),
    "reset": Meaning("Whether the message replaces the whole book."),
    "level": Meaning("Level, counted from the best one, which is 1."),
    "bid_levels": Meaning("Bid levels that are known (at most 1,000 are kept)."),
    "ask_levels": Meaning("Ask levels that are known (at most 1,000 are kept)."),
    "books.ts": Meaning("Time of the last change."),
    "books.complete": Meaning("Whether the book has every change since its last reset."),
    # perpetuals
    "perps.size": Meaning("Size of the trade.", "base currency"),
    "perps.price": Meaning("Price of the trade.", "quote currency"),
    "perps.bid_price": Meaning("Best bid; null where there is none.", "quote currency"),
    "perps.bid_size": Meaning("Size at the best bid; null where there is none.", "base currency"),
    "perps.ask_price": Meaning("Best ask; null where there is none.", "quote currency"),
    "perps.ask_size": Meaning("Size at the best ask; null where there is none.", "base currency"),
    "perps.volume": Meaning("Traded volume.", "base currency"),
    "index_price": Meaning("Price of the underlying index.", "quote currency"),
    "mark_price": Meaning("Mark price, at which positions are valued.", "quote currency"),
    "funding_rate": Meaning("Rate of the next funding payment."),
    "open_interest": Meaning("Contracts that are open."),
    "next_funding_ts": Meaning("Time of the next funding payment."),
    # news
    "news.id": Meaning("Id of the article; an update has the same."),
    "created_at": Meaning("When the article was created."),
    "updated_at": Meaning("When it was last changed."),
    "headline": Meaning("Headline."),
    "summary": Meaning("Summary; may be empty."),
    "author": Meaning("Author."),
    "source": Meaning("Source, such as `benzinga`."),
    "url": Meaning("Address of the article."),
    "content": Meaning("Full text, as HTML; may be empty."),
    "symbols": Meaning("Symbols that the article names."),
    "images": Meaning("Pictures, as JSON; REST only."),
    # telemetry
    "stream": Meaning("Stream."),
    "sequence": Meaning("Number of the batch; batches are committed in this order."),
    "worker": Meaning("Pid of the worker; the feed's own without workers."),
    "payloads": Meaning("Payloads: WebSocket messages, or REST bodies."),
    "bytes": Meaning("Size of the payloads.", "bytes"),
    "messages": Meaning("Messages in them."),
    "rejected": Meaning("Messages that could not become rows; kept on disk with the reason."),
    "fell_back": Meaning("Payloads that kernels left to the fallback decoder."),
    "first_recv_ts": Meaning("When the first payload was received."),
    "last_recv_ts": Meaning("When the last payload was received."),
    "submit_ts": Meaning("When the batch was handed to a worker."),
    "start_ts": Meaning("When the worker began."),
    "end_ts": Meaning("When the worker was done."),
    "commit_ts": Meaning("When the rows became visible."),
    "cpu_ns": Meaning("CPU time of decoding and aggregation.", "ns"),
    "state": Meaning("State of the stream."),
    "events.stream": Meaning("Stream, or `recorder` or `simulator`."),
    "events.kind": Meaning("What happened: " + ", ".join(f"`{kind}`" for kind in EventKind) + "."),
    "severity": Meaning("`debug`, `info`, `warning` or `error`."),
    "text": Meaning("The event in words."),
    "fields": Meaning("JSON object: the numbers and names behind the text."),
    "symbols.state": Meaning("`ok` (served), `failed`, or `dropped` (no longer wanted)."),
    "rejects.kind": Meaning(
        "What the bytes are: `json` or `msgpack` of the stream, a kind of body, or a `row`."
    ),
    "rejects.place": Meaning("Where they were: the whole payload, a message of it, or a row of a frame."),
    "rejects.reason": Meaning("Why they could not become a row."),
    "rejects.bytes": Meaning("The bytes, as received; a row as JSON."),
    "reason": Meaning("Why the symbol is not served."),
    "pid": Meaning("Process id."),
    "role": Meaning("Role of the process: supervisor, feed, worker, simulator, recorder, ..."),
    "core": Meaning("Number of the core."),
}

PREFIXES = {
    "trade": "Last trade. ",
    "quote": "Last quote. ",
    "pricing": "Last pricing. ",
    "minute": "Minute bar. ",
    "daily": "Daily bar. ",
    "prev_daily": "Previous daily bar. ",
}
"""Rows that are nested in another one, by the prefix of their columns."""

CHANNELS = {
    "trades": "Trades.",
    "quotes": "Quotes: the best bid and ask.",
    "bars": "Bars as the service sends them.",
    "bars_1s": "Bars of one second, built here from trades.",
    "bars_1m": "Bars of one minute, built here from trades.",
    "statuses": "Trading statuses: halts and resumptions.",
    "lulds": "Limit up, limit down: price bands.",
    "imbalances": "Order imbalances.",
    "corrections": "Corrections of trades.",
    "cancels": "Cancelled trades.",
    "snapshots": "What each REST fetch returned of a symbol.",
    "rejects": "What could not become a row.",
    "latest": "The last trade and quote of each symbol, changed in place.",
    "orderbooks": "Changes of order books, one row for each level.",
    "books": "The best ten levels of each order book, one row for each symbol and level.",
    "pricing": "Index price, mark price, funding and open interest of perpetuals.",
    "articles": "Articles and their updates, as they came.",
    "chains": "Option chains: `options.latest` by root, expiry, strike and right. Made at each call.",
    "by_symbol": "`news.latest` with one row for each article and symbol. Made at each call.",
    "news.latest": "Each article once, as it reads now. Made at each call.",
    "telemetry.batches": "One row for each batch: how much, by which worker, when it passed each station.",
    "telemetry.streams": "One row for each stream and second: counters since the start of the run.",
    "telemetry.processes": "One row for each process and second.",
    "telemetry.cores": "One row for each core and second.",
    "telemetry.machine": "One row for each second.",
    "telemetry.events": "One row for each event of the run, for people and programs.",
    "telemetry.symbols": "One row whenever a symbol's state or its reason changes; the last one holds now.",
}
"""What the rows of a frame are, by its full name or its channel."""
