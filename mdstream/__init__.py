"""Market data from Alpaca on all cores: all streams at once, into shared-memory Polars frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers, which do not run `__getattr__`; a test compares it with `_MODULES`
    from mdstream._version import __version__ as __version__
    from mdstream.engine.api import Engine as Engine
    from mdstream.errors import ConfigError as ConfigError
    from mdstream.errors import LagError as LagError
    from mdstream.errors import MdstreamError as MdstreamError
    from mdstream.errors import NoRunError as NoRunError
    from mdstream.errors import NoStoreError as NoStoreError
    from mdstream.errors import StoreError as StoreError
    from mdstream.errors import UnknownNameError as UnknownNameError
    from mdstream.history.api import backfill as backfill
    from mdstream.history.api import backfill_async as backfill_async
    from mdstream.reading.attach import Attachment as Attachment
    from mdstream.reading.attach import attach as attach
    from mdstream.reading.tail import Tail as Tail
    from mdstream.reading.tail import Tails as Tails
    from mdstream.store.catalogue import scan as scan

_MODULES = {
    "mdstream._version": ("__version__",),
    "mdstream.engine.api": ("Engine",),
    "mdstream.errors": (
        "ConfigError",
        "LagError",
        "MdstreamError",
        "NoRunError",
        "NoStoreError",
        "StoreError",
        "UnknownNameError",
    ),
    "mdstream.history.api": ("backfill", "backfill_async"),
    "mdstream.reading.attach": ("Attachment", "attach"),
    "mdstream.reading.tail": ("Tail", "Tails"),
    "mdstream.store.catalogue": ("scan",),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}

__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    """Import a public name on first use: a reader never loads the engine, nor the engine its readers."""
    if name not in _WHERE:
        raise AttributeError(f"module 'mdstream' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    """Return the public names, including those that are not imported yet."""
    return __all__
