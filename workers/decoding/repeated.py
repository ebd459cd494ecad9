"""Members that a REST body has more than once: all their records count.

JSON parsers keep the last of equal names, so that the records of the others would be lost silently. So such
a body is written again: values of a symbol become one list, and objects of symbols one object. Kernels
leave these bodies to the fallback decoder.

Within a record, the last of equal names counts, as parsers of JSON and msgpack have it: a record has one
value of each name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from mdstream.errors import UnfitError
from mdstream.venues.alpaca.bodies import NEXT_PAGE_TOKEN, ONE_SYMBOL
from workers.decoding.salvage import TEXT, MemberBytes, list_members, parse_json, split_json, trim

_KEYS = re.compile(TEXT + rb'"[ \t\r\n]*+(:?)', re.DOTALL)


def has_repeated(data: bytes | memoryview, parsed: Any) -> bool:
    """Return whether JSON text has more members than the value that was parsed from it."""
    count, values = 0, [parsed]
    while values:
        value = values.pop()
        if type(value) is dict:
            count += len(value)
            values += [each for each in value.values() if type(each) in (dict, list)]
        elif type(value) is list:
            values += [each for each in value if type(each) in (dict, list)]
    return _KEYS.findall(data).count(b":") > count


def join_repeated(data: bytes, member: str) -> bytes:
    """Return a body in which each symbol, and each member with records, is there once.

    `member` holds the records. Raises `UnfitError` if the body has two symbols or two page tokens.
    """
    data = trim(data)
    found = list_members(data)
    if found is None:
        return data
    members, end = found
    for name in (NEXT_PAGE_TOKEN, ONE_SYMBOL):
        if len({each.value for each in members if each.name == name}) > 1:
            raise UnfitError(f"{name}: the body has several")
    has_one_symbol = any(each.name == ONE_SYMBOL for each in members)
    joined: list[MemberBytes] = []
    for same in _group(members):
        holds_records = same[0].name in (member, member[:-1])
        if holds_records and not has_one_symbol and (symbols := _list_symbols(same)) is not None:
            value = _write([_join(each) for each in _group(symbols)])
            joined.append(same[0]._replace(value=value))
        elif same[0].name in (NEXT_PAGE_TOKEN, ONE_SYMBOL) or (has_one_symbol and not holds_records):
            joined.append(same[-1])  # with one symbol, the body may be a record itself
        else:
            joined.append(_join(same))
    return _write(joined) + data[end:]


def _group(members: Iterable[MemberBytes]) -> list[list[MemberBytes]]:
    """Return the members of each name together."""
    groups: dict[str, list[MemberBytes]] = {}
    for member in members:
        groups.setdefault(member.name, []).append(member)
    return list(groups.values())


def _list_symbols(same: Sequence[MemberBytes]) -> list[MemberBytes] | None:
    """Return the members of all these objects; None if one of them is not an object."""
    objects = [list_members(each.value) for each in same if each.value != b"null"]
    if None in objects or not objects:
        return None
    return [member for found in objects if found is not None for member in found[0]]


def _join(same: Sequence[MemberBytes]) -> MemberBytes:
    """Return one member with the records of all; what is empty has none."""
    if len(same) == 1:
        return same[0]
    items: list[bytes] = []
    full = [each.value for each in same if parse_json(each.value)]
    for value in full:
        found = split_json(value) if value.startswith(b"[") else None
        items += found.items if found is not None and found.end == len(value) else [value]
    value = full[0] if len(full) == 1 else b"[" + b",".join(items) + b"]"
    return same[0]._replace(value=value)


def _write(members: Iterable[MemberBytes]) -> bytes:
    texts = (each.key + b":" + each.value if each.key else each.value for each in members)
    return b"{" + b",".join(texts) + b"}"
