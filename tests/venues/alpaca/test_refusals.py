"""The table of refusals, row by row."""

from __future__ import annotations

import math
import re

import pytest

from mdstream.errors import CredentialsError, Exit
from mdstream.session.retry import Doubt
from mdstream.venues.alpaca.refusals import (
    DOUBT_S,
    FIRST_DOUBT_S,
    RULES,
    STREAM_TEXTS,
    BodyShape,
    Place,
    RefusalKind,
    find_rule,
    reason_in,
    shape_of,
)
from mdstream.wire import protocol
from mdstream.wire.final import final

STREAM = [rule for rule in RULES if rule.place is Place.STREAM]
T, D, F, R = RefusalKind.TEMPORARY, RefusalKind.DOUBTFUL, RefusalKind.FINAL, RefusalKind.REQUEST


def test_every_code_of_the_stream_has_a_text_a_row_and_an_answer() -> None:
    for code in STREAM_TEXTS:
        assert len([rule for rule in STREAM if code in rule.codes]) == 1, code
    assert len(STREAM) == len(STREAM_TEXTS)
    assert set(protocol._ANSWERS) == {rule.before for rule in STREAM}


@pytest.mark.parametrize("code", [402, 408, 409, 411, 412])
def test_every_final_error_comes_with_advice_and_is_doubted_after_a_success(code: int) -> None:
    rule = find_rule(Place.STREAM, code)
    assert rule is not None
    assert (rule.before, rule.after, rule.exit) == (
        RefusalKind.FINAL,
        RefusalKind.DOUBTFUL,
        Exit.CREDENTIALS,
    )
    error = final(rule, code, "text of the service")
    assert isinstance(error, CredentialsError)
    assert error.code == code
    assert str(error).startswith(f"text of the service ({code}): ")


@pytest.mark.parametrize(
    ("statuses", "before", "after", "exit_code", "words"),
    [
        ((301, 302, 307, 308), F, D, Exit.CONFIG, "redirected to there; .* set stream_url"),
        ((401, 403), F, D, Exit.CREDENTIALS, "check APCA_API_KEY_ID"),
        ((400, 402, 404, 405, 410, 422, 451), F, D, Exit.CONFIG, "check stream_url and the feed"),
        ((408, 425, 429, 200, 204, 500, 502, 503, 504), T, T, Exit.STREAM_FAILED, "instead of a conn"),
        ((520, 521, 522, 523, 524, 525, 526, 527, 530, 599), T, T, Exit.STREAM_FAILED, "instead of"),
    ],
)
def test_what_a_status_at_the_upgrade_means(
    statuses: tuple[int, ...], before: RefusalKind, after: RefusalKind, exit_code: Exit, words: str
) -> None:
    for status in statuses:
        rule = find_rule(Place.UPGRADE, status)
        assert rule is not None
        assert (rule.kind(False), rule.kind(True), rule.exit) == (before, after, exit_code), status
        said = rule.say(status, where="there")
        assert str(status) in said
        assert re.search(words, said), said


HTML = b"<html><body>403 Forbidden</body></html>"
FORBIDDEN = b'{"message":"forbidden."}'
RECENT = b'{"code":42210000,"message":"subscription does not permit querying recent SIP data"}'
PLAN = b'{"message":"subscription does not permit querying OPRA data"}'
AGREEMENT = b'{"message":"OPRA agreement is not signed"}'


@pytest.mark.cases("S1", "S5", "S6")
@pytest.mark.parametrize(
    ("statuses", "body", "before", "after", "exit_code"),
    [
        ((200,), HTML, T, T, 1),
        ((200,), b'{"message":"too many requests."}', T, T, 1),
        ((200,), b'{"code":42910000,"message":"rate limit exceeded"}', T, T, 1),
        ((200,), b"", T, T, 1),
        ((200,), b"null", T, T, 1),
        ((204, 206), b"", T, T, 1),
        ((301, 302), b"", R, D, 1),
        ((400, 404, 410, 414, 422), b'{"message":"invalid symbol: b@d"}', R, R, 1),
        ((414, 431), b"Request-URI Too Large", R, R, 1),
        ((414, 431), HTML, R, R, 1),
        ((400, 404, 410), b"404: Not Found", R, D, 1),
        ((400, 404, 410), HTML, D, D, 1),
        ((401, 403), FORBIDDEN, F, D, 3),
        ((401, 403), b"", F, D, 3),
        ((401, 403), HTML, D, D, 3),
        ((402, 403, 409, 422), RECENT, RefusalKind.PLAN_LATER, RefusalKind.PLAN_LATER, 1),
        ((402, 403, 409, 422), PLAN, RefusalKind.PLAN, RefusalKind.PLAN, 3),
        ((402, 403, 409, 422), AGREEMENT, RefusalKind.PLAN, RefusalKind.PLAN, 3),
        ((401, 403), b"<html>Access denied. See our user agreement and subscription.</html>", D, D, 3),
        ((402, 409, 422), b"<html>See our user agreement and subscription.</html>", D, D, 1),
        ((408, 425, 429), b'{"message":"too many requests."}', T, T, 1),
        ((408, 425, 429), HTML, T, T, 1),
        ((500, 502, 503, 504, 520, 521, 522, 523, 524, 525, 526, 527, 530), HTML, T, T, 1),
    ],
)
def test_what_an_answer_of_rest_means(
    statuses: tuple[int, ...], body: bytes, before: RefusalKind, after: RefusalKind, exit_code: int
) -> None:
    for status in statuses:
        rule = find_rule(Place.REST, status, shape_of(body), reason_in(body))
        assert rule is not None
        assert (rule.kind(False), rule.kind(True), rule.exit) == (before, after, exit_code), status


