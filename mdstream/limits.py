"""Limits on what comes from outside. What exceeds one is refused with a clear error, and is not kept.

The settings have the others: `handoff.max_payload_mb`, and the deadlines of `fetch`. `docs/operations.md`
lists all limits, and says what happens beyond each.
"""

from __future__ import annotations

MOST_FRAGMENTS = 1_000_000
"""Fragments (WebSocket frames) of one payload. Its bytes have a limit too, but a fragment may be empty."""

LARGEST_BODY = 64 * 1024 * 1024
"""Bytes of a REST answer as received. A page of 10,000 rows has about 2 MB."""

LARGEST_ERROR_BODY = 1024 * 1024
"""Bytes of a REST answer that reports an error, once decompressed."""

LARGEST_LISTING = 256 * 1024 * 1024
"""Bytes of a list of assets or contracts, once decompressed."""
