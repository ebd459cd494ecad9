"""REST bodies to records: which values of a body are records, of which symbol, and where they are.

    body ─► `split_body` ─► records, each with its symbol and its path ─► `Cutter` ─► the bytes of a record

A body with a symbol more than once is written again before that (`repeated.py`).
Only `split_body` says what a record is. The bytes of a record are found by its path, never by counting, so
they are its own whatever stands between the records: null, empty ones, numbers, texts.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import orjson

from mdstream.errors import UnfitError
from mdstream.handoff.ticket import BodyContents, Reject
from mdstream.streams.spec import Channel, PayloadKind, StreamSpec
from mdstream.venues.alpaca.bodies import NEXT_PAGE_TOKEN, ONE_SYMBOL, SYMBOL, TYPE, page_token_in
from workers.decoding.columns import Message, list_of, type_name
from workers.decoding.payloads import Piece
from workers.decoding.repeated import has_repeated, join_repeated
from workers.decoding.salvage import Unreadable, read_body, split_value

Path = tuple[str | int, ...]
"""The names of members and the indices of items that lead to a value; empty for the whole body."""


class ParsedBody(NamedTuple):
    """A REST body's records, each with its symbol (empty if records name their own) and its path."""

    channel: Channel
    records: list[Any]
    symbols: list[str]
    paths: list[Path]
    page_token: str
    rest: bytes = b""
    """Bytes after its end."""
    joined: bytes = b""
    """The body as it was written again, if names were repeated; paths lead into it."""


def parse_body(piece: Piece, spec: StreamSpec) -> ParsedBody:
    """Parse and split a REST body. Raises `UnfitError` if it cannot be used."""
    member = spec.member_of(piece.kind)
    try:
        parsed = orjson.loads(piece.data)
    except orjson.JSONDecodeError as error:
        joined = join_repeated(bytes(piece.data), member)
        found = read_body(joined, member)
        if found is None:
            raise UnfitError(f"not JSON: {error}") from error
        return split_body(found[0], spec, piece.kind)._replace(rest=found[1], joined=joined)
    if not has_repeated(piece.data, parsed):
        return split_body(parsed, spec, piece.kind)
    joined = join_repeated(bytes(piece.data), member)
    return split_body(orjson.loads(joined), spec, piece.kind)._replace(joined=joined)


def split_body(body: Any, spec: StreamSpec, kind: PayloadKind) -> ParsedBody:
    """Split a REST body. Raises `UnfitError` if it is not a body of `kind`."""
    if type(body) is not dict:
        raise UnfitError(f"expected an object, got {type_name(body)}")
    page_token = _page_token(body)
    name, channel = spec.member_of(kind), spec.channel_of(kind)
    if channel is None:
        raise UnfitError(f"{spec.name} has no {name}")
    if kind is PayloadKind.LISTED:
        if name not in body:
            raise UnfitError(f"{name}: missing")
        records = list_of(body.get(name), name)
        paths: list[Path] = [(name, index) for index in range(len(records))]
        return ParsedBody(channel, records, [""] * len(records), paths, page_token)
    made = ParsedBody(channel, [], [], [], page_token)
    for symbol, path, value in _values(body, name, kind):
        for at, record in _records(value, path):
            if type(record) is dict:
                record[SYMBOL] = symbol
                record.pop(TYPE, None)  # only messages of streams have a type
            made.records.append(record)
            made.symbols.append(symbol)
            made.paths.append(at)
    return made


def _values(body: Message, name: str, kind: PayloadKind) -> Iterator[tuple[str, Path, Any]]:
    """Yield each symbol of a body, the path of its value, and the value: a record, a list, or nothing."""
    member = name if name in body else name[:-1]
    content = body.get(member)
    is_bare = content is None and kind is PayloadKind.SNAPSHOTS
    path: Path = () if is_bare else (member,)
    if ONE_SYMBOL in body:
        symbol = body[ONE_SYMBOL]
        if type(symbol) is not str:
            raise UnfitError(f"{ONE_SYMBOL}: expected text, got {type_name(symbol)}")
        yield symbol, path, body if is_bare else content
        return
    content = body if is_bare else {} if content is None else content
    if type(content) is not dict:
        raise UnfitError(f"{name}: expected an object by symbol, got {type_name(content)}")
    for symbol, value in content.items():
        yield symbol, (*path, symbol), value


def _records(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """Yield the records of a symbol, which may be none, with their paths."""
    if type(value) is list:
        for index, record in enumerate(value):
            yield (*path, index), record
    elif value:
        yield path, value


def _page_token(body: Message) -> str:
    token = body.get(NEXT_PAGE_TOKEN)
    if type(token) is Unreadable:
        raise UnfitError(f"{NEXT_PAGE_TOKEN}: {token.reason}")
    try:
        return page_token_in(body)
    except ValueError as error:
        raise UnfitError(str(error)) from error


def make_contents(body: ParsedBody, rejects: Sequence[Reject], empty: Collection[int] = ()) -> BodyContents:
    """Return the contents of a body. The records in `rejects` have no rows, unless only a part is there;
    neither have the `empty` ones.
    """
    records = Counter(body.symbols)
    rejects = [reject for reject in rejects if not reject.part and reject.message < len(body.symbols)]
    records.subtract(body.symbols[r.message] for r in rejects)
    records.subtract(body.symbols[message] for message in empty)
    refused: dict[str, str] = {}
    for reject in rejects:
        symbol = body.symbols[reject.message]
        if not records[symbol]:
            refused.setdefault(symbol, reject.reason)
    return BodyContents(frozenset(+records), refused, body.page_token)


# -- the bytes of records


class BodyCutter:
    """Cuts the bytes of records out of a body. Each object or list on the way is split once."""

    def __init__(self, piece: Piece, spec: StreamSpec) -> None:
        self._body = bytes(piece.data)
        self._split: dict[Path, dict[str | int, bytes]] = {}
        self._joined = self._body
        self._paths: list[Path] = []
        with contextlib.suppress(UnfitError):
            body = parse_body(piece, spec)
            self._joined, self._paths = body.joined or self._body, body.paths

    def complete(self, reject: Reject) -> Reject:
        """Return a reject with the bytes and the place of its record, or of the part at fault."""
        if reject.data:
            return reject
        if not 0 <= reject.message < len(self._paths):
            return reject._replace(data=self._body)
        path = self._paths[reject.message]
        if not reject.part:
            return reject._replace(data=self._cut(path), place=_place_of(path))
        path = *path, reject.part
        data = b"{%b:%b}" % (orjson.dumps(reject.part), self._cut(path))
        return reject._replace(data=data, place=_place_of(path))

    def _cut(self, path: Path) -> bytes:
        if not path:
            return self._body
        above = path[:-1]
        if above not in self._split:
            self._split[above] = split_value(self._cut(above) if above else self._joined)
        return self._split[above].get(path[-1], self._body)


def _place_of(path: Path) -> str:
    names = (f"[{name}]" if isinstance(name, int) else f".{name[:40]}" for name in path)
    return f"record {''.join(names)[1:]}" if path else "whole body"
