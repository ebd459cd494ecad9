from __future__ import annotations

import numpy as np

from mdstream.streams.spec import CODED, Kind
from mdstream.streams.storage import DICTIONARY_LIMIT, DTYPE, PROVISIONAL


def test_every_kind_has_a_dtype() -> None:
    assert set(DTYPE) == set(Kind)


def test_codes_that_are_still_to_be_given_are_above_those_that_can_be_and_within_the_dtype() -> None:
    assert set(PROVISIONAL) == set(DICTIONARY_LIMIT) == CODED
    for kind in CODED:
        assert DICTIONARY_LIMIT[kind] <= PROVISIONAL[kind]
        assert 2 * PROVISIONAL[kind] - 1 == np.iinfo(DTYPE[kind]).max
