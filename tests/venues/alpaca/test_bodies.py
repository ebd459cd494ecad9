from __future__ import annotations

from typing import Any

import pytest

from mdstream.venues.alpaca.bodies import page_token_in


@pytest.mark.cases("S13")
@pytest.mark.parametrize(
    ("body", "token"),
    [
        ({}, ""),
        ({"next_page_token": None}, ""),
        ({"next_page_token": ""}, ""),
        ({"next_page_token": "null"}, ""),
        ({"next_page_token": " NULL"}, ""),
        ({"next_page_token": "None"}, ""),
        ({"next_page_token": "QUFQTHxN"}, "QUFQTHxN"),
        ({"next_page_token": "nullable"}, "nullable"),
        ({"next_page_token": 17}, "17"),
        ({"next_page_token": 0}, "0"),
    ],
)
def test_the_token_of_the_next_page(body: dict[str, Any], token: str) -> None:
    assert page_token_in(body) == token


@pytest.mark.cases("S13")
@pytest.mark.parametrize("token", [True, 1.5, [], {}, ["x"]])
def test_what_cannot_be_a_token_is_an_error_and_not_the_end(token: Any) -> None:
    with pytest.raises(ValueError, match="next_page_token: expected a string"):
        page_token_in({"next_page_token": token})
