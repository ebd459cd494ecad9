"""Export of the store's rows in the layout of NautilusTrader's `ParquetDataCatalog`.

It does not need NautilusTrader.

    counts by partition and symbol ─┐
    decimals that prices need ──────┴─► partition by partition, some symbols at a time ─► one file each

    CATALOG/data/trade_tick/AAPL.ALPACA/FIRST_LAST.parquet     likewise `quote_tick`; `bar` by type of bar
    CATALOG/data/equity/AAPL.ALPACA/…                          an instrument for each symbol

Prices and sizes are 128-bit little-endian integers in units of 1e-16. NautilusTrader's high-precision
builds, the default on Linux and macOS, read these (checked with 1.221). As it expects, a bar has the time
of its end.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from mdstream.errors import ConfigError
from mdstream.store.arrival import sort_by_arrival
from mdstream.store.nautilus_files import (
    Symbol,
    folder_name,
    has_decimals,
    replace_folders,
    write,
    write_instrument,
)
from mdstream.streams import STREAMS

log = logging.getLogger(__name__)

_SCALE = 16
"""Decimals of NautilusTrader's integers."""
_DECIMALS = {"equity": (4, 0), "option_contract": (2, 0), "currency_pair": (9, 9)}
"""Decimals of prices and sizes. Ticks, bars and instruments have the same, because a backtest compares
them. Prices that need more get more, up to `_SCALE`, and so do sizes of currency pairs.
"""
_WHOLE = {
    "equity": "a fractional size (NautilusTrader's Equity has whole shares only)",
    "option_contract": "a fractional size (NautilusTrader's OptionContract has whole contracts only)",
}
"""Why rows are left out whose instrument has no decimals of sizes."""
_LARGEST_PRICE, _LARGEST_SIZE = 17_014_118_346_046.0, 34_028_236_692_093.0
"""NautilusTrader's limits, `PRICE_MAX` and `QUANTITY_MAX`."""
_ROUNDING = 2.0**-51
"""Relative error of a decimal number that was read as a float and multiplied."""
_SYMBOLS = {
    "equity": r"^[!-\[\]-~]{1,128}$",
    "option_contract": r"^[A-Z0-9.]{1,12}\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])[CP]\d{8}$",
    "currency_pair": r"^[A-Z0-9]{1,32}/[A-Z0-9]{1,32}$",
}
"""Symbols that have an instrument and a folder: visible ASCII."""
_ROWS_AT_ONCE = 2_000_000
_KINDS = {"trades": "trade_tick", "quotes": "quote_tick", "bars": "bar"}
_UNITS = {"Min": "MINUTE", "Hour": "HOUR", "Day": "DAY", "Week": "WEEK", "Month": "MONTH"}
_LENGTHS = {"Min": "m", "Hour": "h", "Day": "d", "Week": "w", "Month": "mo"}
_TIMEFRAME = re.compile(r"(\d+)(\w+)")
_INT64 = 2**63
_SIDES = {"B": 1, "S": 2}
_FIXED = pa.binary(16)


class Written(NamedTuple):
    """Result of an export."""

    rows: int
    files: int
    symbols: int
    left_out: int
    """Rows that NautilusTrader cannot represent; the log says why. See `_why_left_out`."""


@dataclass(frozen=True, slots=True)
class _Series:
    """The prices and sizes of one kind of data: NautilusTrader's name of each column → ours."""

    prices: Mapping[str, str]
    sizes: Mapping[str, str]

    @property
    def needed(self) -> list[str]:
        return [*self.prices.values(), *self.sizes.values()]


_SERIES = {
    "trade_tick": _Series({"price": "price"}, {"size": "size"}),
    "quote_tick": _Series(
        {"bid_price": "bid_price", "ask_price": "ask_price"},
        {"bid_size": "bid_size", "ask_size": "ask_size"},
    ),
    "bar": _Series({n: n for n in ("open", "high", "low", "close")}, {"volume": "volume"}),
}


