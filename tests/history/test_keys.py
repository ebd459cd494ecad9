"""History that the service serves only with keys is refused without them, before any request."""

from __future__ import annotations

import pytest

from mdstream.errors import ConfigError
from mdstream.history.plan import check
from mdstream.settings import from_mapping
from mdstream.streams.datasets import datasets
from tests.history.test_request import make_test_request

NO_KEYS = from_mapping({}).backfill_settings.data
KEYLESS = {"crypto.trades", "crypto.quotes", "crypto.bars"}
"""Datasets whose paths have `security: []` in Alpaca's OpenAPI specification 1.1 (2026-06)."""


@pytest.mark.parametrize("dataset", datasets())
def test_only_documented_history_is_requested_without_keys(dataset: str) -> None:
    request = make_test_request(dataset)
    if dataset in KEYLESS:
        check(request, NO_KEYS)
        return
    with pytest.raises(ConfigError, match=f"history of {dataset} needs keys: set APCA_API_KEY_ID"):
        check(request, NO_KEYS)


@pytest.mark.parametrize("dataset", datasets())
@pytest.mark.parametrize(
    "settings",
    [{"data_url": "http://127.0.0.1:8765"}, {"credentials": {"key_id": "PK", "secret_key": "s"}}],
)
def test_with_keys_or_another_server_all_history_is_requested(
    dataset: str, settings: dict[str, object]
) -> None:
    check(make_test_request(dataset), from_mapping(settings).backfill_settings.data)
