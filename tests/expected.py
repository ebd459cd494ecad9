"""A plain model of the rows that a stream's messages become: one literal mapping per message type.

It is written from the protocol's description, and shares no code with the decoder that it checks.
"""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
Message = dict[str, Any]

COINS = ("crypto", "perps")
"""Streams whose trades and quotes have neither exchange nor conditions."""


def conditions(value: Any) -> Any:
    """Return the conditions of a stock trade or quote as the frame shows them."""
    return None if value is None else "".join(value)


def trade(stream: str, m: Message) -> Row:
    row = {"symbol": m["S"], "ts": int(m["t"]), "price": float(m["p"]), "size": float(m["s"])}
    if stream in COINS:
        return {**row, "id": m["i"], "taker_side": m["tks"]}
    row["exchange"] = m["x"]
    if stream == "options":
        return {**row, "conditions": m["c"]}
    return {**row, "conditions": conditions(m["c"]), "tape": m["z"], "id": m["i"], "update": m.get("u")}


def quote(stream: str, m: Message) -> Row:
    row: Row = {"symbol": m["S"], "ts": int(m["t"])}
    for side, letter in (("bid", "b"), ("ask", "a")):
        price, size = float(m[letter + "p"]), float(m[letter + "s"])
        exchange = m.get(letter + "x")
        if price == 0:  # the quote has no active side
            price, size = None, size or None
            exchange = exchange if exchange and exchange.strip() else None
        row[f"{side}_price"], row[f"{side}_size"] = price, size
        if stream not in COINS:
            row[f"{side}_exchange"] = exchange
    if stream == "options":
        row["conditions"] = m["c"]
    if stream == "stocks":
        row |= {"conditions": conditions(m["c"]), "tape": m["z"]}
    return row


def bar(stream: str, m: Message) -> Row:
    kind = {"b": "minute", "u": "updated", "d": "daily"}[m["T"]]
    return {
        "symbol": m["S"],
        "ts": int(m["t"]),
        "open": float(m["o"]),
        "high": float(m["h"]),
        "low": float(m["l"]),
        "close": float(m["c"]),
        "volume": float(m["v"]),
        "trade_count": m["n"],
        "vwap": float(m["vw"]),
        "kind": kind,
    }


def book(m: Message) -> list[Row]:
    reset = m.get("r", False)
    head = {"symbol": m["S"], "ts": int(m["t"]), "reset": reset}
    levels = [
        {**head, "side": side, "price": float(level["p"]), "size": float(level["s"])}
        for side, key in (("bid", "b"), ("ask", "a"))
        for level in m[key]
    ]
    if reset and not levels:
        return [{**head, "side": None, "price": None, "size": None}]
    return levels


def status(m: Message) -> Row:
    return {
        "symbol": m["S"],
        "ts": int(m["t"]),
        "status_code": m["sc"],
        "status_message": m["sm"],
        "reason_code": m["rc"],
        "reason_message": m["rm"],
        "tape": m["z"],
    }


def luld(m: Message) -> Row:
    return {
        "symbol": m["S"],
        "ts": int(m["t"]),
        "limit_up_price": float(m["u"]),
        "limit_down_price": float(m["d"]),
        "indicator": m["i"],
        "tape": m["z"],
    }


def imbalance(m: Message) -> Row:
    return {"symbol": m["S"], "ts": int(m["t"]), "price": float(m["p"]), "tape": m["z"]}


def correction(m: Message) -> Row:
    return {
        "symbol": m["S"],
        "ts": int(m["t"]),
        "exchange": m["x"],
        "original_id": m["oi"],
        "original_price": float(m["op"]),
        "original_size": float(m["os"]),
        "original_conditions": conditions(m["oc"]),
        "corrected_id": m["ci"],
        "corrected_price": float(m["cp"]),
        "corrected_size": float(m["cs"]),
        "corrected_conditions": conditions(m["cc"]),
        "tape": m["z"],
    }


def cancel(m: Message) -> Row:
    return {
        "symbol": m["S"],
        "ts": int(m["t"]),
        "id": m["i"],
        "exchange": m["x"],
        "price": float(m["p"]),
        "size": float(m["s"]),
        "action": m["a"],
        "tape": m["z"],
    }


def pricing(m: Message) -> Row:
    return {
        "symbol": m["S"],
        "ts": int(m["t"]),
        "exchange": m["x"],
        "index_price": float(m["ip"]),
        "mark_price": float(m["mp"]),
        "funding_rate": float(m["fr"]),
        "open_interest": float(m["oi"]),
        "next_funding_ts": int(m["ft"]),
    }


def article(m: Message) -> Row:
    names = ("id", "headline", "summary", "author", "source", "url", "content", "symbols")
    times = {"created_at": int(m["created_at"]), "updated_at": int(m["updated_at"])}
    return {**{name: m[name] for name in names}, **times}


def rows(stream: str, messages: list[Message]) -> dict[str, list[Row]]:
    """Return channel → rows, in the order of the messages."""
    out: dict[str, list[Row]] = {}
    for m in messages:
        match m["T"]:
            case "t":
                out.setdefault("trades", []).append(trade(stream, m))
            case "q":
                out.setdefault("quotes", []).append(quote(stream, m))
            case "b" | "u" | "d":
                out.setdefault("bars", []).append(bar(stream, m))
            case "o":
                out.setdefault("orderbooks", []).extend(book(m))
            case "s":
                out.setdefault("statuses", []).append(status(m))
            case "l":
                out.setdefault("lulds", []).append(luld(m))
            case "i":
                out.setdefault("imbalances", []).append(imbalance(m))
            case "c":
                out.setdefault("corrections", []).append(correction(m))
            case "x":
                out.setdefault("cancels", []).append(cancel(m))
            case "p":
                out.setdefault("pricing", []).append(pricing(m))
            case "n":
                out.setdefault("articles", []).append(article(m))
            case other:
                raise AssertionError(f"no such message type: {other}")
    return out


def bars(trades: list[Row], effect: Any, interval: int = 60_000_000_000) -> dict[tuple[str, int], Row]:
    """Return bars of `interval` ns by (symbol, begin), from a plain loop over trades in order.

    `effect(trade)` is "all", "volume" or "nothing".
    """
    from fractions import Fraction

    found: dict[tuple[str, int], Row] = {}
    for t in trades:
        what = effect(t)
        if what == "nothing":
            continue
        key = (t["symbol"], t["ts"] - t["ts"] % interval)
        b = found.setdefault(
            key, {"open": None, "volume": Fraction(0), "n": 0, "pv": Fraction(0), "w": Fraction(0)}
        )
        b["volume"] += Fraction(t["size"])
        b["n"] += 1
        if what == "all":
            p = t["price"]
            if b["open"] is None:
                b |= {"open": p, "high": p, "low": p}
            b["high"], b["low"], b["close"] = max(b["high"], p), min(b["low"], p), p
            b["pv"] += Fraction(p * t["size"])
            b["w"] += Fraction(t["size"])
    return {key: b for key, b in found.items() if b["open"] and b["volume"]}
