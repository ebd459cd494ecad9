"""Old rows of a table that new ones replace.

    a file with some of them ─► its other rows, written again ─► add that file, remove the old ─┐
    a file with nothing else ─► remove it ──────────────────────────────────────────────────────┤
    new rows ─► add their files ────────────────────────────────────────────────────────────────┴► commit

Nothing changes before the commit, which the caller makes: readers, and the next run after a kill, see the
old rows or the new ones. Replaced files stay on disk until the table is vacuumed.
"""

from __future__ import annotations

import os
import posixpath
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mdstream.store.schema import NS_SUFFIX, format_stats

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from deltalake import DeltaTable
    from deltalake.transaction import AddAction, RemoveAction

EVERY_SYMBOL = "*"


class OldRows(NamedTuple):
    """Rows of a partition to replace: those of a symbol from `first` to before `past`, ns since 1970."""

    partition: Mapping[str, str]
    symbol: str
    """`*` stands for all."""
    first: int
    past: int


@dataclass(frozen=True, slots=True)
class _Doomed:
    """The rows to remove from the files of one partition: symbols by first time and end."""

    time: str
    spans: dict[tuple[int, int], set[str]]

    def may_be_in(self, least: str | None, most: str | None) -> bool:
        """Return whether a file with symbols from `least` to `most` may have some; None is unknown."""
        return any(
            name == EVERY_SYMBOL or ((least is None or name >= least) and (most is None or name <= most))
            for names in self.spans.values()
            for name in names
        )

    def keep(self, rows: pa.Table) -> pa.Array:
        """Return for each row whether it stays."""
        import numpy as np
        import pyarrow as pa
        from pyarrow import compute

        at = rows[self.time].cast(pa.int64()).to_numpy() * 1000 + rows[self.time + NS_SUFFIX].to_numpy()
        gone = np.zeros(len(at), np.bool_)
        for (first, past), names in self.spans.items():
            inside = (at >= first) & (at < past)
            if EVERY_SYMBOL not in names:
                symbols = rows["symbol"].cast(pa.string())
                inside &= compute.is_in(symbols, pa.array(sorted(names))).to_numpy()
            gone |= inside
        return pa.array(~gone)


def replace_rows(
    table: DeltaTable, folder: Path, time: str, old: Sequence[OldRows], prefix: str
) -> list[AddAction | RemoveAction]:
    """Return what removes the `old` rows from a table, and nothing else, to be committed with the new ones.

    The table is in the local `folder`; `time` is its column of time. Files with other rows, too, are
    written again without the old ones, as `prefix` and an id, and are on the disk when this returns.
    """
    doomed: dict[tuple[tuple[str, str], ...], _Doomed] = {}
    for rows in old:
        key = tuple(sorted(rows.partition.items()))
        spans = doomed.setdefault(key, _Doomed(time, {})).spans
        spans.setdefault((rows.first, rows.past), set()).add(rows.symbol)
    actions: list[AddAction | RemoveAction] = []
    for file, partition in _list_files(table) if doomed else ():
        found = doomed.get(tuple(sorted(partition.items())))
        bounds = ((file.get(side) or {}).get("symbol") for side in ("min", "max"))
        if found is not None and found.may_be_in(*bounds):
            actions += _without(found, folder, file, partition, prefix)
    return actions


def remove_leftovers(folder: Path, paths: Sequence[str], prefix: str) -> None:
    """Remove files that `replace_rows` wrote for a commit that was not made; `paths` are its new files."""
    for parent in {(folder / path).parent for path in paths}:
        for each in parent.glob(f"{prefix}*"):
            each.unlink(missing_ok=True)


def _list_files(table: DeltaTable) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    """Yield what a table's log says of each file, and its partition as texts."""
    import pyarrow as pa

    for file in pa.table(table.get_add_actions()).to_pylist():
        yield file, {name: str(value) for name, value in file["partition"].items()}


def _without(
    doomed: _Doomed, folder: Path, file: dict[str, Any], partition: dict[str, str], prefix: str
) -> Iterator[AddAction | RemoveAction]:
    """Yield what removes the doomed rows of one file: nothing if it has none."""
    import pyarrow.parquet as pq
    from deltalake.transaction import AddAction, RemoveAction
    from pyarrow import compute

    with pq.ParquetFile(folder / file["path"]) as old:
        names = ["symbol", doomed.time, doomed.time + NS_SUFFIX]
        kept = [
            doomed.keep(old.read_row_group(group, columns=names)) for group in range(old.num_row_groups)
        ]
        total = sum(compute.sum(each).as_py() or 0 for each in kept)
        if total == old.metadata.num_rows:
            return
        now = int(time.time() * 1000)
        if total:
            path = posixpath.join(posixpath.dirname(file["path"]), f"{prefix}{uuid.uuid4()}.zstd.parquet")
            first, last = _write(old, kept, folder / path, ("symbol", doomed.time))
            size = (folder / path).stat().st_size
            yield AddAction(path, size, partition, now, True, format_stats(total, first, last))
        yield RemoveAction(file["path"], True, now, file["size_bytes"], {**partition})


def _write(
    old: pq.ParquetFile, kept: Sequence[pa.Array], path: Path, spanned: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the kept rows, one row group at a time. Return the least and greatest values of `spanned`."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import compute

    values: dict[str, list[Any]] = {name: [] for name in spanned}
    with path.open("wb") as stream:
        with pq.ParquetWriter(
            stream, old.schema_arrow, compression="zstd", compression_level=3, write_page_index=True
        ) as writer:
            for group, mask in enumerate(kept):
                rows = old.read_row_group(group).filter(mask)
                if not rows.num_rows:
                    continue
                writer.write_table(rows, row_group_size=rows.num_rows)
                for name in spanned:
                    is_time = pa.types.is_timestamp(rows[name].type)
                    span = compute.min_max(rows[name].cast(pa.int64() if is_time else pa.string()))
                    values[name] += [span["min"].as_py(), span["max"].as_py()]
        stream.flush()
        os.fsync(stream.fileno())  # its commit follows at once
    return {name: min(found) for name, found in values.items()}, {
        name: max(found) for name, found in values.items()
    }
