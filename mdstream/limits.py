"""Limits on what comes from outside. `docs/operations.md` shows them all.

They protect memory and time: no server, however broken, makes a process grow or hang without end. The
settings have two more: `handoff.max_payload_mb`, and the deadlines of `fetch`. Each description is what is
limited, and after a semicolon what happens beyond.
"""

from __future__ import annotations

MOST_FRAGMENTS = 1_000_000
"""Fragments of a payload (`websockets` has a lower limit); the connection is replaced."""

LONGEST_HEADER = 8190
"""Bytes of the status line of a REST answer, or of one of its headers; the attempt has failed."""

MOST_HEADERS = 128
"""Headers of a REST answer; the attempt has failed."""

LARGEST_BODY = 64 * 1024 * 1024
"""Bytes of a REST answer as received; the rest is not read, and the attempt has failed."""

LARGEST_UNPACKED = 256 * 1024 * 1024
"""Bytes of a REST answer once decompressed; it is one reject, and a shard of a backfill fails."""

LARGEST_ERROR = 1024 * 1024
"""Bytes of a REST answer that is an error, once decompressed; the attempt has failed."""

MOST_PAGES = 100_000
"""Pages of one request of a backfill; its symbol is given up for the run."""

MOST_STATE_PAGES = 100
"""Pages of one request for snapshots or a chain; the request has failed."""

MOST_EMPTY_PAGES = 20
"""Empty pages of one request in a row; its symbol is given up for the run."""

LONGEST_TOKEN = 4096
"""Characters of a page token; the request has failed, and a backfill gives its symbol up for the run."""

MOST_UNUSABLE = 3
"""Attempts at a page that cannot be read; the request has failed."""

LARGEST_NUMBER = 1e100
"""A number, such as a price or a size, with or without sign, so that no product or sum is infinite; the
message is a reject.
"""

LONGEST_TEXT = 1024
"""Characters of a symbol, an exchange or a list of conditions; the message is a reject."""

MOST_LEVELS = 1000
"""Levels of a side of a live order book; the worst are dropped, and it may be incomplete."""

MOST_SYMBOLS = 1 << 22
"""Symbols of a stream in one run; messages with further ones are rejects."""

MOST_TEXTS = 1 << 14
"""Texts of each other dictionary of a stream in one run; messages with further ones are rejects."""

LONGEST_SHOWN = 2000
"""Characters of a server's text in a log line, an error or an event; the rest is left out."""

LARGEST_REJECTS = 256 * 1024 * 1024
"""Bytes of a stream's file of rejects in one run; further rejects are counted, but not kept."""

MOST_LOG_LINES = 50
"""Log lines a minute of each place in the code; further ones are counted, and the number is logged."""
