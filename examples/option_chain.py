"""Print the option chain of an underlying: calls and puts side by side, with volatility and Greeks.

It shows `run.chain`, and how to join two halves of a table side by side.
Run it beside an engine that follows the underlying (by default SPY and AAPL):

    python examples/option_chain.py AAPL
"""

from __future__ import annotations

import sys

import polars as pl

import mdstream

SIDES = ("mid", "implied_volatility", "delta", "gamma", "theta", "vega")


def chain(contracts: pl.DataFrame) -> pl.DataFrame:
    """Return the chain of the nearest expiry: a row for each strike, with calls on the left."""
    nearest = contracts.filter(pl.col("expiry") == pl.col("expiry").min())
    calls, puts = (
        nearest.filter(pl.col("right") == right).select(
            "strike", *(pl.col(name).round(4).alias(f"{right}_{name}") for name in SIDES)
        )
        for right in ("call", "put")
    )
    return calls.join(puts, on="strike", how="full", coalesce=True).sort("strike")


def main(underlying: str) -> None:
    """Print the nearest chain of `underlying`."""
    contracts = mdstream.attach().chain(underlying)
    if not contracts.height:
        sys.exit(f"option_chain: no contracts of {underlying} yet; try again in a moment")
    print(f"{underlying}, expiry {contracts['expiry'].sort()[0]}")
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=200, tbl_hide_column_data_types=True):
        print(chain(contracts))


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else "AAPL")
    except mdstream.UnknownNameError as error:
        sys.exit(f"option_chain: {error}; or add it to options.symbols")
    except mdstream.MdstreamError as error:
        sys.exit(f"option_chain: {error}")
