"""The session tests that always run with both libraries."""

from __future__ import annotations

import pytest

_ALWAYS = {
    "test_every_stream_connects_authenticates_and_flows",
    "test_lost_connections_come_back_and_everything_is_subscribed_again",
    "test_no_room_means_that_reading_pauses_and_nothing_is_lost",
    "test_a_payload_in_fragments_is_one_payload",
    "test_tls_is_verified_against_a_private_authority",
    "test_keys_never_show_in_logs",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the other tests of the portable library as slow."""
    for item in items:
        if "[websockets" in item.name or "-websockets" in item.name or "websockets-" in item.name:
            function = item.name.partition("[")[0]
            if item.path.name == "test_stream.py" and function not in _ALWAYS:
                item.add_marker(pytest.mark.slow)
