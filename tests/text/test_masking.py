"""No text that is shown has the account's keys, or what a terminal obeys, whoever wrote it."""

from __future__ import annotations

import logging
import time

import orjson
import polars as pl
import pytest

from mdstream import log
from mdstream.cli.tail import _escape_texts
from mdstream.config import Credentials
from mdstream.errors import CredentialsError, MdstreamError, ServerError
from mdstream.wire.codec import CODECS
from mdstream.wire.protocol import StreamProtocol
from mdstream.wire.protocol_events import Note
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


HOSTILE = [
    ("\x1b]0;pwn\x07\x1b[2J", r"\x1b]0;pwn\x07\x1b[2J"),
    ("x\n12:00:00.000 ERROR   engine   forged", r"x\n12:00:00.000 ERROR   engine   forged"),
    ("a\rb\tc\0", r"a\rb\tc\x00"),
    ("\x85\u2028\u2029", r"\x85\u2028\u2029"),
    ("\u202eabc\u200b", r"\u202eabc\u200b"),
    ("\ud83d cut", r"\ud83d cut"),
    ("Zürich 株 naïve", "Zürich 株 naïve"),
]


@pytest.mark.cases("M11")
@pytest.mark.parametrize(("text", "shown"), HOSTILE)
def test_text_of_a_server_is_one_line_that_no_terminal_obeys(text: str, shown: str) -> None:
    assert str(ServerError(text)) == shown
    record = logging.LogRecord("x", logging.WARNING, "x.py", 1, "%s", (text,), None)
    assert log.as_dict(record)["message"] == shown
    protocol = StreamProtocol(CODECS["json"], KEYS, Subscriptions(wanted={}), time.monotonic())
    [note] = protocol.receive_messages([{"T": "error", "code": 999, "msg": text}], 0.0)
    assert isinstance(note, Note)
    assert shown in note.text


@pytest.mark.cases("M11")
@pytest.mark.parametrize(("text", "shown"), [each for each in HOSTILE if "cut" not in each[0]])
def test_a_tail_on_a_terminal_shows_no_text_that_it_would_obey(text: str, shown: str) -> None:
    frame = pl.DataFrame({"headline": [text], "size": [1.5]})
    frame = frame.with_columns(pl.col("headline").cast(pl.Categorical).alias("symbol"))
    escaped = frame.with_columns(_escape_texts(frame))
    assert escaped.rows() == [(shown, 1.5, shown)]


def test_keys_of_simulators_are_not_hidden() -> None:
    Credentials(key_id="any", secret_key="any")
    assert str(ServerError("any of them")) == "any of them"


@pytest.mark.parametrize("length", [1999, 2000, 2001, 230_000])
def test_a_long_text_is_cut_and_its_length_is_said(length: int) -> None:
    text = "é" * length
    shown = str(ServerError(text))
    assert shown == text if length <= 2000 else shown == f"{text[:2000]}… ({length:,} characters)"
    protocol = StreamProtocol(CODECS["json"], KEYS, Subscriptions(wanted={}), time.monotonic())
    [note] = protocol.receive_messages([{"T": "error", "code": 999, "msg": text}], 0.0)
    assert isinstance(note, Note)
    assert len(note.text) < 2500
