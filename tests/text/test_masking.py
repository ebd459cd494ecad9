"""The account's keys are in no text that is shown, whoever wrote it."""

from __future__ import annotations

import logging
import time

import orjson
import pytest

from mdstream import log
from mdstream.config import Credentials
from mdstream.errors import CredentialsError, MdstreamError, ServerError
from mdstream.wire.codec import CODECS
from mdstream.wire.happenings import Note
from mdstream.wire.protocol import StreamProtocol
from mdstream.wire.subscription import Subscriptions

KEYS = Credentials(key_id="PKTESTKEYOFMASKING01", secret_key="secretOfMaskingSecretOfMasking0123456789")
ECHO = f"who is {KEYS.key_id} with {KEYS.secret_key}?"
SHOWN = "who is ••• with •••?"


@pytest.mark.cases("M11")
@pytest.mark.parametrize("kind", [MdstreamError, ServerError, CredentialsError])
def test_errors_hide_the_keys(kind: type[MdstreamError]) -> None:
    assert str(kind(ECHO)) == SHOWN


@pytest.mark.cases("M11")
def test_log_lines_hide_the_keys() -> None:
    record = logging.LogRecord("x", logging.WARNING, "x.py", 1, "%s", (ECHO,), None)
    assert log.as_dict(record)["message"] == SHOWN


@pytest.mark.cases("M11")
def test_what_a_server_says_hides_the_keys() -> None:
    protocol = StreamProtocol(CODECS["json"], KEYS, Subscriptions(wanted={}), time.monotonic())
    notes = [
        protocol.receive(orjson.dumps([{"T": "error", "code": code, "msg": ECHO}]), 0.0)
        for code in (999, None)
    ]
    notes.append(protocol.receive(orjson.dumps([{"T": "success", "msg": ECHO}]), 0.0))
    assert all(SHOWN in note.text for [note] in notes if isinstance(note, Note))
    with pytest.raises(CredentialsError, match="who is ••• with"):
        protocol.receive(orjson.dumps([{"T": "error", "code": 402, "msg": ECHO}]), 0.0)


def test_keys_of_simulators_are_not_hidden() -> None:
    Credentials(key_id="any", secret_key="any")
    assert str(ServerError("any of them")) == "any of them"
