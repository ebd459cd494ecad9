"""The protocol with literal bytes, without a socket, a clock or an event loop."""

from __future__ import annotations

import contextlib
from typing import Any

import msgpack
import orjson
import pytest

from mdstream.config import Credentials
from mdstream.errors import CredentialsError, ServerError
from mdstream.venues.alpaca.refusals import STREAM_TEXTS
from mdstream.wire.codec import CODECS
from mdstream.wire.protocol import ANSWER_WAIT_S, HEADER_AUTH_WAIT_S, SETTLE_S, StreamProtocol
from mdstream.wire.protocol_events import Note, Ready, Refused, Waiting
from mdstream.wire.state import State
from mdstream.wire.subscription import AGAIN_S, AGAIN_SOON_S, Subscriptions

KEYS = Credentials(key_id="K", secret_key="S")
CONNECTED = b'[{"T":"success","msg":"connected"}]'
AUTHENTICATED = b'[{"T":"success","msg":"authenticated"}]'


def error(code: int, text: str = "no") -> bytes:
    return orjson.dumps([{"T": "error", "code": code, "msg": text}])


def ack(**channels: list[str]) -> bytes:
    return orjson.dumps([{"T": "subscription", **channels}])


def decode_sent(protocol: StreamProtocol) -> list[dict[str, Any]]:
    return [orjson.loads(message) for message in protocol.to_send()]


def make_protocol(headers: bool = False, **wanted: set[str]) -> StreamProtocol:
    subscriptions = Subscriptions(wanted={c: set(s) for c, s in wanted.items()})
    return StreamProtocol(CODECS["json"], KEYS, subscriptions, 0.0, headers)


def make_authenticated(**wanted: set[str]) -> StreamProtocol:
    p = make_protocol(**wanted)
    p.receive(CONNECTED, 0.0)
    p.to_send()
    p.receive(AUTHENTICATED, 0.1)
    return p


def test_a_session_goes_from_the_greeting_to_the_flow_of_data() -> None:
    p = make_protocol(trades={"AAPL"}, quotes={"AMD", "AAPL"})
    assert p.receive(CONNECTED, 0.0) == []
    assert decode_sent(p) == [{"action": "auth", "key": "K", "secret": "S"}]
    assert p.receive(AUTHENTICATED, 0.1) == []
    assert decode_sent(p) == [{"action": "subscribe", "trades": ["AAPL"], "quotes": ["AAPL", "AMD"]}]
    assert p.receive(ack(trades=["AAPL"], quotes=["AAPL", "AMD"]), 0.2) == [Ready()]
    assert p.state is State.STREAMING
    assert p.next_tick() is None


def test_msgpack_goes_both_ways() -> None:
    subscriptions = Subscriptions(wanted={"trades": {"X"}})
    p = StreamProtocol(CODECS["msgpack"], KEYS, subscriptions, 0.0)
    p.receive(msgpack.packb([{"T": "success", "msg": "connected"}]), 0.0)
    assert [msgpack.unpackb(m) for m in p.to_send()] == [{"action": "auth", "key": "K", "secret": "S"}]


@pytest.mark.parametrize(
    ("payload", "control"),
    [
        (CONNECTED, True),
        (error(402), True),
        (ack(trades=[]), True),
        (b'[{"T": "error", "code": 402}]', True),
        (b' [ { "T" : "subscription" } ]', True),
        (b'{"T":"subscription","trades":[]}', True),
        (b' { "T": "error", "code": 402}', True),
        (b'{"T":"t","S":"AAPL"}', False),
        (b'{"T": "s", "S": "AAPL"}', False),
        (b'[{"T": "s", "S": "AAPL"}]', False),
        (b'[{"T":"s","S":"AAPL","sc":"H"}]', False),
        (b'[{"T":"t","S":"AAPL"},{"T":"error"}]', False),
        (b"", False),
        (b"garbage", False),
    ],
)
def test_control_is_distinguished_from_data_by_a_look_at_a_few_bytes(payload: bytes, control: bool) -> None:
    assert CODECS["json"].is_control(payload) is control


@pytest.mark.parametrize(
    ("message", "control"),
    [
        ({"T": "success", "msg": "connected"}, True),
        ({"T": "error", "code": 1, "msg": ""}, True),
        ({"T": "subscription", "trades": []}, True),
        ({"T": "s", "S": "AAPL"}, False),
        ({"T": "q", "S": "A"}, False),
    ],
)
def test_control_is_distinguished_from_data_in_msgpack(message: dict[str, Any], control: bool) -> None:
    for payload in (msgpack.packb([message]), msgpack.packb(message)):
        assert CODECS["msgpack"].is_control(payload) is control
        assert CODECS["msgpack"].decode(payload) == [message]


