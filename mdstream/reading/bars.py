"""Bars of any length for readers, and the comparison of built bars with the service's own.

Longer bars are merged from the shorter ones that the engine builds. Bars of a number of trades, of volume
or of money are built from trades. Both put the parts of a symbol into buckets. A bar has the first,
highest, lowest and last price of its bucket, its volume, number of trades and vwap.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import polars as pl

from mdstream.errors import ConfigError
from mdstream.streams.bar_rules import BarRules, split_conditions
from mdstream.streams.marks import is_marked

_TIME = re.compile(r"(\d+)\s*(s|m|h|d)")
_TRADED = re.compile(r"(\d+(?:\.\d+)?)\s*(trades|volume|dollars)")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_MAX_COUNT = 1e12
_DAY_ZONE = "America/New_York"
_PRICES = ("open", "high", "low", "close")
_NUMBERS = (*_PRICES, "volume", "trade_count", "vwap")
_KEY = ["symbol", "ts"]

_TOLERANCE = 1e-9
"""Relative difference up to which two floats count as equal."""
_TOLERANCES = {"vwap": 1e-6, "trade_count": 0.0}
"""Columns with another one."""
_ROUNDING = {"vwap": 5.1e-7}
"""Absolute difference that is allowed besides: the service rounds `vwap` to six decimal places."""


@dataclass(frozen=True, slots=True)
class BarLength:
    """Length of a bar: `count` times a unit of time (s, m, h, d) or of what is traded."""

    count: float
    unit: str

    @property
    def is_time(self) -> bool:
        return self.unit in "smhd"

    @property
    def source(self) -> str:
        """The channel that such bars are built from."""
        if not self.is_time:
            return "trades"
        seconds = self.count * _SECONDS.get(self.unit, 86_400)
        return "bars_1s" if seconds % 60 else "bars_1m"

    @classmethod
    def parse(cls, text: str) -> BarLength:
        """Return the length that a string such as `5m` or `1000 trades` means. Raises `ConfigError`."""
        for pattern in (_TIME, _TRADED) if isinstance(text, str) else ():
            if (found := pattern.fullmatch(text.strip())) and 0 < float(found[1]) <= _MAX_COUNT:
                return cls(float(found[1]), found[2])
        raise ConfigError(
            f"every: {text!r} is not a length of bars: write 30s, 5m, 1h or 1d, or 1000 trades, "
            "50000 volume or 1000000 dollars"
        )


def keep_last_revision(bars: pl.DataFrame) -> pl.DataFrame:
    """Return the last row of each bar, by symbol and time, without bars whose every trade was cancelled."""
    kept = bars.unique(_KEY, keep="last", maintain_order=True)
    return kept.filter(pl.col("open").is_not_null()).sort(_KEY)


def merge_bars(bars: pl.DataFrame, length: BarLength) -> pl.DataFrame:
    """Return bars of a longer time, merged from the shorter `bars` of all symbols.

    `ts` is the start of a bar; days are those of New York. A bar is `complete` if no bar of any symbol in
    its time is incomplete, and a later one has started.
    """
    bars = keep_last_revision(bars)
    if not bars.height:
        return bars
    if length.unit == "d":
        local = pl.col("ts").dt.convert_time_zone(_DAY_ZONE).dt.truncate(f"{int(length.count)}d")
        begin = local.dt.convert_time_zone("UTC")
    else:
        begin = pl.col("ts").dt.truncate(f"{int(length.count)}{length.unit}")
    parts = bars.with_columns(begin.alias("_begin"))
    missed = parts.filter(~pl.col("complete"))["_begin"].unique()
    oldest, newest = parts["ts"].min(), parts["_begin"].max()
    whole = ~pl.col("_begin").is_in(missed.implode())
    whole &= (pl.col("_begin") >= oldest) & (pl.col("_begin") < newest)
    return (
        _aggregate(parts, ["symbol", "_begin"])
        .with_columns(whole.alias("complete"))
        .drop("ts")
        .rename({"_begin": "ts"})
        .select(bars.columns)
        .sort(_KEY)
    )


def build_bars(trades: pl.DataFrame, rules: BarRules, length: BarLength) -> pl.DataFrame:
    """Return bars of what is traded, from a stream's trades in the order of receipt.

    A trade belongs to bar number floor(x / `length`), where x is what the symbol traded before: trades,
    volume or money. `ts` and `end` are the times of the bar's first and last trade. A bar is `complete` if
    a later one has started; but retention may have dropped trades of the oldest bar.
    """
    known = pl.col("price").is_not_null() & pl.col("size").is_not_null()
    if rules.mark in trades.columns:
        trades = trades.filter(~is_marked(rules))
    counting = _add_effects(trades, rules).filter(pl.col("_volume") & known)
    size = pl.col("size").cast(pl.Float64)
    amounts = {"trades": known.cast(pl.Float64), "volume": size, "dollars": size * pl.col("price")}
    amount = amounts[length.unit]
    before = (amount.cum_sum() - amount).over("symbol")
    # Sums of fractions are not exact: a result just below a whole number counts as that number.
    bucket = (before / length.count + _TOLERANCE).floor()
    price = pl.when(pl.col("_price")).then(pl.col("price"))
    weight = pl.when(pl.col("_price")).then(pl.col("size")).otherwise(0)
    parts = counting.select(
        "symbol",
        "ts",
        bucket.alias("bar"),
        *(price.alias(name) for name in (*_PRICES, "vwap")),
        pl.col("size").alias("volume"),
        pl.lit(1, pl.Int64).alias("trade_count"),
        weight.alias("vwap_volume"),
        pl.lit(value=False).alias("revised"),
        "recv_ts",
        pl.col("ts").alias("end"),
    )
    grouped = _aggregate(parts, ["symbol", "bar"], pl.col("end").last())
    is_over = pl.col("bar") < pl.col("bar").max().over("symbol")
    return (
        grouped.with_columns(is_over.alias("complete"))
        .filter(pl.col("open").is_not_null())
        .sort("symbol", "bar")
        # Null if the amounts are so large that the number has no 64 bits.
        .with_columns(pl.col("bar").cast(pl.Int64, strict=False))
    )


def _aggregate(parts: pl.DataFrame, keys: list[str], *more: pl.Expr) -> pl.DataFrame:
    """Return a bar for each bucket, without `complete`; `parts` are in order."""
    weight = pl.col("vwap_volume").cast(pl.Float64)
    average = (pl.col("vwap") * weight).sum() / weight.sum()
    return parts.group_by(keys, maintain_order=True).agg(
        pl.col("ts").first(),
        pl.col("open").drop_nulls().first(),
        pl.col("high").max(),
        pl.col("low").min(),
        pl.col("close").drop_nulls().last(),
        pl.col("volume").sum(),
        pl.col("trade_count").sum(),
        pl.when(weight.sum() > 0).then(average).otherwise(pl.col("vwap").drop_nulls().last()).alias("vwap"),
        pl.col("vwap_volume").sum(),
        pl.col("revised").any(),
        pl.col("recv_ts").max(),
        *more,
    )


def _add_effects(trades: pl.DataFrame, rules: BarRules) -> pl.DataFrame:
    """Return trades with two columns, `_price` and `_volume`: whether they count in prices, in volume."""
    names = [name for name in ("conditions", "tape") if name in trades.columns]
    if not names:
        return trades.with_columns(_price=pl.lit(value=True), _volume=pl.lit(value=True))
    coded = trades.with_columns(pl.col(name).to_physical().alias(f"_{name}") for name in names)
    codes = [f"_{name}" for name in names]
    kinds = coded.unique(codes).select(*names, *codes)
    flags = []
    for row in kinds.iter_rows(named=True):
        conditions = row["conditions"]
        if conditions is not None and rules.has_condition_list:
            conditions = split_conditions(conditions)
        flags.append(rules.counts(conditions or (), row.get("tape") or ""))
    schema = {"_price": pl.Boolean, "_volume": pl.Boolean}
    effects = kinds.select(codes).hstack(pl.DataFrame(flags, schema, orient="row"))
    return coded.join(effects, on=codes, how="left", nulls_equal=True, maintain_order="left")


def compare_bars(served: pl.DataFrame, built: pl.DataFrame) -> pl.DataFrame:
    """Return the service's minute bars beside the complete ones that were built here, a row for each.

    A row has its numbers as `<name>_served` and `<name>_built`, and in `differing` the names of those that
    differ. A bar that one side lacks has nulls for that side and all names in `differing`; only bars
    between the first and last minute that the service sent count. Bars that were amended here after the
    service last sent them are left out.
    """
    minutes = served.filter(pl.col("kind").cast(pl.String) != "daily")
    minutes = minutes.unique(_KEY, keep="last", maintain_order=True)
    own = keep_last_revision(built)
    missed = own.filter(~pl.col("complete"))["ts"].unique()
    seen = own.filter("complete")["ts"]
    minutes = minutes.filter(
        ~pl.col("ts").is_in(missed.implode()) & pl.col("ts").is_between(seen.min(), seen.max())
    )
    # The service's last minute may not have arrived in full, and it does not send bars without prices.
    expected = own.filter(
        ~pl.col("ts").is_in(missed.implode())
        & pl.col("ts").is_between(minutes["ts"].min(), minutes["ts"].max(), closed="left")
        & pl.col("open").is_not_null()
    )
    own = pl.concat([own.join(minutes, on=_KEY, how="semi"), expected]).unique(_KEY)
    values = (*_NUMBERS, "recv_ts")
    joined = minutes.select(*_KEY, *(pl.col(n).alias(f"{n}_served") for n in values)).join(
        own.select(*_KEY, *(pl.col(n).alias(f"{n}_built") for n in values)),
        on=_KEY,
        how="full",
        coalesce=True,
    )
    # Ours alone has what arrived after the service last sent the bar, mostly amendments.
    later = (pl.col("recv_ts_built") > pl.col("recv_ts_served")).fill_null(value=False)
    joined = joined.filter(~later).drop("recv_ts_built", "recv_ts_served")
    differing = [pl.when(~_equal(name)).then(pl.lit(name)) for name in _NUMBERS]
    return joined.with_columns(pl.concat_list(differing).list.drop_nulls().alias("differing")).sort(
        "ts", "symbol"
    )


def _equal(name: str) -> pl.Expr:
    served, built = pl.col(f"{name}_served"), pl.col(f"{name}_built")
    allowed = _TOLERANCES.get(name, _TOLERANCE) * served.abs() + _ROUNDING.get(name, 0.0)
    # Every bar has a volume: a null there means that one side lacks the bar, not only a price.
    absent = pl.col("volume_served").is_null() | pl.col("volume_built").is_null()
    equal = ((served - built).abs() <= allowed).fill_null(served.is_null() & built.is_null())
    return equal & ~absent
