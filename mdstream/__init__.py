"""Market data from Alpaca on all cores: four streams at once, into shared-memory Polars frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mdstream._version import __version__

if TYPE_CHECKING:
    from mdstream.engine.api import Engine
    from mdstream.errors import ConfigError, LagError, MdstreamError, NoRunError, NoStoreError, StoreError
    from mdstream.history.api import backfill, backfill_async
    from mdstream.reading.attach import Attachment, attach
    from mdstream.reading.tail import Tail
    from mdstream.store.catalogue import scan

__all__ = [
    "Attachment",
    "ConfigError",
    "Engine",
    "LagError",
    "MdstreamError",
    "NoRunError",
    "NoStoreError",
    "StoreError",
    "Tail",
    "__version__",
    "attach",
    "backfill",
    "backfill_async",
    "scan",
]

_WHERE = {
    "Attachment": "mdstream.reading.attach",
    "ConfigError": "mdstream.errors",
    "Engine": "mdstream.engine.api",
    "LagError": "mdstream.errors",
    "MdstreamError": "mdstream.errors",
    "NoRunError": "mdstream.errors",
    "NoStoreError": "mdstream.errors",
    "StoreError": "mdstream.errors",
    "Tail": "mdstream.reading.tail",
    "attach": "mdstream.reading.attach",
    "backfill": "mdstream.history.api",
    "backfill_async": "mdstream.history.api",
    "scan": "mdstream.store.catalogue",
}


def __getattr__(name: str) -> Any:
    """Import on first use: a reader never loads the engine, nor the engine its readers."""
    if name not in _WHERE:
        raise AttributeError(f"module 'mdstream' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    """The public names, also those that are not imported yet."""
    return __all__