@pytest.mark.parametrize("payload", [b"", b"\x80", b"\x81\xa1T", b"\x90", b"\x91", b"\xdc", b"T"])
def test_what_is_too_short_is_no_control_in_msgpack(payload: bytes) -> None:
    assert not CODECS["msgpack"].is_control(payload)


def test_header_authentication_waits_for_the_server_and_then_falls_back_to_a_message() -> None:
    p = make_protocol(headers=True)
    p.receive(CONNECTED, 1.0)
    assert decode_sent(p) == []
    assert p.next_tick() == 1.0 + HEADER_AUTH_WAIT_S
    p.tick(1.0 + HEADER_AUTH_WAIT_S)
    assert decode_sent(p) == [{"action": "auth", "key": "K", "secret": "S"}]


def test_header_authentication_needs_no_message_when_the_server_answers() -> None:
    p = make_protocol(headers=True, trades={"A"})
    p.receive(CONNECTED, 1.0)
    p.receive(AUTHENTICATED, 1.1)
    assert decode_sent(p) == [{"action": "subscribe", "trades": ["A"]}]


@pytest.mark.parametrize("code", [402, 408, 409, 411, 412])
def test_refused_credentials_and_plans_are_fatal(code: int) -> None:
    p = make_protocol()
    p.receive(CONNECTED, 0.0)
    with pytest.raises(CredentialsError) as caught:
        p.receive(error(code), 0.1)
    assert caught.value.code == code
    assert f"({code})" in str(caught.value)


@pytest.mark.parametrize("code", [404, 407, 500])
def test_errors_of_the_server_ask_for_a_new_connection(code: int) -> None:
    p = make_authenticated(trades={"A"})
    with pytest.raises(ServerError) as caught:
        p.receive(error(code), 0.1)
    assert caught.value.code == code


def test_406_authenticates_again_on_the_same_socket_with_growing_pauses() -> None:
    p = make_protocol(trades={"A"})
    p.receive(CONNECTED, 0.0)
    p.to_send()
    [waiting] = p.receive(error(406), 10.0)
    assert isinstance(waiting, Waiting)
    assert decode_sent(p) == []
    assert p.next_tick() == 10.5
    p.tick(10.4)
    assert decode_sent(p) == []
    p.tick(10.5)
    assert decode_sent(p) == [{"action": "auth", "key": "K", "secret": "S"}]
    p.receive(error(406), 10.6)
    assert p.next_tick() == 11.6
    p.tick(11.6)
    p.to_send()
    p.receive(AUTHENTICATED, 11.7)
    assert decode_sent(p) == [{"action": "subscribe", "trades": ["A"]}]


def test_406_without_end_gives_the_connection_up() -> None:
    p = make_protocol()
    p.receive(CONNECTED, 0.0)
    now = 0.0
    with pytest.raises(ServerError, match="after 5 attempts"):
        for _ in range(10):
            p.receive(error(406), now)
            now = p.next_tick() or now
            p.tick(now)


def test_401_authenticates_again_and_then_subscribes() -> None:
    p = make_authenticated(trades={"A"})
    p.to_send()
    p.receive(error(401), 0.2)
    assert decode_sent(p) == [{"action": "auth", "key": "K", "secret": "S"}]
    p.receive(AUTHENTICATED, 0.3)
    assert decode_sent(p) == [{"action": "subscribe", "trades": ["A"]}]


def test_403_means_that_we_are_authenticated() -> None:
    p = make_protocol(headers=True, trades={"A"})
    p.receive(CONNECTED, 0.0)
    p.tick(HEADER_AUTH_WAIT_S)
    p.to_send()
    p.receive(error(403), 2.1)
    assert decode_sent(p) == [{"action": "subscribe", "trades": ["A"]}]


def test_405_finds_how_many_symbols_the_plan_allows_and_refuses_the_rest() -> None:
    symbols = {f"S{i:02d}" for i in range(50)}
    p = make_authenticated(trades=symbols)
    served: set[str] = set()
    refused: set[str] = set()
    rounds = 0
    while p.state is not State.STREAMING:
        [request] = decode_sent(p)
        rounds += 1
        asked = set(request["trades"])
        answer = error(405) if len(served | asked) > 30 else ack(trades=sorted(served | asked))
        if len(served | asked) <= 30:
            served |= asked
        for happened in p.receive(answer, 1.0):
            if isinstance(happened, Refused):
                refused |= {r.symbol for r in happened.refusals}
    assert len(served) == 30
    assert served | refused == symbols
    assert not served & refused
    assert rounds < 20


