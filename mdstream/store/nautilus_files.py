"""The files of NautilusTrader's `ParquetDataCatalog`: their names, and the definitions of instruments."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq


@dataclass(frozen=True, slots=True)
class Symbol:
    """A symbol, and the decimals of its prices and sizes."""

    name: str
    price: int
    size: int


def folder_name(identifier: str) -> str:
    """Return the folder of an instrument."""
    return identifier.replace("/", "")


def write(table: pa.Table, folder: Path) -> None:
    """Write a file: it is complete or does not exist."""
    folder.mkdir(parents=True, exist_ok=True)
    first, last = (_format_time(table["ts_init"][at].as_py()) for at in (0, -1))
    path = folder / f"{first}_{last}.parquet"
    partial = path.with_suffix(".partial")
    pq.write_table(table, partial, compression="zstd")
    partial.rename(path)


@contextmanager
def replace_folders(catalog: Path) -> Iterator[Path]:
    """Yield an empty folder; at the end, move its folders `data/KIND/NAME` to their places in `catalog`.

    What is in such a place stays until all that is new is complete, and remains after an error.
    """
    catalog.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".export-", dir=catalog))
    new, old = work / "new", work / "old"
    try:
        yield new
        for folder in sorted(new.glob("*/*/*")):
            place = folder.relative_to(new)
            _exchange(folder, catalog / place, old / place)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _exchange(new: Path, place: Path, old: Path) -> None:
    """Move what is in a place to `old`, and `new` into the place."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        old.parent.mkdir(parents=True, exist_ok=True)
        place.rename(old)
    try:
        new.rename(place)
    except OSError:
        if old.exists():
            old.rename(place)
        raise


def _format_time(ns: int) -> str:
    second, beyond = divmod(ns, 1_000_000_000)
    when = pl.Series([second * 1_000_000]).cast(pl.Datetime("us"))[0]
    return f"{when:%Y-%m-%dT%H-%M-%S}-{beyond:09d}Z"


def has_decimals(folder: Path, symbol: Symbol) -> bool:
    """Return whether an instrument's folder has a definition whose decimals suffice."""
    files = folder.glob("*.parquet")
    return any(pq.read_table(file)["price_precision"][0].as_py() >= symbol.price for file in files)


def write_instrument(folder: Path, kind: str, symbol: Symbol, venue: str) -> None:
    """Write the definition that a backtest needs."""
    increment = _format_increment(symbol.price)
    values: dict[str, Any] = {
        "id": f"{symbol.name}.{venue}",
        "raw_symbol": symbol.name,
        "price_precision": symbol.price,
        "price_increment": increment,
        "margin_init": "0",
        "margin_maint": "0",
        "maker_fee": "0",
        "taker_fee": "0",
        "info": b"null",
        "ts_event": 0,
        "ts_init": 0,
    }
    if kind == "equity":
        values |= {"currency": "USD", "lot_size": "1", "isin": None}
    elif kind == "currency_pair":
        base, _, quote = symbol.name.partition("/")
        values |= {
            "base_currency": base,
            "quote_currency": quote,
            "size_precision": symbol.size,
            "size_increment": _format_increment(symbol.size),
            "multiplier": "1",
            "lot_size": None,
            **dict.fromkeys(
                f"{edge}_{what}" for what in ("quantity", "notional", "price") for edge in ("max", "min")
            ),
        }
    else:
        root, expiry, right, strike = _parse_contract(symbol.name)
        values |= {
            "underlying": root,
            "asset_class": "EQUITY",
            "exchange": None,
            "option_kind": "CALL" if right == "C" else "PUT",
            "strike_price": f"{strike:.3f}",
            "currency": "USD",
            "activation_ns": 0,
            "expiration_ns": expiry,
            "size_precision": 0,
            "size_increment": "1",
            "multiplier": "100",
            "lot_size": "1",
        }
    names = {"equity": "Equity", "currency_pair": "CurrencyPair", "option_contract": "OptionContract"}
    schema = pa.schema([pa.field(n, _field_type(n)) for n in values], {"class": names[kind]})
    write(pa.Table.from_pylist([values], schema), folder)


def _parse_contract(name: str) -> tuple[str, int, str, float]:
    """Return root, end of the last day in ns since 1970 UTC, right and strike of a contract."""
    day = datetime.strptime(name[-15:-9], "%y%m%d").replace(tzinfo=UTC) + timedelta(days=1)
    return name[:-15], int(day.timestamp()) * 1_000_000_000, name[-9], int(name[-8:]) / 1000


def _field_type(name: str) -> pa.DataType:
    if name.endswith("_precision"):
        return pa.uint8()
    if name.startswith("ts_") or name.endswith("_ns"):
        return pa.uint64()
    return pa.binary() if name == "info" else pa.string()


def _format_increment(decimals: int) -> str:
    return f"{10.0**-decimals:.{decimals}f}"
