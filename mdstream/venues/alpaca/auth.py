"""Authentication with a key: HTTP headers, or a message on the stream."""

from __future__ import annotations

KEY_HEADER = "APCA-API-KEY-ID"
SECRET_HEADER = "APCA-API-SECRET-KEY"

KEY_VARIABLE = "APCA_API_KEY_ID"
SECRET_VARIABLE = "APCA_API_SECRET_KEY"
"""Environment variables that the service's own clients read."""


def headers(key_id: str, secret_key: str) -> dict[str, str]:
    """Return the headers of a REST request, or of the request for a stream connection."""
    return {KEY_HEADER: key_id, SECRET_HEADER: secret_key}


def message(key_id: str, secret_key: str) -> dict[str, str]:
    """Return the message that authenticates a stream connection; send it within `limits.AUTH_WITHIN_S`."""
    return {"action": "auth", "key": key_id, "secret": secret_key}