def reconnect(p: StreamProtocol, now: float) -> StreamProtocol:
    """Return the protocol of the next connection, authenticated."""
    again = StreamProtocol(CODECS["json"], KEYS, p.subscriptions, now)
    again.receive(CONNECTED, now)
    again.to_send()
    again.receive(AUTHENTICATED, now)
    return again


def answer_all(p: StreamProtocol, answer: bytes, now: float) -> list[Any]:
    """Give the same answer to each request, until none is left."""
    happened: list[Any] = []
    while requests := decode_sent(p):
        for _ in requests:
            happened += p.receive(answer, now)
    return happened


@pytest.mark.cases("S7")
@pytest.mark.parametrize("code", [400, 405, 410, 413, 499])
def test_what_was_served_and_is_refused_by_the_next_connection_is_requested_until_it_is_served(
    code: int,
) -> None:
    p = make_authenticated(trades={"A", "B"}, quotes={"A"})
    p.receive(ack(trades=["A", "B"], quotes=["A"]), 0.0)
    p = reconnect(p, 10.0)
    *happened, ready = answer_all(p, error(code), 10.0)
    assert ready == Ready()
    refused = [each for each in happened if isinstance(each, Refused)]
    assert {(r.channel, r.symbol) for each in refused for r in each.refusals} == {
        ("trades", "A"),
        ("trades", "B"),
        ("quotes", "A"),
    }
    assert p.subscriptions.count == 0
    now = 10.0
    for pause in (*AGAIN_SOON_S, AGAIN_SOON_S[-1]):
        assert p.next_tick() == now + pause
        now += pause
        assert p.tick(now - 0.1) == []
        assert p.tick(now) == []
        assert answer_all(p, error(code), now) == [], "the same refusal is reported once"
        assert set(p.subscriptions.find_refused()) == {"A", "B"}
    now += AGAIN_SOON_S[-1]
    p.tick(now)
    assert answer_all(p, ack(trades=["A", "B"], quotes=["A"]), now) == [Ready()]
    assert p.subscriptions.refused == {}
    assert p.next_tick() is None


@pytest.mark.cases("S7")
def test_symbols_beyond_the_plan_are_requested_again_too_since_a_lost_connection_may_count() -> None:
    """The connection of a killed process counts for a while: the first one of the next is too many."""
    p = make_authenticated(trades={"A", "B"})
    answer_all(p, error(405), 0.0)
    assert p.next_tick() == AGAIN_S[0]
    p.tick(AGAIN_S[0])
    assert decode_sent(p) == [{"action": "subscribe", "trades": ["A", "B"]}]
    p.receive(error(405), 3.0)
    assert decode_sent(p) == [{"action": "subscribe", "trades": ["A"]}]
    p.receive(ack(trades=["A"]), 3.0)
    assert decode_sent(p) == [{"action": "subscribe", "trades": ["B"]}]
    assert p.receive(error(405), 3.0) == [Ready()], "there is news: A is served"
    assert p.next_tick() == 3.0 + AGAIN_S[0], "there may be room for more soon"


def test_what_a_plan_never_allowed_is_not_requested_twice_unless_it_is_about_the_number() -> None:
    p = make_authenticated(trades={"A", "BAD!"})
    while requests := decode_sent(p):
        asked = requests[0]["trades"]
        p.receive(error(400) if "BAD!" in asked else ack(trades=["A"]), 0.0)
    assert p.state is State.STREAMING
    assert p.next_tick() is None
    p = reconnect(p, 5.0)
    assert decode_sent(p) == [{"action": "subscribe", "trades": ["A"]}]


def test_what_was_never_served_is_requested_again_less_and_less_often() -> None:
    p = make_authenticated(trades={"A", "B"})
    answer_all(p, error(405), 0.0)
    now = 0.0
    for pause in (*AGAIN_S, AGAIN_S[-1]):
        assert p.next_tick() == now + pause
        now += pause
        p.tick(now)
        assert answer_all(p, error(405), now) == []


def test_what_the_user_no_longer_wants_is_not_requested_again() -> None:
    p = make_authenticated(trades={"A", "B"})
    answer_all(p, error(405), 0.0)
    p.subscriptions.wanted = {"trades": set()}
    p.subscriptions.forget_refusals("trades", ["A", "B"])
    assert p.tick(AGAIN_S[0]) == []
    assert decode_sent(p) == []
    assert p.next_tick() is None
    assert p.state is State.STREAMING


def test_410_drops_the_channel_and_keeps_the_others() -> None:
    p = make_authenticated(trades={"A", "B"}, bars={"A", "B"})
    decode_sent(p)
    p.receive(error(410), 1.0)
    assert decode_sent(p) == [{"action": "subscribe", "trades": ["A", "B"]}]
    p.receive(ack(trades=["A", "B"]), 1.1)
    assert decode_sent(p) == [{"action": "subscribe", "bars": ["A", "B"]}]
    happened = p.receive(error(410, "invalid subscribe action for this feed"), 1.2)
    assert [type(h) for h in happened] == [Refused, Ready]
    assert {r.symbol for r in happened[0].refusals} == {"A", "B"}  # type: ignore[union-attr]
    assert p.subscriptions.active == {"trades": {"A", "B"}}


