"""Bars of any kind for readers, and how those built here compare with the service's own.

Longer bars are made of the shorter ones that the engine builds; bars of so many trades, so much volume or
money of the trades themselves. All follow from one definition: a symbol's trades are put into buckets, and
each bucket's first, highest, lowest and last price, volume, count and volume-weighted price make a bar.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import polars as pl

from mdstream.errors import ConfigError
from mdstream.streams.spec import BarRules, split_conditions

_TIME = re.compile(r"(\d+)\s*(s|m|h|d)")
_TRADED = re.compile(r"(\d+(?:\.\d+)?)\s*(trades|volume|dollars)")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_MOST = 1e12
_DAY_ZONE = "America/New_York"
_PRICES = ("open", "high", "low", "close")
_NUMBERS = (*_PRICES, "volume", "trade_count", "vwap")
_KEY = ["symbol", "ts"]
_CLOSE = 1e-9
"""How far two numbers may lie apart, as a share, and still count as the same: the last digits of floats."""
_APART = {"vwap": 1e-6, "trade_count": 0.0}
"""The same for some."""
_ROUNDED = {"vwap": 5.1e-7}
"""How far they may lie apart besides: the service rounds `vwap` to six digits behind the point."""


@dataclass(frozen=True, slots=True)
class Every:
    """How long a bar is: `count` of a `unit`, of time (s, m, h, d) or of what is traded."""

    count: float
    unit: str

    @property
    def is_time(self) -> bool:
        return self.unit in "smhd"

    @property
    def source(self) -> str:
        """The channel that such bars are made of."""
        if not self.is_time:
            return "trades"
        seconds = self.count * _SECONDS.get(self.unit, 86_400)
        return "bars_1s" if seconds % 60 else "bars_1m"

    @classmethod
    def parse(cls, text: str) -> Every:
        """`5m`, `1h`, `1d`; `1000 trades`, `50000 volume`, `1000000 dollars`."""
        for pattern in (_TIME, _TRADED) if isinstance(text, str) else ():
            if (found := pattern.fullmatch(text.strip())) and 0 < float(found[1]) <= _MOST:
                return cls(float(found[1]), found[2])
        raise ConfigError(
            f"every: {text!r} is no length of a bar: write 30s, 5m, 1h or 1d, or 1000 trades, "
            "50000 volume or 1000000 dollars"
        )


def last_rows(bars: pl.DataFrame) -> pl.DataFrame:
    """The bars as they are now: of each the last row, without those whose every trade was cancelled."""
    kept = bars.unique(_KEY, keep="last", maintain_order=True)
    return kept.filter(pl.col("open").is_not_null()).sort(_KEY)


def longer(bars: pl.DataFrame, every: Every) -> pl.DataFrame:
    """Bars of a longer time from the shorter ones of all symbols. `ts` is the begin; days are New York's.

    A bar is `complete` if nothing that falls into it was missed, of any symbol, and later ones are there.
    """
    bars = last_rows(bars)
    if not bars.height:
        return bars
    if every.unit == "d":
        local = pl.col("ts").dt.convert_time_zone(_DAY_ZONE).dt.truncate(f"{int(every.count)}d")
        begin = local.dt.convert_time_zone("UTC")
    else:
        begin = pl.col("ts").dt.truncate(f"{int(every.count)}{every.unit}")
    parts = bars.with_columns(begin.alias("_begin"))
    missed = parts.filter(~pl.col("complete"))["_begin"].unique()
    oldest, newest = parts["ts"].min(), parts["_begin"].max()
    whole = ~pl.col("_begin").is_in(missed.implode())
    whole &= (pl.col("_begin") >= oldest) & (pl.col("_begin") < newest)
    return (
        _grouped(parts, ["symbol", "_begin"])
        .with_columns(whole.alias("complete"))
        .drop("ts")
        .rename({"_begin": "ts"})
        .select(bars.columns)
        .sort(_KEY)
    )


def of_trades(trades: pl.DataFrame, rules: BarRules, every: Every) -> pl.DataFrame:
    """Bars of a stream's trades in their order.

    A trade belongs to bar number floor(x / `every`), x being what was traded before it: trades, volume or
    money. `ts` and `end` are the times of a bar's first and last trade; it is `complete` if a later one
    has begun, and of those that are kept the oldest may have lost trades to retention.
    """
    known = pl.col("price").is_not_null() & pl.col("size").is_not_null()
    counting = _effects(trades, rules).filter(pl.col("_volume") & known)
    size = pl.col("size").cast(pl.Float64)
    what = {"trades": known.cast(pl.Float64), "volume": size, "dollars": size * pl.col("price")}
    if every.is_time:
        bucket = pl.col("ts").dt.truncate(f"{int(every.count)}{every.unit}").to_physical()
    else:
        amount = what[every.unit]
        before = (amount.cum_sum() - amount).over("symbol")
        # Sums of fractions are not exact: what is nearly a whole number is one.
        bucket = (before / every.count + _CLOSE).floor().cast(pl.Int64)
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
    grouped = _grouped(parts, ["symbol", "bar"], pl.col("end").last())
    begun = pl.col("bar") < pl.col("bar").max().over("symbol")
    return (
        grouped.with_columns(begun.alias("complete"))
        .filter(pl.col("open").is_not_null())
        .sort("symbol", "bar")
    )


def _grouped(parts: pl.DataFrame, keys: list[str], *more: pl.Expr) -> pl.DataFrame:
    """The definition: what is in a bucket, as a bar, but for `complete`. Parts are in order."""
    weight = pl.col("vwap_volume").cast(pl.Float64)
    worth = (pl.col("vwap") * weight).sum() / weight.sum()
    return parts.group_by(keys, maintain_order=True).agg(
        pl.col("ts").first(),
        pl.col("open").drop_nulls().first(),
        pl.col("high").max(),
        pl.col("low").min(),
        pl.col("close").drop_nulls().last(),
        pl.col("volume").sum(),
        pl.col("trade_count").sum(),
        pl.when(weight.sum() > 0).then(worth).otherwise(pl.col("vwap").drop_nulls().last()).alias("vwap"),
        pl.col("vwap_volume").sum(),
        pl.col("revised").any(),
        pl.col("recv_ts").max(),
        *more,
    )


def _effects(trades: pl.DataFrame, rules: BarRules) -> pl.DataFrame:
    """Trades with what they count for: `_price`, `_volume`."""
    names = [name for name in ("conditions", "tape") if name in trades.columns]
    if not names:
        return trades.with_columns(_price=pl.lit(value=True), _volume=pl.lit(value=True))
    coded = trades.with_columns(pl.col(name).to_physical().alias(f"_{name}") for name in names)
    codes = [f"_{name}" for name in names]
    kinds = coded.unique(codes).select(*names, *codes)
    flags = []
    for row in kinds.iter_rows(named=True):
        conditions = row["conditions"]
        if conditions is not None and rules.lists:
            conditions = split_conditions(conditions)
        flags.append(rules.counts(conditions or (), row.get("tape") or ""))
    schema = {"_price": pl.Boolean, "_volume": pl.Boolean}
    told = kinds.select(codes).hstack(pl.DataFrame(flags, schema, orient="row"))
    return coded.join(told, on=codes, how="left", nulls_equal=True, maintain_order="left")


def compared(served: pl.DataFrame, built: pl.DataFrame) -> pl.DataFrame:
    """The service's minute bars beside those built here, where these are complete.

    A row a bar: its numbers as `<name>_served` and `<name>_built`, and in `differing` the names of those
    that are not the same. A bar that only one side has, between the first and the last minute that the
    service sent, has nulls for the other, and every name. Left out is what was amended here after the
    service last told of it.
    """
    minutes = served.filter(pl.col("kind").cast(pl.String) != "daily")
    minutes = minutes.unique(_KEY, keep="last", maintain_order=True)
    own = last_rows(built)
    missed = own.filter(~pl.col("complete"))["ts"].unique()
    seen = own.filter("complete")["ts"]
    minutes = minutes.filter(
        ~pl.col("ts").is_in(missed.implode()) & pl.col("ts").is_between(seen.min(), seen.max())
    )
    # Of the last minute some may be on their way; and what sets no price, the service does not send.
    mutual = own.filter(
        ~pl.col("ts").is_in(missed.implode())
        & pl.col("ts").is_between(minutes["ts"].min(), minutes["ts"].max(), closed="left")
        & pl.col("open").is_not_null()
    )
    own = pl.concat([own.join(minutes, on=_KEY, how="semi"), mutual]).unique(_KEY)
    values = (*_NUMBERS, "recv_ts")
    joined = minutes.select(*_KEY, *(pl.col(n).alias(f"{n}_served") for n in values)).join(
        own.select(*_KEY, *(pl.col(n).alias(f"{n}_built") for n in values)),
        on=_KEY,
        how="full",
        coalesce=True,
    )
    # What came after the service's last word on a bar (an amendment, mostly) is in ours alone so far.
    later = (pl.col("recv_ts_built") > pl.col("recv_ts_served")).fill_null(value=False)
    joined = joined.filter(~later).drop("recv_ts_built", "recv_ts_served")
    differing = [pl.when(~_same(name)).then(pl.lit(name)) for name in _NUMBERS]
    return joined.with_columns(pl.concat_list(differing).list.drop_nulls().alias("differing")).sort(
        "ts", "symbol"
    )


def _same(name: str) -> pl.Expr:
    served, built = pl.col(f"{name}_served"), pl.col(f"{name}_built")
    allowed = _APART.get(name, _CLOSE) * served.abs() + _ROUNDED.get(name, 0.0)
    # A bar that one side lacks is no null of a price: every bar has a volume.
    absent = pl.col("volume_served").is_null() | pl.col("volume_built").is_null()
    same = ((served - built).abs() <= allowed).fill_null(served.is_null() & built.is_null())
    return same & ~absent
