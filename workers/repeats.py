"""Rows that pages of history repeat: they are stored once, with the mark that any copy has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import compute

from mdstream.store.schema import NS_SUFFIX
from mdstream.streams.spec import RECV_TS, SYMBOL, Channel

if TYPE_CHECKING:
    import polars as pl

_ROWS_A_GROUP = 131_072


def groups(paths: Sequence[str], schema: pa.Schema) -> Iterator[tuple[pa.Table, int]]:
    """Yield the rows of staged files in row groups, with the columns of `schema`.

    With each comes the number of files before those that it is made of.
    """
    waiting: list[pa.Table] = []
    begin = 0
    for number, path in enumerate(paths, 1):
        table = pa.ipc.open_file(pa.memory_map(path)).read_all()
        for field in schema:
            if field.name not in table.column_names:  # an earlier version staged it
                table = table.append_column(field, pa.nulls(table.num_rows, field.type))
        waiting.append(table.select(schema.names).cast(schema))  # it staged sizes as whole numbers, too
        if sum(table.num_rows for table in waiting) >= _ROWS_A_GROUP:
            yield pa.concat_tables(waiting).unify_dictionaries(), begin
            waiting, begin = [], number
    if waiting:
        yield pa.concat_tables(waiting).unify_dictionaries(), begin


def find_newest(paths: Sequence[str], channel: Channel) -> dict[str, int]:
    """Return the time of the newest row of each symbol in staged files, in microseconds since 1970."""
    newest: dict[str, int] = {}
    for path in paths:
        find_overlap(pa.ipc.open_file(pa.memory_map(path)).read_all(), newest, channel)
    return newest


def find_overlap(group: pa.Table, newest: dict[str, int], channel: Channel) -> dict[str, int]:
    """Return the symbols whose times in a group begin no later than the `newest` of earlier groups ended.

    Pages may repeat those before them. The value is the first of these times, in microseconds since 1970.
    `newest` is brought up to date.
    """
    import polars as pl

    found = pl.from_arrow(group.select([SYMBOL.name, channel.time]))
    assert isinstance(found, pl.DataFrame)
    time = pl.col(channel.time).dt.epoch("us")
    spans = found.group_by(pl.col(SYMBOL.name).cast(pl.String)).agg(
        time.min().alias("a"), time.max().alias("z")
    )
    again = {}
    for symbol, least, most in spans.iter_rows():
        if least <= newest.get(symbol, least - 1):
            again[symbol] = least
        newest[symbol] = max(most, newest.get(symbol, most))
    return again


def read_same_times(
    paths: Sequence[str], group: pa.Table, channel: Channel, since: dict[str, int]
) -> pa.Table:
    """Return the staged rows that may be in `group` too: of symbols from a time on (microseconds since
    1970), those whose time a row of `group` has. Others need no memory.
    """
    found = [group.schema.empty_table()]
    wanted = group[channel.time].combine_chunks().unique()
    for earlier, _ in groups(paths, group.schema):
        has_time = compute.is_in(earlier[channel.time], wanted)
        times = earlier[channel.time].cast(pa.int64())
        for symbol, first in since.items():
            is_wanted = compute.and_(
                compute.equal(earlier[SYMBOL.name].cast(pa.string()), symbol),
                compute.greater_equal(times, first),
            )
            found.append(earlier.filter(compute.and_(is_wanted, has_time)))
    return pa.concat_tables(found).unify_dictionaries()


class Kept(NamedTuple):
    """The rows of a group that no row before them repeats."""

    rows: pa.Table
    differing: int
    """Rows that were dropped although they differ (`Channel.one_per`)."""
    marks: pa.Table | None
    """Rows that were dropped, and have a mark that the first one lacks; texts are strings."""


def drop_repeats(group: pa.Table, earlier: pa.Table, channel: Channel, mark: str) -> Kept:
    """Return a group's rows without those that it, or `earlier` rows of its symbols, have already.

    Equal rows have equal times, so only such rows are compared, unless the times of a symbol are out of
    order. Rows that differ in the column `mark` alone are equal: the service marked the trade meanwhile.
    """
    import polars as pl

    names = group.column_names
    keys = [name for name in names if name not in (RECV_TS.name, RECV_TS.name + NS_SUFFIX)]
    whole = pa.concat_tables([earlier, group]).unify_dictionaries() if earlier.num_rows else group
    times = whole[channel.time].cast(pa.int64()).to_numpy() * 1000
    times += whole[channel.time + NS_SUFFIX].to_numpy()
    steps = np.diff(times)
    symbols = whole[SYMBOL.name].combine_chunks().indices.to_numpy()
    if (steps[symbols[1:] == symbols[:-1]] < 0).any():
        suspects = np.arange(len(times))
    else:
        same = steps == 0
        suspects = np.flatnonzero(np.append(same, False) | np.append(False, same))
    kept = np.ones(len(times), np.bool_)
    differs = np.zeros(len(times), np.bool_)
    marks = None
    if len(suspects):
        found = pl.from_arrow(whole.select(keys).take(pa.array(suspects)))
        assert isinstance(found, pl.DataFrame)
        values = pl.struct(pl.exclude(mark) if mark else pl.all())
        is_new = values.is_first_distinct()
        if channel.one_per:
            is_first = pl.struct(*channel.one_per, channel.time + NS_SUFFIX).is_first_distinct()
        else:
            is_first = is_new | pl.col(channel.numbered_by).is_null()
            if mark:
                is_late = pl.col(mark).is_not_null() & pl.col(mark).first().over(values).is_null()
                late = found.filter(~is_first & is_late)
                texts = pl.col(pl.Categorical, pl.Enum).cast(pl.String)
                marks = late.with_columns(texts).to_arrow() if late.height else None
        kept[suspects] = found.select(is_first).to_series().to_numpy()
        differs[suspects] = found.select(is_new & ~is_first).to_series().to_numpy()
    before = len(times) - group.num_rows
    if not kept.all():
        group = group.filter(pa.array(kept[before:]))
    return Kept(group, int(differs[before:].sum()), marks)


def add_marks(group: pa.Table, marks: pl.DataFrame, mark: str) -> pa.Table:
    """Return a group in which the rows that `marks` repeats have its marks."""
    import polars as pl

    keys = [name for name in marks.columns if name != mark]
    found = pl.from_arrow(group.select(marks.columns))
    assert isinstance(found, pl.DataFrame)
    texts = pl.col(pl.Categorical, pl.Enum).cast(pl.String)
    first = marks.unique(keys, keep="last", maintain_order=True)
    marked = found.with_columns(texts).join(
        first, on=keys, how="left", nulls_equal=True, maintain_order="left"
    )
    column = marked.select(pl.coalesce(mark, f"{mark}_right")).to_series().to_arrow()
    field = group.schema.field(mark)
    column = column.cast(pa.string()).dictionary_encode().cast(field.type)
    return group.set_column(group.schema.get_field_index(mark), field, column)


def pack_marks(marks: Sequence[pa.Table]) -> bytes:
    """Return rows with a mark that the first one lacks, for a receipt; empty if there is none."""
    if not marks:
        return b""
    whole = pa.concat_tables(marks)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, whole.schema) as writer:
        writer.write_table(whole)
    return bytes(sink.getvalue())


def unpack_marks(packed: Sequence[bytes]) -> pl.DataFrame | None:
    """Return the rows in the receipts of some files, each once; None if there is none."""
    import polars as pl

    tables = [pa.ipc.open_stream(each).read_all() for each in packed if each]
    if not tables:
        return None
    found = pl.from_arrow(pa.concat_tables(tables))
    assert isinstance(found, pl.DataFrame)
    return found.unique(maintain_order=True)