def test_400_is_traced_to_the_one_malformed_symbol() -> None:
    p = make_authenticated(trades={"A", "B", "BAD!", "C", "D"})
    served: set[str] = set()
    while p.state is not State.STREAMING:
        asked = set(decode_sent(p)[0]["trades"])
        if "BAD!" in asked:
            p.receive(error(400, "invalid syntax"), 1.0)
        else:
            served |= asked
            p.receive(ack(trades=sorted(served)), 1.0)
    assert served == {"A", "B", "C", "D"}
    assert p.subscriptions.refused == {("trades", "BAD!"): "invalid syntax (400)"}


def test_413_refuses_the_star_and_nothing_else() -> None:
    p = make_authenticated(trades={"*"}, quotes={"*"})
    decode_sent(p)
    p.receive(error(413), 1.0)
    p.receive(ack(trades=["*"]), 1.0)
    p.receive(error(413), 1.0)
    assert p.state is State.STREAMING
    assert set(p.subscriptions.refused) == {("quotes", "*")}
    assert p.subscriptions.active == {"trades": {"*"}}


def test_what_no_acknowledgement_shows_within_a_second_is_refused() -> None:
    p = make_authenticated(trades={"A", "B"})
    assert p.receive(ack(trades=["A"]), 1.0) == []
    assert p.next_tick() == 1.0 + SETTLE_S
    assert p.tick(1.0 + SETTLE_S / 2) == []
    refused, ready = p.tick(1.0 + SETTLE_S)
    assert isinstance(refused, Refused)
    assert refused.refusals[0].symbol == "B"
    assert ready == Ready()


def test_a_server_may_acknowledge_channel_by_channel() -> None:
    p = make_authenticated(trades={"A"}, quotes={"A"}, bars={"A"})
    assert p.receive(ack(trades=["A"]), 1.0) == []
    assert p.receive(ack(trades=["A"], quotes=["A"]), 1.4) == []
    assert p.receive(ack(trades=["A"], quotes=["A"], bars=["A"]), 1.9) == [Ready()]
    assert p.subscriptions.refused == {}


def test_an_acknowledgement_that_comes_twice_does_not_answer_the_next_request() -> None:
    symbols = {f"SYMBOL{i:05d}" for i in range(4000)}
    p = make_authenticated(trades=symbols)
    served: set[str] = set()
    happened: list[Any] = []
    while p.state is not State.STREAMING:
        for request in decode_sent(p):
            served |= set(request["trades"])
        happened += p.receive(ack(trades=sorted(served)), 1.0)
        happened += p.receive(ack(trades=sorted(served)), 1.0)
    assert happened == [Ready()]
    assert served == symbols


def test_a_symbol_that_is_acknowledged_late_is_not_refused_any_more() -> None:
    p = make_authenticated(trades={"A", "B"})
    p.receive(ack(trades=["A"]), 1.0)
    p.tick(1.0 + SETTLE_S)
    p.receive(ack(trades=["A", "B"]), 9.0)
    assert p.subscriptions.refused == {}
    assert p.subscriptions.active == {"trades": {"A", "B"}}


def test_what_a_server_left_out_is_asked_for_again_by_the_same_connection() -> None:
    p = make_authenticated(trades={"A", "B"})
    p.receive(ack(trades=["A"]), 1.0)
    p.tick(1.0 + SETTLE_S)
    p.to_send()
    now = 1.0 + SETTLE_S + AGAIN_S[0]
    assert p.next_tick() == now
    p.tick(now)
    assert decode_sent(p) == [{"action": "subscribe", "trades": ["B"]}]
    assert p.receive(ack(trades=["A", "B"]), now) == [Ready()]


def test_what_a_server_left_out_is_asked_for_again_by_the_next_connection() -> None:
    p = make_authenticated(trades={"A", "B"})
    p.receive(ack(trades=["A"]), 1.0)
    p.tick(1.0 + SETTLE_S)
    p.subscriptions.refused["trades", "C"] = "invalid syntax (400)"
    StreamProtocol(CODECS["json"], KEYS, p.subscriptions, 5.0)
    assert p.subscriptions.find_missing() == {"trades": {"A", "B"}}
    assert set(p.subscriptions.refused) == {("trades", "C")}