def check(dataset: str) -> None:
    """Raise `ConfigError` if a dataset cannot be exported."""
    _, _, channel = dataset.partition(".")
    if not _instrument_class(dataset) or channel not in _KINDS:
        streams = ", ".join(name for name, spec in STREAMS.items() if spec.instrument in _DECIMALS)
        raise ConfigError(
            f"{dataset}: cannot be exported; NautilusTrader reads trades, quotes and bars of {streams}"
        )


def _instrument_class(dataset: str) -> str:
    """Return the class of a dataset's instruments; empty if NautilusTrader has none."""
    spec = STREAMS.get(dataset.partition(".")[0])
    return spec.instrument if spec and spec.instrument in _DECIMALS else ""


def export(
    dataset: str, rows: pl.LazyFrame, catalog: Path, *, venue: str = "ALPACA", force: bool = False
) -> Written:
    """Write rows of `scan` to `catalog`.

    Rows that NautilusTrader cannot represent are left out, counted, and logged with the reason.

    With `force`, replaces what the catalogue has of the same symbols and kind, once all that is new has
    been written. Otherwise raises `ConfigError` before it writes anything. Memory is bounded, except for
    one symbol's day.
    """
    check(dataset)
    kind, instrument = _KINDS[dataset.partition(".")[2]], _instrument_class(dataset)
    series = _SERIES[kind]
    schema = rows.collect_schema().names()
    by = "date" if "date" in schema else "year"
    one = _find_kinds(rows, schema)
    if not any(one.values()):
        raise ConfigError(f"{dataset}: the store has no rows of these symbols and this time")
    labels = _bar_labels(one["timeframe"]) if kind == "bar" else None
    why = _why_left_out(kind, series, instrument, rows)
    present = why.is_null()
    symbols = _find_decimals(rows.filter(present), series, instrument)
    _check_folders(symbols)
    folders = {
        name: Path("data", kind, folder_name(f"{name}.{venue}{f'-{labels[0]}' if labels else ''}"))
        for name in symbols
    }
    taken = [str(catalog / folder) for folder in folders.values() if (catalog / folder).exists()]
    if taken and not force:
        raise ConfigError(f"{taken[0]} exists; use --force to replace it, and others like it")
    files = written = 0
    with replace_folders(catalog) as staged:
        for frame in _split(rows.filter(present), by):
            (name,) = frame["symbol"].unique()
            symbol = symbols[name]
            table = _to_table(frame, kind, series, symbol, f"{name}.{venue}", labels)
            write(table, staged / folders[name])
            files, written = files + 1, written + table.num_rows
        for symbol in symbols.values():
            folder = Path("data", instrument, folder_name(f"{symbol.name}.{venue}"))
            if force or not has_decimals(catalog / folder, symbol):
                write_instrument(staged / folder, instrument, symbol, venue)
    left_out = rows.select(why.alias("why")).filter(pl.col("why").is_not_null())
    counts = left_out.group_by("why").len().sort("why").collect(engine="streaming")
    for reason, count in counts.iter_rows():
        log.warning("%s: %d rows are left out: %s", dataset, count, reason)
    return Written(written, files, len(symbols), int(counts["len"].sum()))


# -- symbols


def _why_left_out(kind: str, series: _Series, instrument: str, rows: pl.LazyFrame) -> pl.Expr:
    """Return an expression with the reason why NautilusTrader cannot represent a row; null if it can."""
    kinds = rows.collect_schema()
    prices, sizes = list(series.prices.values()), list(series.sizes.values())
    floats = [name for name in series.needed if kinds[name].is_float()]
    decimals = _SCALE if instrument == "currency_pair" else _DECIMALS[instrument][1]
    exact_prices = [_is_whole(name, _SCALE) for name in prices if name in floats]
    exact_sizes = [_is_whole(name, decimals) for name in sizes if name in floats]
    too_many = "a price or size with too many decimals"
    largest = {**dict.fromkeys(prices, _LARGEST_PRICE), **dict.fromkeys(sizes, _LARGEST_SIZE)}
    checks = [
        ("no price or no size", pl.any_horizontal(pl.col(series.needed).is_null())),
        ("a number that is not finite", ~pl.all_horizontal(True, *(pl.col(n).is_finite() for n in floats))),
        ("a negative size (NautilusTrader has none)", pl.any_horizontal(pl.col(n) < 0 for n in sizes)),
        ("no size", pl.col("size") <= 0 if kind == "trade_tick" else pl.lit(value=False)),
        ("a time before 1970", pl.col("ts").dt.epoch("ns") < 0),
        ("a symbol that names no instrument", ~_names_instrument(instrument)),
        ("a number that is too large", pl.any_horizontal(pl.col(n).abs() > m for n, m in largest.items())),
        (too_many, ~pl.all_horizontal(True, *exact_prices)),
        (_WHOLE.get(instrument, too_many), ~pl.all_horizontal(True, *exact_sizes)),
    ]
    why = pl.lit(None, pl.String)
    for reason, is_so in reversed(checks):
        why = pl.when(is_so).then(pl.lit(reason)).otherwise(why)
    return why