def test_every_status_has_a_row_whatever_its_body_is() -> None:
    for status in range(100, 1000):
        assert find_rule(Place.UPGRADE, status) is not None
        for shape in BodyShape:
            is_success = status == 200 and shape is BodyShape.DATA
            assert is_success or status < 200 or find_rule(Place.REST, status, shape) is not None


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        (b'{"bars":{},"next_page_token":null}', BodyShape.DATA),
        (b"[]", BodyShape.DATA),
        (b"{}", BodyShape.DATA),
        (b'{"AAPL":{"latestTrade":null}}', BodyShape.DATA),
        (b'{"news":[{"headline":"a \\"message\\" for', BodyShape.DATA),
        (b'{"news":[{"message":"of an article"}]}', BodyShape.DATA),
        (b' \n{"message":"too many requests."}', BodyShape.ERROR),
        (b'{"code":42910000}', BodyShape.ERROR),
        (b'{"trades":{"A":[]},"message":"data delayed"}', BodyShape.DATA),
        (b'{"news":[],"next_page_token":null,"message":"x"}', BodyShape.DATA),
        (b"\xef\xbb\xbf<!DOCTYPE html>", BodyShape.HTML),
        (b"  <html>", BodyShape.HTML),
        (b"upstream connect error", BodyShape.TEXT),
        (b'"ok"', BodyShape.TEXT),
        (b"", BodyShape.TEXT),
        (b"null", BodyShape.TEXT),
    ],
)
def test_the_shape_of_a_body(body: bytes, shape: BodyShape) -> None:
    assert shape_of(body) is shape


@pytest.mark.cases("S4", "S5")
def test_a_refusal_after_a_success_is_doubted_for_minutes_and_then_believed() -> None:
    rule = find_rule(Place.UPGRADE, 403)
    assert rule is not None
    assert Doubt().seconds_left(rule, 100.0) == 0
    doubt = Doubt()
    doubt.succeed()
    assert doubt.seconds_left(rule, 100.0) == DOUBT_S
    assert doubt.seconds_left(rule, 100.0 + DOUBT_S - 1) == 1
    assert doubt.seconds_left(rule, 100.0 + DOUBT_S) == 0
    doubt.succeed()
    assert doubt.seconds_left(rule, 900.0) == DOUBT_S, "each success makes a new start"
    assert Doubt(has_worked=True).seconds_left(rule, 5.0) == DOUBT_S


def test_what_a_front_end_says_first_is_doubted_for_seconds() -> None:
    rule = find_rule(Place.REST, 403, BodyShape.HTML)
    assert rule is not None
    doubt = Doubt()
    assert doubt.seconds_left(rule, 100.0) == FIRST_DOUBT_S
    assert doubt.seconds_left(rule, 100.0 + FIRST_DOUBT_S) == 0
    busy = find_rule(Place.REST, 503)
    assert busy is not None
    assert doubt.seconds_left(busy, 1e9) == math.inf


@pytest.mark.parametrize(
    ("place", "setting"), [(Place.REST, "data_url"), (Place.UPGRADE, "stream_url")], ids=["REST", "stream"]
)
@pytest.mark.parametrize("status", [301, 304, 307])
def test_a_redirect_without_a_target_says_so(place: Place, setting: str, status: int) -> None:
    rule = find_rule(place, status)
    assert rule is not None
    assert rule.say(status, "", "").startswith(f"HTTP {status}: a redirect that does not say where to")
    assert rule.say(status, "", "").endswith(f"; check {setting}")
    assert rule.say(status, "", "x.com").endswith(
        f"redirected to x.com; if that is the server, set {setting}"
    )