def test_a_server_that_forgot_us_is_sent_all_subscriptions_again() -> None:
    p = make_authenticated(trades={"A"})
    p.receive(ack(trades=["A"]), 1.0)
    p.to_send()
    p.receive(error(401, "not authenticated"), 5.0)
    assert decode_sent(p) == [{"action": "auth", "key": "K", "secret": "S"}]
    p.receive(AUTHENTICATED, 5.1)
    assert decode_sent(p) == [{"action": "subscribe", "trades": ["A"]}]
    assert p.receive(ack(trades=["A"]), 5.2) == [Ready()]


def test_a_malformed_symbol_is_found_over_all_channels_at_once() -> None:
    channels = ("trades", "quotes", "bars", "lulds", "statuses")
    p = make_authenticated(**{c: {"A", "B", "BAD!", "C"} for c in channels})
    served: dict[str, set[str]] = {}
    rounds = 0
    while p.state is not State.STREAMING:
        [request] = decode_sent(p)
        rounds += 1
        request.pop("action")
        if "BAD!" in request["trades"]:
            refused = p.receive(error(400, "invalid syntax"), 1.0)
            continue
        for channel, symbols in request.items():
            served.setdefault(channel, set()).update(symbols)
        p.receive(ack(**{c: sorted(s) for c, s in served.items()}), 1.0)
    assert rounds <= 6
    assert served == {c: {"A", "B", "C"} for c in channels}
    assert {channel for channel, _ in p.subscriptions.refused} == set(channels)
    assert {symbol for _, symbol in p.subscriptions.refused} == {"BAD!"}
    assert refused


@pytest.mark.parametrize("code", [[1], {"a": 1}, "402a", "", "٤٠٢", "-402", "9" * 5000, None, 1.5, True])
def test_an_error_without_a_proper_code_is_only_noted(code: Any) -> None:
    p = make_authenticated(trades={"A"})
    p.receive(ack(trades=["A"]), 1.0)
    [note] = p.receive(orjson.dumps([{"T": "error", "code": code, "msg": "malformed"}]), 2.0)
    assert isinstance(note, Note)
    assert "malformed" in note.text


@pytest.mark.parametrize("code", sorted({*STREAM_TEXTS, 499}))
@pytest.mark.parametrize("is_subscribed", [False, True])
def test_each_error_is_shown_once_and_is_known_as_the_last_one(code: int, is_subscribed: bool) -> None:
    """The text is in an event or a note, or in what is raised; then the session logs it."""
    p = make_authenticated(trades={"A"}, quotes={"A", "B"})
    if is_subscribed:
        p.receive(ack(trades=["A"], quotes=["A", "B"]), 0.2)
    shown: list[str] = []
    try:
        shown += map(str, p.receive(error(code, "some text"), 1.0))
        if not is_subscribed and p.state is State.SUBSCRIBING:
            shown += [str(each) for each in p.receive(error(code, "some text"), 2.0) if type(each) is Note]
    except (CredentialsError, ServerError) as raised:
        shown.append(str(raised))
    assert len([text for text in shown if "some text" in text and str(code) in text]) == 1
    assert "some text" in p.last_error[0]


@pytest.mark.parametrize("code", sorted(STREAM_TEXTS))
def test_a_code_may_be_a_text_of_digits(code: int) -> None:
    outcomes = []
    for each in (code, str(code)):
        p = make_authenticated(trades={"A"})
        try:
            p.receive(orjson.dumps([{"T": "error", "code": each, "msg": "x"}]), 1.0)
        except (CredentialsError, ServerError) as raised:
            outcomes.append(f"{type(raised).__name__} {raised} {raised.code}")
        else:
            outcomes.append(f"{p.state} {p.subscriptions.refused} {p.last_error}")
    assert outcomes[0] == outcomes[1]


def test_requests_stay_below_32_kb_and_each_waits_for_its_answer() -> None:
    symbols = {f"SYMBOL{i:05d}" for i in range(6000)}
    p = make_authenticated(trades=symbols, quotes=symbols)
    served: set[str] = set()
    requests = 0
    while p.state is not State.STREAMING:
        [message] = p.to_send()
        assert len(message) < 32 * 1024
        request = orjson.loads(message)
        assert request["trades"] == request["quotes"]
        served |= set(request["trades"])
        requests += 1
        p.receive(ack(trades=sorted(served), quotes=sorted(served)), 1.0)
    assert served == symbols
    assert requests > 5


def test_subscriptions_change_while_data_flows() -> None:
    p = make_authenticated(trades={"A"})
    p.receive(ack(trades=["A"]), 1.0)
    p.to_send()
    p.subscriptions.wanted["trades"] = {"B"}
    assert p.change(2.0) == []
    assert decode_sent(p) == [{"action": "unsubscribe", "trades": ["A"]}]
    p.receive(ack(trades=[]), 2.1)
    assert decode_sent(p) == [{"action": "subscribe", "trades": ["B"]}]
    assert p.receive(ack(trades=["B"]), 2.2) == [Ready()]
    assert p.change(3.0) == []
    assert decode_sent(p) == []


