from __future__ import annotations

import pytest

from mdstream.venues.alpaca.limits import Quota, quota_headers, quota_of


def test_the_quota_is_read_as_it_is_written() -> None:
    assert quota_of(quota_headers(200, 0, 1_795_492_487)) == Quota(200, 0, 1_795_492_487, None)


@pytest.mark.parametrize(
    ("headers", "quota"),
    [
        ({}, Quota(None, None, None, None)),
        ({"X-Ratelimit-Limit": "10000", "retry-after": "7"}, Quota(10_000, None, None, 7)),
        ({"X-RateLimit-Remaining": "-1", "X-RateLimit-Reset": "soon"}, Quota(None, None, None, None)),
        ({"Retry-After": "\u00b2"}, Quota(None, None, None, None)),
    ],
)
def test_names_are_in_any_case_and_what_is_not_a_number_is_none(
    headers: dict[str, str], quota: Quota
) -> None:
    assert quota_of(headers) == quota
