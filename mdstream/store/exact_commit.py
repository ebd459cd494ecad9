"""Commits that replace files of a table, for one version of its log.

delta-rs 1.6 looks for no conflict with a commit that changes no data. So two processes that replace the
same files both succeed, and all rows are in the table twice. Here a commit fails if its version exists.
Then the log is read again, and the files must still be there.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

if TYPE_CHECKING:
    from deltalake import DeltaTable, Schema
    from deltalake.transaction import AddAction, RemoveAction

_ATTEMPTS = 10
"""Attempts to commit while others append to the table."""


def list_files(table: DeltaTable) -> set[str]:
    """Return the paths of a table's files, as its log has them."""
    return {file["path"] for file in pa.table(table.get_add_actions()).to_pylist()}


def commit_exactly(
    table: DeltaTable,
    actions: Sequence[AddAction | RemoveAction],
    old: Set[str],
    *,
    mode: Literal["append", "overwrite"] = "append",
    schema: Schema | None = None,
) -> bool:
    """Commit `actions`, which replace the `old` files; `overwrite` replaces all that the table has.

    Return False, and change nothing, if others have replaced these files, or keep changing the table.
    """
    from deltalake import CommitProperties
    from deltalake.exceptions import CommitFailedError

    for _ in range(_ATTEMPTS):
        table.update_incremental()
        found = list_files(table)
        if not old <= found or (mode == "overwrite" and old != found):
            return False
        try:
            table.create_write_transaction(
                list(actions),
                mode,
                schema or table.schema(),
                table.metadata().partition_columns,
                commit_properties=CommitProperties(max_commit_retries=0),
            )
        except CommitFailedError:
            continue
        table.update_incremental()
        return True
    return False
