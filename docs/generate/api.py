"""The Python API: what `mdstream` exports, in the order of a reader's questions."""

from __future__ import annotations

import mdstream

SECTIONS = {
    "Read a running engine": ("attach", "Attachment", "Tail", "Tails"),
    "Fetch and scan history": ("scan", "backfill", "backfill_async"),
    "Run an engine": ("Engine",),
    "Errors": (
        "MdstreamError",
        "ConfigError",
        "UnknownNameError",
        "NoRunError",
        "LagError",
        "StoreError",
        "NoStoreError",
    ),
}
"""Every exported name but `__version__`, by section."""


def render() -> str:
    """Return mkdocstrings' directives for everything exported.

    Raises `ValueError` where `SECTIONS` and `mdstream.__all__` differ.
    """
    listed = {name for names in SECTIONS.values() for name in names}
    exported = set(mdstream.__all__) - {"__version__"}
    if listed != exported:
        raise ValueError(f"exported and listed names differ: {sorted(listed ^ exported)}")
    parts = []
    for section, names in SECTIONS.items():
        parts.append(f"## {section}\n")
        for name in names:
            thing = getattr(mdstream, name)
            parts.append(f"::: {thing.__module__}.{thing.__qualname__}\n")
    return "\n".join(parts)
