"""Delta tables whose files Polars finds, whatever the name of their folder."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from deltalake import DeltaTable

from mdstream.store.folders import check_name


class LocatedTable(DeltaTable):
    """A Delta table that names local files as the file system does.

    delta-rs names them as URLs do (`my%20data`), but Polars and we open them as they are named.
    """

    def file_uris(self, *filters: Any, **more: Any) -> list[str]:
        """Return the files of the table: paths, or the URLs of an object store."""
        found = super().file_uris(*filters, **more)
        return [unquote(path) for path in found] if self.table_uri.startswith("file://") else found


def locate(uri: str, options: dict[str, str] | None = None) -> LocatedTable:
    """Return the Delta table at `uri`. Raises `ConfigError` for a folder that cannot hold one."""
    check_name(uri)
    return LocatedTable(uri, storage_options=options or None)
