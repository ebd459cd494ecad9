"""Load the kernels: from disk in a moment, or by compiling them once.

`python -m workers.warm` compiles them for all later processes.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import Any

import msgpack
import orjson

from mdstream.errors import Exit
from mdstream.handoff.columns import ResultArea
from mdstream.streams import STREAMS
from mdstream.streams.books import book_channel
from mdstream.streams.spec import VARIABLE, Channel, Kind, PayloadKind
from mdstream.system import children
from mdstream.venues.alpaca.bodies import TYPE
from workers import direct
from workers.aggregation import bars, ladders
from workers.aggregation.aggregate import Effects, make_partials
from workers.aggregation.books import net_rows
from workers.aggregation.latest import newest_rows
from workers.decoding.decoder import Decoder
from workers.decoding.kernel_decoder import has_kernels
from workers.decoding.payloads import Payloads
from workers.kernels import kept

_VALUES = {
    Kind.SYMBOL: "AAPL",
    Kind.TIME: "2024-03-12T10:38:50.79613221Z",
    Kind.FLOAT: 1.5,
    Kind.INT: 100,
    Kind.UINT: 100,
    Kind.BOOL: True,
    Kind.CODE: "C",
    Kind.CONDITIONS: ["@"],
}
_LEVELS = [{"p": 1.5, "s": 2}]


def warm() -> None:
    """Run every kernel once; kernels that are not on disk are compiled and stored."""
    for spec in STREAMS.values():
        messages = [_sample(c) for c in spec.channels if c.types and _is_fixed(c)]
        body: dict[str, Any] = {spec.fetch.member: {}}
        for kind, payload in (
            (PayloadKind.JSON, orjson.dumps(messages)),
            (PayloadKind.MSGPACK, msgpack.packb(messages)),
            (spec.state_kind, orjson.dumps(body)),
        ):
            if not has_kernels(spec, kind):
                continue
            batch, area = Payloads.of([(payload, kind, 0)]), ResultArea(memoryview(b""))
            decoded = Decoder(spec, lambda name: {}).by_kernels(batch, [kind], area)
            if decoded is None or decoded.fell_back or decoded.rejects:
                raise AssertionError(f"kernels do not follow {payload!r}")
            if (rules := spec.bar_rules) is not None and kind.from_stream:
                make_partials(spec, rules, decoded, batch, Effects(rules), lambda column, code: "")
                newest_rows(spec.by_name[rules.trades], decoded.columns[rules.trades], "ts")
            books = book_channel(spec)
            if books is not None and books.name in decoded.columns:
                net_rows(books, decoded.columns[books.name], decoded.order_of(books.name))
    bars.warm()
    ladders.warm()
    direct.warm()
    kept.mark_used()


def _is_fixed(channel: Channel) -> bool:
    return not any(column.kind in VARIABLE for column in channel.columns)


def _sample(channel: Channel) -> dict[str, Any]:
    """Return a message with all columns of a channel."""
    message = {c.key: _VALUES[c.kind] for c in channel.columns if c.key}
    message |= dict.fromkeys(channel.levels or (), _LEVELS)
    return message | {TYPE: channel.types[0]}


def main() -> None:
    """Compile kernels that are missing on disk, or damaged, for this user's later processes.

    With the argument `beside`, do it beside a run: at low priority, and end when the parent ends.
    """
    children.ignore_terminal()
    if "beside" in sys.argv:
        _yield_to_others()
    try:
        with kept.alone():
            if kept.is_damaged():
                kept.discard()
            try:
                warm()
            except OSError:
                raise
            except Exception:
                if "again" in sys.argv:
                    raise
                kept.discard()
                os.execv(sys.executable, children.python("-m", "workers.warm", "again", *sys.argv[1:]))
            kept.complete()
            kept.drop_unused()
    except OSError as error:
        why = error.strerror or error
        sys.exit(f"they cannot be stored in {kept.CACHE}: {why}")


def _yield_to_others() -> None:
    """Let all other processes go first, and end with the one that has the other end of the input.

    This still gets a tenth of a busy core. With less (nice 19, `SCHED_IDLE`), streams that keep all cores
    busy, because they have no kernels, would not have any for an hour.
    """
    os.nice(10)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))

    def watch() -> None:
        while os.read(0, 1):  # not `sys.stdin`, whose lock would be held at the exit
            pass
        os._exit(Exit.ORPHANED)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


if __name__ == "__main__":
    main()
