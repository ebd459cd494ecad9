"""Market data from Alpaca on all cores: four streams at once, into shared-memory Polars frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mdstream._version import __version__

if TYPE_CHECKING:
    from mdstream.engine import Engine
    from mdstream.errors import ConfigError, LagError, MdstreamError, NoRunError
    from mdstream.frames.attach import Attachment, attach
    from mdstream.frames.tail import Tail

__all__ = [
    "Attachment",
    "ConfigError",
    "Engine",
    "LagError",
    "MdstreamError",
    "NoRunError",
    "Tail",
    "__version__",
    "attach",
]

_WHERE = {
    "Attachment": "mdstream.frames.attach",
    "ConfigError": "mdstream.errors",
    "Engine": "mdstream.engine",
    "LagError": "mdstream.errors",
    "MdstreamError": "mdstream.errors",
    "NoRunError": "mdstream.errors",
    "Tail": "mdstream.frames.tail",
    "attach": "mdstream.frames.attach",
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
