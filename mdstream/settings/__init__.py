"""Settings: TOML file < environment < flags, each value checked once, then frozen.

A TOML key, an environment variable (`MDSTREAM_FETCH__INTERVAL_S=30`, a double underscore for each level)
and a flag all name the same field of `mdstream.config`. An unknown name is an error. Keys come from the
environment (`APCA_API_KEY_ID`, `APCA_API_SECRET_KEY`) or from the file, never from the command line.

    setting      what a value may be, derived from the field; reads one value
    description  all settings of a run, for checks, help texts and documents
    sources      file, environment and flags into one `Config`, and the source of each value
    rules        which values may be combined
"""

from mdstream.settings.description import describe_settings
from mdstream.settings.setting import Setting, describe
from mdstream.settings.sources import check, fill, from_mapping, load, load_any, load_with_origins

__all__ = [
    "Setting",
    "check",
    "describe",
    "describe_settings",
    "fill",
    "from_mapping",
    "load",
    "load_any",
    "load_with_origins",
]