def test_a_change_in_the_middle_of_subscribing_is_asked_for_afterwards() -> None:
    p = make_authenticated(trades={"A"})
    decode_sent(p)
    p.subscriptions.wanted["trades"].add("B")
    p.change(1.0)
    assert decode_sent(p) == []
    p.receive(ack(trades=["A"]), 1.1)
    assert decode_sent(p) == [{"action": "subscribe", "trades": ["B"]}]


def test_channels_that_the_server_adds_by_itself_are_left_alone() -> None:
    p = make_authenticated(trades={"A"})
    p.receive(ack(trades=["A"], corrections=["A"], cancelErrors=["A"]), 1.0)
    p.to_send()
    p.change(2.0)
    assert decode_sent(p) == []


@pytest.mark.parametrize("stage", ["greeting", "authentication", "subscription"])
def test_an_answer_that_does_not_come_ends_the_connection(stage: str) -> None:
    p = make_protocol(trades={"A"})
    if stage != "greeting":
        p.receive(CONNECTED, 0.0)
    if stage == "subscription":
        p.receive(AUTHENTICATED, 0.0)
    due = p.next_tick()
    assert due == ANSWER_WAIT_S
    with pytest.raises(ServerError, match="no "):
        p.tick(due)


def test_unknown_messages_and_errors_change_nothing() -> None:
    p = make_authenticated(trades={"A"})
    p.receive(ack(trades=["A"]), 1.0)
    [note] = p.receive(error(999, "what"), 1.1)
    assert isinstance(note, Note)
    assert p.receive(b'[{"T":"success","msg":"hello"}]', 1.2) == [
        Note("unexpected success message 'hello' while streaming")
    ]
    assert p.state is State.STREAMING


def test_a_broken_control_message_is_an_error_of_the_server() -> None:
    for payload in (b'[{"T":"error"', b'"error"', b"[1]"):
        with pytest.raises(ServerError):
            CODECS["json"].decode(payload)
    with pytest.raises(ServerError):
        CODECS["msgpack"].decode(b"\x91\x82\xa1T")


SHORT = bytes.fromhex("9188a154ac737562736372697074696f6ea674726164657391a44141504ca671756f74657390")


@pytest.mark.cases("S8")
def test_an_acknowledgement_may_have_fewer_members_than_its_header_says() -> None:
    codec = CODECS["msgpack"]
    assert codec.is_control(SHORT)
    whole = {"T": "subscription", "trades": ["AAPL"], "quotes": []}
    assert codec.decode(SHORT) == [whole]
    subscriptions = Subscriptions(wanted={"trades": {"AAPL"}})
    p = StreamProtocol(codec, KEYS, subscriptions, 0.0)
    for text in ("connected", "authenticated"):
        p.receive(msgpack.packb([{"T": "success", "msg": text}]), 0.0)
    assert p.receive(SHORT, 0.2) == [Ready()]
    assert subscriptions.active == {"trades": {"AAPL"}, "quotes": set()}
    error = b"\x91\x8f" + msgpack.packb({"T": "error", "code": 406, "msg": "limit"})[1:]
    assert codec.decode(error) == [{"T": "error", "code": 406, "msg": "limit"}]


@pytest.mark.cases("S8")
def test_what_is_cut_within_a_member_or_is_data_is_no_short_acknowledgement() -> None:
    decode = CODECS["msgpack"].decode
    for end in (*range(5, 17), *range(18, 30), len(SHORT) - 1):
        with pytest.raises(ServerError, match="not msgpack"):
            decode(SHORT[:end])
    with pytest.raises(ServerError, match="not msgpack"):
        decode(b"\x91\x88" + msgpack.packb({"T": "t", "S": "AAPL"})[1:])


# -- acknowledgements that do not come, or cannot be read


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_however_an_acknowledgement_is_damaged_it_is_read_or_left_to_the_decoder(codec: Any) -> None:
    messages = [{"T": "subscription", "trades": ["AAPL"], "quotes": ["AAPL"], "bars": ["AAPL"]}]
    whole = orjson.dumps(messages) if codec == "json" else msgpack.packb(messages)
    damaged = [whole[:end] for end in range(len(whole))] + [whole[start:] for start in range(len(whole))]
    damaged += [whole + b"\xc0", whole + whole, whole.replace(b"AAPL", b"\xff\xfe\xfd\xfc")]
    damaged += [
        whole[:at] + bytes([value]) + whole[at + 1 :]
        for at in range(len(whole))
        for value in (0, 0x22, 0x5B, 0x81, 0x82, 0x90, 0x92, 0xC1, 0xDF, 0xFF)
    ]
    for payload in damaged:
        subscriptions = Subscriptions(wanted={"trades": {"AAPL"}, "quotes": {"AAPL"}})
        p = StreamProtocol(CODECS[codec], KEYS, subscriptions, 0.0, rows_of=lambda channel: 0)
        p.state = State.STREAMING
        if p.is_control(payload):
            with contextlib.suppress(ServerError):  # a worker rejects and keeps it
                p.receive(payload, 1.0)


