from __future__ import annotations

import pytest

from mdstream.errors import CredentialsError
from mdstream.venues.alpaca.error_codes import STREAM_CODES, About, is_key_refused, is_passing
from mdstream.wire import protocol
from mdstream.wire.final import final


@pytest.mark.parametrize("code", [c for c, error in STREAM_CODES.items() if error.about is About.ACCOUNT])
def test_every_final_error_comes_with_advice(code: int) -> None:
    error = final(code, "text of the service")
    assert isinstance(error, CredentialsError)
    assert error.code == code
    assert str(error).startswith(f"text of the service ({code}): ")


def test_whatever_an_error_is_about_has_an_answer() -> None:
    assert set(protocol._ANSWERS) == set(About) == {error.about for error in STREAM_CODES.values()}


@pytest.mark.parametrize(
    ("status", "passing"),
    [(400, False), (401, False), (403, False), (404, False), (422, False)]
    + [(status, True) for status in (408, 425, 429, 500, 502, 503, 504, 520, 530)],
)
def test_what_may_succeed_later(status: int, passing: bool) -> None:
    assert is_passing(status) is passing


@pytest.mark.parametrize(
    ("status", "reason", "refused"),
    [
        (401, "", True),
        (403, "forbidden.", True),
        (403, "subscription does not permit querying recent SIP data", False),
        (400, "invalid symbol: b@d", False),
    ],
)
def test_a_key_that_is_refused_is_distinguished_from_a_plan_that_lacks_the_data(
    status: int, reason: str, refused: bool
) -> None:
    assert is_key_refused(status, reason) is refused
