"""What a run says about itself: its `run.json`, which frames it will have, which symbols it knows."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from mdstream.errors import UnknownNameError
from mdstream.frames.layout import arrow_schema
from mdstream.streams import STREAMS
from mdstream.streams.books import BOOK_DEPTH, book_channel, books_frame_channel
from mdstream.streams.spec import StreamSpec
from mdstream.streams.symbols import why_no_symbol
from mdstream.telemetry import schema as telemetry
from mdstream.text.nearest import differ_in_form
from mdstream.text.patterns import is_pattern

_TELEMETRY = (
    telemetry.STREAMS,
    telemetry.PROCESSES,
    telemetry.CORES,
    telemetry.MACHINE,
    telemetry.EVENTS,
    telemetry.SYMBOLS,
    telemetry.BATCHES,
)


class RunFacts:
    """The facts about the run in the folder `path`, read again as long as the engine adds to them.

    `received` returns the symbols that a stream of the run has received so far.
    """

    # Written by the methods, under the attachment's lock.
    info: dict[str, Any]
    """Contents of `run.json`."""
    _added: dict[str, set[str]]
    """By stream: symbols that this process has subscribed, which the engine may not have noted yet."""
    _may_come: set[tuple[str, str]]
    """Stream and symbol: what was unknown at first, and may still come."""

    def __init__(self, path: Path, received: Callable[[str], Collection[str]]) -> None:
        self._path = path
        self._list_received = received
        self.info = json.loads((path / "run.json").read_text())
        self._added = {}
        self._may_come = set()

    def refresh(self) -> None:
        """Read `run.json` again, unless the run has ended."""
        with contextlib.suppress(FileNotFoundError):
            self.info = json.loads((self._path / "run.json").read_text())

    @property
    def run(self) -> str:
        """The name of the run."""
        return str(self.info["run"])

    @property
    def streams(self) -> list[str]:
        """The streams of the run; all that there are, while the engine has not noted them yet."""
        if "streams" not in self.info:
            self.refresh()
        return list(self.info.get("streams", STREAMS))

    # -- frames

    @property
    def declared_frames(self) -> list[str]:
        """The names of the frames that the run has as soon as it is up."""
        return [
            *(f"{stream}.{name}" for stream in self.streams for name in _schemas_of(STREAMS[stream])),
            *(f"telemetry.{channel.name}" for channel in _TELEMETRY),
        ]

    @property
    def declared_chains(self) -> list[str]:
        """The names of the views with option chains."""
        return [f"{stream}.chains" for stream in self.streams if STREAMS[stream].chain]

    def schema(self, name: str) -> pa.Schema | None:
        """Return the schema that a frame has, or will have; None if the run will have no such frame."""
        stream, _, channel = name.partition(".")
        if stream == "telemetry":
            return next((arrow_schema(each.columns) for each in _TELEMETRY if each.name == channel), None)
        return _schemas_of(STREAMS[stream]).get(channel) if stream in self.streams else None

    # -- symbols

    def add_symbols(self, stream: str, symbols: Iterable[str]) -> None:
        """Note symbols that were subscribed just now."""
        self._added.setdefault(stream, set()).update(symbols)

    def check_symbols(self, stream: str, symbols: Iterable[str]) -> None:
        """Raise `UnknownNameError` for a symbol that `stream` neither follows nor has received.

        So is a pattern, whatever the stream follows: rows are compared with whole symbols.
        """
        if stream not in STREAMS:
            return
        received = self._list_received(stream)
        for symbol in symbols:
            if symbol in received or (stream, symbol) in self._may_come:
                continue
            followed = self._list_followed(stream)
            if is_pattern(symbol):
                raise UnknownNameError.among(
                    received if followed is None else [*received, *(followed - {"*"})],
                    symbol,
                    f"symbols: {symbol!r} is a pattern, and a frame takes whole symbols (a store takes "
                    "patterns)",
                )
            if followed is not None and not _is_expected(STREAMS[stream], symbol, followed, received):
                raise UnknownNameError.among(
                    [*received, *followed],
                    symbol,
                    f"symbols: {symbol!r} is not a symbol that {stream} follows in run {self.run}"
                    + _explain_underlying(STREAMS[stream], symbol, followed),
                )
            if why := why_no_symbol(symbol):
                raise UnknownNameError.among(received, symbol, f"symbols: {why}")
            self._may_come.add((stream, symbol))

    def choose_stream(self, streams: Sequence[str], symbol: str) -> str:
        """Return the one of `streams` that follows `symbol`. Raises `UnknownNameError` if none does."""
        failures = []
        for stream in streams:
            try:
                self.check_symbols(stream, [symbol])
            except UnknownNameError as error:
                failures.append(error)
            else:
                return stream
        raise max(failures, key=lambda error: len(error.nearest))

    def resolve_root(self, stream: str, underlying: str) -> str:
        """Return what the contracts of `underlying` begin with.

        Raises `UnknownNameError` if the stream neither follows it nor has contracts of it.
        """
        chain = STREAMS[stream].chain
        assert chain is not None, "a stream with chains"
        root = chain.root_of(underlying)
        roots = {chain.underlying_of(s) for s in self._list_received(stream) if chain.is_contract(s)}
        followed = self._list_followed(stream)
        if root in roots or followed is None or "*" in followed:
            return root
        known = roots | {chain.underlying_of(s) if chain.is_contract(s) else s for s in followed}
        if not any(chain.root_of(each) == root for each in known):
            raise UnknownNameError.among(
                known, underlying, f"chain: {stream} has no contracts of {underlying!r} in run {self.run}"
            )
        return root

    def _list_followed(self, stream: str) -> set[str] | None:
        """Return the subscribed symbols; None while the engine has not noted them yet."""
        self.refresh()
        noted: Mapping[str, list[str]] | None = self.info.get("symbols")
        return None if noted is None else {*noted.get(stream, ()), *self._added.get(stream, ())}


def _schemas_of(spec: StreamSpec) -> dict[str, pa.Schema]:
    """Return the schemas of a stream's frames, by channel."""
    found = {c.name: arrow_schema(c.columns) for c in (*spec.received_channels, *spec.built_bars)}
    if spec.latest:
        found["latest"] = arrow_schema(spec.latest_channel.columns, keyed="yes", levels="0")
    if book_channel(spec) is not None:
        columns = books_frame_channel().columns
        found["books"] = arrow_schema(columns, keyed="yes", levels=str(BOOK_DEPTH))
    return found


def _is_expected(spec: StreamSpec, symbol: str, followed: set[str], received: Collection[str]) -> bool:
    """Return whether rows of a symbol that was never received may still come."""
    if "*" in followed:
        return not any(differ_in_form(symbol, each) for each in received)
    chain = spec.chain
    if chain is None or symbol in filter(chain.is_contract, followed):
        return symbol in followed
    # The first fetch of an underlying's chain brings all of its contracts.
    root = chain.underlying_of(symbol) if chain.is_contract(symbol) else ""
    is_followed = any(chain.is_root_of(root, each) for each in followed)
    return is_followed and not any(chain.underlying_of(each) == root for each in received)


def _explain_underlying(spec: StreamSpec, symbol: str, followed: set[str]) -> str:
    if spec.chain is None or symbol not in followed:
        return ""
    return f": it is an underlying, and rows are those of its contracts (all: chain({symbol!r}))"