def _names_instrument(instrument: str) -> pl.Expr:
    symbol = pl.col("symbol")
    named = symbol.str.contains(_SYMBOLS[instrument])
    if instrument == "option_contract":
        named &= symbol.str.slice(-15, 6).str.to_date("%y%m%d", strict=False).is_not_null()
    return named


def _find_decimals(rows: pl.LazyFrame, series: _Series, instrument: str) -> dict[str, Symbol]:
    """Return every symbol with the usual decimals, or more if its prices or sizes need them."""
    price, size = _DECIMALS[instrument]
    prices = _count_decimals(rows, list(series.prices.values()), price)
    sizes = dict.fromkeys(prices, size)
    if instrument == "currency_pair":
        sizes = _count_decimals(rows, list(series.sizes.values()), size)
    return {name: Symbol(name, prices[name], sizes[name]) for name in prices}


def _count_decimals(rows: pl.LazyFrame, columns: Sequence[str], least: int) -> dict[str, int]:
    """Return for each symbol how many decimals the numbers in `columns` have, at least `least`."""
    found: dict[str, int] = {}
    for first, last in ((least, 9), (10, _SCALE)):  # few symbols have more than nine
        some = rows.filter(~pl.col("symbol").is_in(list(found))) if found else rows
        exact = [
            pl.all_horizontal(_is_whole(name, decimals) for name in columns).all().alias(str(decimals))
            for decimals in range(first, last + 1)
        ]
        known = some.group_by("symbol").agg(exact).sort("symbol").collect(engine="streaming")
        for name, *fits in known.iter_rows():
            if True in fits:
                found[name] = first + fits.index(True)
            elif last == _SCALE:
                found[name] = _SCALE
        if len(known) == sum(name in found for name in known["symbol"]):
            break
    return dict(sorted(found.items()))


def _is_whole(name: str, decimals: int) -> pl.Expr:
    """Return whether a column's numbers have at most `decimals` decimals, but for errors of floats."""
    value = pl.col(name) * 10.0**decimals
    return (value - value.round()).abs() <= _ROUNDING * value.abs()


def _check_folders(symbols: Mapping[str, Symbol]) -> None:
    """Raise `ConfigError` if two symbols would have the same folder."""
    names: dict[str, str] = {}
    for name in symbols:
        other = names.setdefault(folder_name(name), name)
        if other != name:
            raise ConfigError(f"{other} and {name} have the same folder in a catalogue: export one of them")


def _find_kinds(rows: pl.LazyFrame, schema: Sequence[str]) -> dict[str, str]:
    """Return the feed, timeframe and adjustment of the rows. Raises `ConfigError` if there are several.

    NautilusTrader has only one of each for a symbol.
    """
    found = {}
    for name in ("feed", "timeframe", "adjustment"):
        if name not in schema:
            continue
        kinds = rows.select(pl.col(name).unique()).collect(engine="streaming")[name].to_list()
        if len(kinds) > 1:
            raise ConfigError(
                f"rows of more than one {name} ({', '.join(sorted(kinds))}): choose one, for example "
                f"--{name} {min(kinds)}"
            )
        found[name] = kinds[0] if kinds else ""
    return found