Rows = dict[str, int | None]


def make_watched(rows: Rows, **wanted: set[str]) -> StreamProtocol:
    """A protocol that has just sent its first request at 0.1, and sees the `rows` of each channel."""
    subscriptions = Subscriptions(wanted={c: set(s) for c, s in wanted.items()})
    p = StreamProtocol(CODECS["json"], KEYS, subscriptions, 0.0, rows_of=lambda c: rows.get(c, 0))
    p.receive(CONNECTED, 0.0)
    p.receive(AUTHENTICATED, 0.1)
    p.to_send()
    return p


def wait_for_deadline(p: StreamProtocol, since: float) -> list[Any]:
    """Look each second, as the session does, until an answer is overdue."""
    happened: list[Any] = []
    for second in range(1, 11):
        happened += p.tick(since + second)
    return happened


def test_data_in_place_of_an_acknowledgement_shows_that_a_subscription_is_served() -> None:
    rows: Rows = {"trades": 5}
    p = make_watched(rows, trades={"A"}, quotes={"A", "B"})
    rows["trades"] = 6
    [note, ready] = wait_for_deadline(p, 0.1)
    assert "could not be read" in note.text
    assert ready == Ready()
    assert p.subscriptions.active == {"trades": {"A"}, "quotes": {"A", "B"}}
    assert p.state is State.STREAMING
    assert p.change(11.0) == [] == decode_sent(p)


@pytest.mark.parametrize("damage", ["AAPL", {"AAPL": 1}, 7, True, [None], [["A"]], [{"S": "A"}]])
def test_an_acknowledgement_that_cannot_be_read_is_none(damage: Any) -> None:
    rows: Rows = {"trades": 5}
    p = make_watched(rows, trades={"A"})
    assert p.receive(orjson.dumps([{"T": "subscription", "trades": damage}]), 1.0) == []
    rows["trades"] = 6
    assert wait_for_deadline(p, 0.1)[-1] == Ready()
    assert p.subscriptions.active == {"trades": {"A"}}


def test_values_of_other_keys_do_not_damage_an_acknowledgement() -> None:
    p = make_watched({}, trades={"A"}, quotes=set())
    message = {"T": "subscription", "trades": ["A"], "quotes": None, "id": "x", "at": 5}
    assert p.receive(orjson.dumps([message]), 1.0) == [Ready()]


def test_rows_of_an_earlier_connection_do_not_show_that_a_subscription_is_served() -> None:
    p = make_watched({"trades": 5, "quotes": 7}, trades={"A"}, quotes={"A"})
    with pytest.raises(ServerError, match="no answer to a subscription"):
        wait_for_deadline(p, 0.1)


def test_payloads_that_wait_to_be_decoded_are_waited_for() -> None:
    rows: Rows = {"trades": None}  # payloads of the connection before
    p = make_watched(rows, trades={"A"})
    assert p.tick(5.0) == []
    rows["trades"] = 100
    assert p.tick(6.0) == []
    rows["trades"] = None
    assert p.tick(10.1) == [] == p.tick(11.1)
    rows["trades"] = 100
    with pytest.raises(ServerError, match="no answer"):
        p.tick(12.1)


def test_each_of_many_requests_is_judged_by_data_since_it_was_sent() -> None:
    rows: Rows = {"trades": 0}
    symbols = {f"SYMBOL{i:05d}" for i in range(6000)}
    p = make_watched(rows, trades=symbols)
    notes, at = [], 0.1
    while p.state is not State.STREAMING:
        rows["trades"] = (rows["trades"] or 0) + 1
        notes += [each for each in wait_for_deadline(p, at) if isinstance(each, Note)]
        at += 10
    assert p.subscriptions.active["trades"] == symbols
    assert len(notes) == 1, "one warning for each connection"


