"""Object stores: their options, a check, and readable errors, also of folders."""

from __future__ import annotations

import os
import re

from mdstream.errors import StoreError

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_ANSWER = re.compile(r"<Code>([^<]*)</Code>\s*(?:<Message>([^<]*)</Message>)?")
_SYSTEM = re.compile(r"\(os error (\d+)\)|Os \{ code: (\d+)")

_SOON = {"max_retries": "2", "retry_timeout": "10s", "connect_timeout": "5s", "timeout": "10s"}


def summarize_error(error: BaseException) -> str:
    """Return the error of a table or object store in one line, without colours and addresses."""
    text = _COLOURS.sub("", str(error)) or type(error).__name__
    if found := _ANSWER.search(text):
        return ": ".join(filter(None, found.groups()))
    parts = [" ".join(part.split()) for part in text.split("↳")]
    return ": ".join(dict.fromkeys((parts[0], parts[-1])))


def find_errno(error: BaseException) -> int:
    """Return the number of the system's error behind an error of a table; 0 if there is none."""
    found = _SYSTEM.search(str(error))
    return int(found[1] or found[2]) if found else 0


def check_object_store(store: str) -> None:
    """Raise `StoreError` if an object store does not answer, or denies us the bucket."""
    from deltalake import DeltaTable

    try:
        DeltaTable.is_deltatable(f"{store.rstrip('/')}/live", {**storage_options(store), **_SOON})
    except Exception as error:  # the errors of delta-rs have no common root
        raise StoreError(f"store: {store} cannot be used: {summarize_error(error)}") from error


def storage_options(store: str) -> dict[str, str]:
    """Return the options that an object store needs besides the environment (`AWS_ACCESS_KEY_ID`, …)."""
    if "://" not in store:
        return {}
    options = {}
    if (endpoint := os.environ.get("AWS_ENDPOINT_URL", "")).startswith("http://"):
        options["AWS_ALLOW_HTTP"] = "true"
        options["AWS_ENDPOINT_URL"] = endpoint
    return options