def _bar_labels(timeframe: str) -> tuple[str, str]:
    """Return NautilusTrader's name for bars of this length, and their length for Polars."""
    found = _TIMEFRAME.fullmatch(timeframe)
    if found is None or found[2] not in _UNITS:
        raise ConfigError(f"NautilusTrader has no type for bars of {timeframe!r}")
    label = f"{found[1]}-{_UNITS[found[2]]}-LAST-EXTERNAL"
    return label, f"{found[1]}{_LENGTHS[found[2]]}"


# -- rows


def _split(rows: pl.LazyFrame, by: str) -> Iterator[pl.DataFrame]:
    """Iterate over the rows of each partition and symbol, sorted by time. Reads some symbols at a time."""
    counts = rows.group_by(by, "symbol").len().sort(by, "symbol").collect(engine="streaming")
    for (part,), listed in counts.group_by(by, maintain_order=True):
        group: list[str] = []
        size = 0
        for name, count in zip(listed["symbol"], listed["len"], strict=True):
            if group and size + count > _ROWS_AT_ONCE:
                yield from _read(rows, by, part, group)
                group, size = [], 0
            group.append(name)
            size += count
        yield from _read(rows, by, part, group)


def _read(rows: pl.LazyFrame, by: str, part: Any, names: list[str]) -> Iterator[pl.DataFrame]:
    wanted = rows.filter(pl.col(by) == part, pl.col("symbol").is_in(names))
    frame = sort_by_arrival(wanted, "ts").collect()
    yield from frame.partition_by("symbol", maintain_order=True)


def _to_table(
    frame: pl.DataFrame,
    kind: str,
    series: _Series,
    symbol: Symbol,
    instrument_id: str,
    labels: tuple[str, str] | None,
) -> pa.Table:
    columns: dict[str, pa.Array] = {}
    for name, source in series.prices.items():
        columns[name] = _to_integers(frame[source], symbol.price)
    for name, source in series.sizes.items():
        columns[name] = _to_integers(frame[source], symbol.size)
    if kind == "trade_tick":
        side = frame["taker_side"] if "taker_side" in frame.columns else None
        sides = [_SIDES.get(each or "", 0) for each in side] if side is not None else None
        columns["aggressor_side"] = pa.array(sides or [0] * frame.height, pa.uint8())
        columns["trade_id"] = _trade_ids(frame)
    times = frame["ts"]
    if labels is not None:
        times = times.dt.offset_by(labels[1])
    ends = times.dt.epoch("ns").cast(pl.UInt64).to_arrow()
    columns |= {"ts_event": ends, "ts_init": ends}
    metadata = {
        "instrument_id": instrument_id,
        "price_precision": str(symbol.price),
        "size_precision": str(symbol.size),
        **({"bar_type": f"{instrument_id}-{labels[0]}"} if labels else {}),
    }
    fields = [pa.field(name, column.type, nullable=False) for name, column in columns.items()]
    return pa.table(list(columns.values()), schema=pa.schema(fields, metadata))


def _trade_ids(frame: pl.DataFrame) -> pa.Array:
    """Return the service's ids. If there are none (options), use the time and the position in the piece."""
    ids = [pl.col("id").cast(pl.String)] if "id" in frame.columns else []
    made = pl.concat_str(pl.col("ts").dt.epoch("ns"), pl.int_range(pl.len()), separator="-")
    return frame.select(pl.coalesce(*ids, made)).to_series().to_arrow().cast(pa.string())


def _to_integers(values: pl.Series, decimals: int) -> pa.Array:
    """Return numbers as NautilusTrader's integers, exact to `decimals`."""
    scaled = (values * 10.0**decimals).round() if values.dtype.is_float() else values * 10**decimals
    more = _SCALE - decimals
    kind = pa.decimal128(36 - more, 0)
    if abs(scaled).max() < _INT64:
        whole = scaled.cast(pl.Int64).to_arrow().cast(kind)
    else:
        whole = pa.array(map(int, scaled), kind)
    factor = pa.scalar(10**more, pa.decimal128(more + 1, 0))
    wide = pc.multiply(whole, factor)  # decimal128: 128 bits, little-endian
    return pa.Array.from_buffers(_FIXED, len(wide), [None, wide.buffers()[1]], offset=wide.offset)