def test_what_is_not_served_while_other_channels_flow_is_requested_again() -> None:
    rows: Rows = {"trades": 0}
    p = make_watched(rows, trades={"A"})
    assert p.receive(ack(trades=["A"]), 1.0) == [Ready()]
    p.subscriptions.wanted["bars"] = {"A"}
    p.change(20.0)
    assert decode_sent(p) == [{"action": "subscribe", "bars": ["A"]}]
    rows["trades"] = 1
    [note, refused, ready] = wait_for_deadline(p, 20.0)
    assert (type(note), type(refused), ready) == (Note, Refused, Ready())
    assert p.subscriptions.active == {"trades": {"A"}}
    p.tick(31.0)
    assert decode_sent(p) == [{"action": "subscribe", "bars": ["A"]}]
    rows["bars"] = 1
    assert wait_for_deadline(p, 31.0) == [Ready()]
    assert p.subscriptions.active == {"trades": {"A"}, "bars": {"A"}}
    assert not p.subscriptions.refused


@pytest.mark.parametrize("flows", [True, False])
def test_a_repeat_that_gets_no_answer_does_not_cost_the_connection(flows: bool) -> None:
    rows: Rows = {"trades": 0}
    p = make_watched(rows, trades={"A"}, quotes={"A"})
    p.receive(ack(trades=["A"]), 1.0)
    [refused, _] = p.tick(1.0 + SETTLE_S)
    assert isinstance(refused, Refused)
    at = 2.0
    for _ in range(5):
        at = p.next_tick() or 0.0
        assert p.tick(at) == []
        assert decode_sent(p) == [{"action": "subscribe", "quotes": ["A"]}]
        rows["trades"] = (rows["trades"] or 0) + flows
        assert not [each for each in wait_for_deadline(p, at) if not isinstance(each, Note)]
        assert p.state is State.STREAMING
    assert set(p.subscriptions.refused) == {("quotes", "A")}
    p.tick(p.next_tick() or 0.0)
    assert p.receive(ack(trades=["A"], quotes=["A"]), at + 100) == [Ready()]


def test_refusals_that_come_count_although_data_flows() -> None:
    rows: Rows = {"trades": 0}
    p = make_watched(rows, trades={"A"}, quotes={"A"})
    rows["trades"] = 1
    p.receive(error(410), 5.0)
    [refused] = p.receive(error(410), 5.1)
    assert isinstance(refused, Refused)
    assert refused.refusals[0][:2] == ("trades", "A")
    assert p.receive(ack(quotes=["A"]), 5.2) == [Ready()]
    assert set(p.subscriptions.refused) == {("trades", "A")}
    assert p.subscriptions.active == {"quotes": {"A"}}


def test_an_unsubscribe_that_the_server_refuses_counts_as_done_and_is_no_lost_subscription() -> None:
    p = make_authenticated(trades={"A", "B", "C"})
    p.receive(ack(trades=["A", "B", "C"]), 1.0)
    p.to_send()
    p.subscriptions.want("trades", {"A"})
    p.change(2.0)
    assert decode_sent(p) == [{"action": "unsubscribe", "trades": ["B", "C"]}]
    p.receive(error(400), 2.1)
    assert decode_sent(p) == [{"action": "unsubscribe", "trades": ["B"]}]
    p.receive(ack(trades=["A", "C"]), 2.2)
    assert decode_sent(p) == [{"action": "unsubscribe", "trades": ["C"]}]
    assert p.receive(error(400), 2.3)[-1] == Ready()
    assert p.subscriptions.active == {"trades": {"A"}}
    assert not p.subscriptions.refused
    assert not p.subscriptions.again


def test_a_refusal_of_what_is_no_longer_wanted_is_not_noted() -> None:
    p = make_authenticated(trades={"A"})
    p.to_send()
    p.subscriptions.want("trades", set())
    assert not any(isinstance(each, Refused) for each in p.receive(error(405), 1.0))
    assert not p.subscriptions.refused


@pytest.mark.parametrize("flows", [True, False])
def test_an_unsubscribe_without_an_answer_counts_as_done(flows: bool) -> None:
    rows: Rows = {"trades": 0}
    p = make_watched(rows, trades={"A", "B"})
    p.receive(ack(trades=["A", "B"]), 1.0)
    p.subscriptions.wanted["trades"] = {"A"}
    p.change(20.0)
    rows["trades"] = int(flows)
    assert wait_for_deadline(p, 20.0)[-1] == Ready()
    assert p.subscriptions.active == {"trades": {"A"}}


def test_an_acknowledgement_that_comes_late_is_believed() -> None:
    rows: Rows = {"trades": 0}
    p = make_watched(rows, trades={"A", "B"})
    rows["trades"] = 1
    wait_for_deadline(p, 0.1)
    p.receive(ack(trades=["A"]), 12.0)
    assert p.subscriptions.active == {"trades": {"A"}}
    p.change(13.0)
    assert decode_sent(p)[-1] == {"action": "subscribe", "trades": ["B"]}
