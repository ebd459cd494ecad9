"""Kernels compared with the fallback decoder: both give the same results for any bytes."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import msgpack
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdstream.limits import LARGEST_NUMBER
from mdstream.simulator.encode import ENCODINGS
from mdstream.simulator.traffic import recorded_day
from mdstream.streams import STREAMS
from mdstream.streams.spec import Kind, PayloadKind
from mdstream.streams.storage import DICTIONARY_LIMIT
from tests import traffic
from tests.decoding import Dictionaries
from tests.fuzzing import FUZZ, examples
from tests.running import SHARED
from tests.workers.decoding.pair import UNUSUAL_VALUES, Pair, assert_same
from workers.decoding.decoder import Decoder
from workers.decoding.kernel_decoder import KernelDecoder
from workers.decoding.payloads import Payloads

COUNT = 3000

KINDS = {"json": PayloadKind.JSON, "msgpack": PayloadKind.MSGPACK}


def make_batches(stream: str, codec: str, per: int, count: int = COUNT, size: int = 40) -> Any:
    form = ENCODINGS[codec]
    messages = traffic.messages(stream, count)
    payloads = [
        form.payload([form.message(m) for m in messages[i : i + per]]) for i in range(0, count, per)
    ]
    return [payloads[i : i + size] for i in range(0, len(payloads), size)]


@pytest.mark.parametrize("per", [1, 3, 50])
@pytest.mark.parametrize(
    ("stream", "codec"),
    [(s, c) for s in STREAMS for c in ("json", "msgpack") if s != "options" or c == "msgpack"],
)
def test_generated_traffic_decodes_identically(stream: str, codec: str, per: int) -> None:
    pair = Pair(stream)
    for batch in make_batches(stream, codec, per):
        pair.decode(batch, KINDS[codec])
    assert stream == "news" or pair.fell_back < pair.payloads / 4


def make_small(stream: str, codec: str, per: int) -> bytes:
    """Return a payload with messages of different types of the stream, at most `per`."""
    form = ENCODINGS[codec]
    first = {m["T"]: m for m in reversed(traffic.messages(stream, COUNT))}
    return form.payload([form.message(m) for m in list(first.values())[:per]])


CODED_STREAMS = [("stocks", "json"), ("stocks", "msgpack"), ("crypto", "json"), ("options", "msgpack")]


@pytest.mark.parametrize(("stream", "codec"), CODED_STREAMS)
def test_payloads_cut_at_every_byte_are_the_same_rejects(stream: str, codec: str) -> None:
    pair, whole = Pair(stream), make_small(stream, codec, 3)
    pair.decode([whole], KINDS[codec])
    for cut in range(len(whole)):
        pair.decode([whole, whole[:cut], whole], KINDS[codec])


@pytest.mark.parametrize(("stream", "codec"), CODED_STREAMS)
@given(data=st.data())
@settings(max_examples=examples(150), deadline=None)
def test_flipped_bytes_decode_identically(stream: str, codec: str, data: st.DataObject) -> None:
    pair, whole = Pair(stream), make_small(stream, codec, 4)
    pair.decode([whole], KINDS[codec])
    bent = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        bent[data.draw(st.integers(0, len(whole) - 1))] = data.draw(
            st.integers(0, 255) | st.sampled_from(b'0123456789-+.eE"[]{},:\\ \x00\x80\xc0\xff')
        )
    pair.decode([whole, bytes(bent), whole], KINDS[codec])


SPACES = st.sampled_from([b"", b"", b"", b" ", b"\n\t", b"\r"])


@st.composite
def json_message(draw: st.DrawFn, stream: str) -> bytes:
    """Draw a message of any shape: usual keys with unusual values, in any order, with any spaces."""
    form = ENCODINGS["json"]
    usual = draw(st.sampled_from(traffic.messages(stream, 400)))
    members = {k: form.message({k: v})[len(k) + 4 : -1] for k, v in usual.items()}
    for _ in range(draw(st.integers(0, 3))):
        key = draw(st.sampled_from([*members, "zz", "p", "s", "side", "", "T"]))
        members[key] = draw(st.sampled_from(UNUSUAL_VALUES))
    for key in draw(st.lists(st.sampled_from(list(members)), max_size=2, unique=True)):
        del members[key]
    items = list(members.items())
    if draw(st.booleans()):
        items = draw(st.permutations(items))
    if draw(st.integers(0, 9)) == 0 and items:
        items.append(items[0])
    space = draw(SPACES)
    inside = b",".join(
        space + b'"' + k.encode() + b'"' + space + b":" + space + v + space for k, v in items
    )
    return b"{" + inside + b"}"


@pytest.mark.parametrize("stream", ["stocks", "crypto"])
@given(data=st.data())
@settings(max_examples=examples(300), deadline=None)
def test_messages_of_any_shape_decode_identically(stream: str, data: st.DataObject) -> None:
    messages = data.draw(st.lists(json_message(stream), min_size=1, max_size=6))
    per = data.draw(st.integers(1, 3))
    space = data.draw(SPACES)
    payloads = [
        space + b"[" + space + (space + b"," + space).join(messages[i : i + per]) + b"]" + space
        for i in range(0, len(messages), per)
    ]
    pair = Pair(stream)
    pair.decode(payloads, PayloadKind.JSON)
    pair.decode(payloads[::-1], PayloadKind.JSON)


UNUSUAL_OBJECTS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.integers(-200, 200),
    st.floats(width=32),
    st.text(max_size=40),
    st.binary(max_size=8),
    st.lists(st.text(max_size=3), max_size=3),
    st.builds(msgpack.Timestamp, st.integers(-(2**40), 2**40), st.integers(0, 10**9 - 1)),
    st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=4)),
    st.dictionaries(st.sampled_from("ps"), st.floats(width=32), max_size=2),
    st.lists(st.fixed_dictionaries({"p": st.floats(width=32), "s": st.integers(0, 9)}), max_size=3),
    st.just("2024-03-12T10:38:50.7Z"),
)


@pytest.mark.parametrize("stream", ["stocks", "crypto", "options"])
@given(data=st.data())
@settings(max_examples=examples(300), deadline=None)
def test_msgpack_of_any_shape_decodes_identically(stream: str, data: st.DataObject) -> None:
    form = ENCODINGS["msgpack"]
    bodies = []
    for _ in range(data.draw(st.integers(1, 5))):
        usual = data.draw(st.sampled_from(traffic.messages(stream, 400)))
        message = msgpack.unpackb(form.message(usual))
        for key in data.draw(st.lists(st.sampled_from([*message, "zz", "p"]), max_size=3)):
            message[key] = data.draw(UNUSUAL_OBJECTS)
        single = usual["T"] == "t" and data.draw(st.booleans())
        bodies.append(msgpack.packb(message, use_single_float=single, strict_types=False))
    payload = form.payload(bodies)
    pair = Pair(stream)
    pair.decode([payload, payload], PayloadKind.MSGPACK)
    pair.decode([payload], PayloadKind.MSGPACK)


@pytest.mark.parametrize(
    ("codec", "payload"),
    [
        ("msgpack", b"\x91\x81\xa1T\xa1\x80"),
        ("msgpack", b"\xdd\xff\xff\xff\xff\x81\xa1T\xa1t"),
        ("json", b'[{"T":"t","x":' + b"[" * 100_000),
        ("json", make_small("stocks", "json", 1).replace(b'"p":', b'"p":,"p":', 1)),
        ("json", make_small("stocks", "json", 1).replace(b'"S":"', b'"S":"' + b"A" * 600, 1)),
        ("json", make_small("stocks", "json", 1).replace(b'"S":"', b'"S":"' + b"A" * 1100, 1)),
        ("msgpack", msgpack.packb([{"T": "q", "S": "A" * 600, "t": msgpack.Timestamp(1, 1)}])),
        ("json", re.sub(rb'("[bap]+":)[0-9.]+', rb"\1", make_small("stocks", "json", 1), count=1)),
    ],
)
def test_what_fuzzing_found(codec: str, payload: bytes) -> None:
    pair = Pair("stocks")
    pair.decode([make_small("stocks", codec, 2), payload, make_small("stocks", codec, 2)], KINDS[codec])


TRADE = b'{"T":"t","S":"A","p":%s,"s":2,"t":"2024-03-12T10:38:50Z"%s}'


def json_trade(price: bytes = b"1.5", more: bytes = b"") -> bytes:
    return TRADE % (price, more)


def test_a_payload_that_ends_within_a_literal_goes_on_in_no_other() -> None:
    whole = b'[{"T":"t","S":"A","p": 1 ,"s":2,"t":"2024-03-12T10:38:50Z"}]'
    cut = b'[{"T":"t","S":"A","p":'
    empty = whole.replace(b" 1 ", b" ")
    pair = Pair("stocks")
    pair.decode([whole] * 400 + [cut, b" " + whole, empty] + [whole] * 100, PayloadKind.JSON)
    book = b'[{"T":"o","S":"B","t":"2024-03-12T10:38:50Z","b":[{"p": 1,"s": 2}],"a":[]}]'
    crypto = Pair("crypto")
    for stop in range(len(book)):
        crypto.decode([book, book[:stop], b" " + book, book[stop:], book], PayloadKind.JSON)


@pytest.mark.parametrize("stream", ["stocks", "crypto"])
@pytest.mark.parametrize("codec", ["json", "msgpack"])
@given(data=st.data())
@settings(max_examples=examples(150), deadline=None)
def test_bytes_cut_into_payloads_anywhere_decode_identically(
    stream: str, codec: str, data: st.DataObject
) -> None:
    whole = make_small(stream, codec, 3) * 4
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=6).map(sorted))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    pair = Pair(stream)
    pair.decode([make_small(stream, codec, 3), *pieces], KINDS[codec])
    pair.decode([*pieces, make_small(stream, codec, 3)], KINDS[codec])


NESTED = b"\x91" * 1023 + b"\x01"


@pytest.mark.parametrize(
    ("codec", "payload"),
    [
        ("msgpack", b"\x91\x82\x81\x81\x01\x02\x03\x04\xa1T\xa1t"),  # a key that is a map
        ("msgpack", msgpack.packb([{"T": "t", "S": "A"}])[:-1] + b"\x81\x81\x01\x02\x03"),
        ("msgpack", b"\x92" + msgpack.packb({"T": "t"}) + b"\x82\xa1T\xa2zz\xa1y" + NESTED),
        ("json", b"[" + json_trade(more=b',"n":' + b"9" * 400) + b"]"),
        ("json", b"[" + json_trade(more=b',"n":-' + b"9" * 309 + b".5") + b"]"),
        ("json", b"[" + json_trade(more=b',"n":1e-7,"m":1E+99,"k":1e400') + b"]"),
        ("json", b"[" + json_trade().replace(b"50Z", b"50ZZ") + b"]"),
        ("json", b"[" + json_trade().replace(b"50Z", b"50Z123Z") + b"]"),
        ("json", b"[" + json_trade(more=b',"n":["a",1,null, true ,[1]]') + b"]"),
        ("json", b"[" + json_trade(more=b',"n":["a",1,null, true ,]') + b"]"),
        ("json", b"[" + json_trade(more=b',"n":[ ],"m":["\xc3\xa9"]') + b"]"),
    ],
)
def test_what_reviews_found(codec: str, payload: bytes) -> None:
    usual = make_small("stocks", codec, 2)
    trade = b"[" + json_trade() + b"]" if codec == "json" else usual
    pair = Pair("stocks")
    pair.decode([trade, usual, payload, payload, usual], KINDS[codec])
    pair.decode([payload, usual], KINDS[codec])


KEPT_BYTES = b'0"[]{},: x-\xff' if FUZZ <= 1 else bytes(range(32, 127)) + b"\x00\xff\n"
UNKNOWN_MEMBERS = b',"q":[1,"a",null],"r":"text","n":-1.5e-07,"f":false'


@pytest.mark.parametrize(
    "whole",
    [
        b"[" + json_trade(more=UNKNOWN_MEMBERS) + b"]",
        b"[" + json_trade(more=b',"c":["@","T"],"z":"C"') + b"," + json_trade() + b"]",
        make_small("stocks", "msgpack", 1),
        b"\x91" + msgpack.packb({"T": "t", "S": "A", "t": msgpack.Timestamp(1, 5), "q": [1, b"x"]}),
    ],
    ids=["unknown", "two", "msgpack", "msgpack-unknown"],
)
def test_every_byte_bent_to_many_others_decodes_identically(whole: bytes) -> None:
    kind = PayloadKind.JSON if whole[:1] == b"[" else PayloadKind.MSGPACK
    pair = Pair("stocks")
    pair.decode([whole] * 3, kind)
    for place in range(len(whole)):
        bent = [whole[:place] + bytes([byte]) + whole[place + 1 :] for byte in KEPT_BYTES]
        pair.decode([whole, *bent, whole], kind)


def test_new_texts_of_one_message_get_codes_in_its_own_order() -> None:
    time = b'"t":"2024-03-12T10:38:50.1Z"'
    sides = b'"b":[{"p":1.5,"s":2}],"a":[{"p":1.6,"s":2}]'
    body = b'{"orderbooks":{"BTC/USD":{' + time + b"," + sides + b"}}}"
    update = b'[{"T":"o","S":"BTC/USD",' + time + b',"b":[],"a":[{"p":1.6,"s":2}]}]'
    decoded = Pair("crypto").decode_mixed([(body, PayloadKind.ORDERBOOKS), (update, PayloadKind.JSON)])
    assert decoded.new["book_sides"] == ("bid", "ask")


def test_levels_with_whitespace_without_end_are_the_fallback_decoders() -> None:
    usual = make_small("crypto", "json", 6)
    pair = Pair("crypto")
    for count in (700, 5_000, 140_000):
        level = b'{"p":1,' + b" " * count + b'"s":2}'
        book = b'[{"T":"o","S":"B","t":"2024-03-12T10:38:50Z","b":[' + level + b'],"a":[]}]'
        pair.decode([usual, book, usual, book], PayloadKind.JSON)


UNUSUAL_MEMBERS: list[tuple[str, Any]] = [
    ("json", 1e-09),
    ("json", 1e300),
    ("json", "\u00e9"),
    ("json", [1, "a"]),
    ("json", {"a": 1}),
    ("msgpack", msgpack.Timestamp(1, 5)),
    ("msgpack", b"\x00\xff"),
    ("msgpack", [1, "a", None]),
    ("msgpack", {"a": 1}),
    ("msgpack", "\u00e9"),
    ("msgpack", msgpack.ExtType(5, b"abc")),
]


@pytest.mark.parametrize(("codec", "value"), UNUSUAL_MEMBERS, ids=lambda v: str(v)[:20])
def test_one_message_with_an_unexpected_member_costs_its_own_payload_at_most(
    codec: str, value: Any
) -> None:
    pack: Any = orjson.dumps if codec == "json" else msgpack.packb
    when: Any = "2024-03-12T10:38:50Z" if codec == "json" else msgpack.Timestamp(1, 5)
    trades = [{"T": "t", "S": "A", "p": i / 4, "s": i, "t": when} for i in range(20)]
    unusual = [{**trades[0], "unknown": value}, *trades[1:]]
    pair = Pair("stocks")
    for batch in ([unusual] + [trades] * 50, [unusual[::-1]] + [trades] * 50, [trades] * 50 + [unusual]):
        before = pair.fell_back
        pair.decode([pack(payload) for payload in batch], KINDS[codec])
        assert pair.fell_back - before <= 1


@pytest.mark.parametrize("factor", [1.0, 1 + 2**-52, 1 - 2**-53, 1e100, float("inf"), float("nan")])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_numbers_beyond_the_limit_are_rejects(codec: str, sign: int, factor: float) -> None:
    price = sign * factor * LARGEST_NUMBER
    if codec == "json" and not math.isfinite(price):
        return
    when: Any = "2024-03-12T10:38:50Z" if codec == "json" else msgpack.Timestamp(1, 5)
    trades = [{"T": "t", "S": "A", "p": p, "s": p, "t": when} for p in (1.5, price, 2.5)]
    payload = orjson.dumps(trades) if codec == "json" else msgpack.packb(trades)
    decoded = Pair("stocks").decode([payload] * 2, KINDS[codec])
    is_good = abs(price) <= LARGEST_NUMBER
    assert len(decoded.columns["trades"][0].values) == 2 * (2 + is_good)
    reasons = {reject.reason.partition(",")[0] for reject in decoded.rejects}
    limit = (
        "p: expected a number of at most 1e+100" if math.isfinite(price) else "p: expected a finite number"
    )
    assert reasons == (set() if is_good else {limit})


def test_layouts_that_have_used_up_all_room_are_evicted_for_others() -> None:
    pair = Pair("stocks")
    for j in range(60):
        many = b"".join(b',"k%d_%d":1' % (j, i) for i in range(90))
        pair.decode([b"[" + json_trade(more=many) + b"]"], PayloadKind.JSON)
    payload = b"[" + b",".join(json_trade(b"%d" % i, b',"z":"C"') for i in range(20)) + b"]"
    pair.decode([payload] * 3, PayloadKind.JSON)
    before = pair.fell_back
    pair.decode([payload] * 3, PayloadKind.JSON)
    assert pair.fell_back == before


def test_many_statuses_among_trades_go_alone() -> None:
    status = orjson.dumps({"T": "s", "S": "A", "sc": "H", "sm": "Halt\u00e9", "t": "2024-03-12T10:38:50Z"})
    payload = b"[" + b",".join([json_trade()] * 3 + [status] + [json_trade()] * 3) + b"]"
    pair = Pair("stocks")
    pair.decode([payload] * 300, PayloadKind.JSON)
    assert pair.fell_back == 0


def test_texts_of_rejected_messages_are_not_kept_for_ever() -> None:
    pair = Pair("stocks")
    for start in range(0, 9000, 1500):
        bad = [
            b'[{"T":"t","S":"S%d","p":"x","t":"2024-03-12T10:38:50Z"}]' % i
            for i in range(start, start + 1500)
        ]
        pair.decode([make_small("stocks", "json", 2), *bad], PayloadKind.JSON)
    assert all(len(p._texts.texts) < 8000 for p in pair._decoder._kernel_decoders.values())


def test_which_new_texts_find_a_place_in_a_dictionary_goes_by_their_order() -> None:
    def trade(exchange: str, price: bytes = b"1") -> bytes:
        return b"[" + json_trade(price, b',"x":"' + exchange.encode() + b'"') + b"]"

    pair = Pair("stocks")
    limit = DICTIONARY_LIMIT[Kind.CODE]
    for start in range(0, limit - 1, 1000):
        stop = min(start + 1000, limit - 1)
        pair.decode([trade(f"X{i}") for i in range(start, stop)], PayloadKind.JSON)
    # The fallback decoder decodes this one.
    unusual = trade("NEW1", b'"x"').replace(b'"x","s"', b'1,"odd":{"a":1},"s"')
    decoded = pair.decode([trade("X1"), unusual, trade("NEW2"), trade("X2")], PayloadKind.JSON)
    assert decoded.new["exchanges"] == ("NEW1",)
    assert [r.payload for r in decoded.rejects] == [2]


def test_a_fault_of_the_kernels_costs_no_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    payloads = [make_small("stocks", "json", 2)] * 4
    decoder = Decoder(STREAMS["stocks"], Dictionaries().known)
    batch = Payloads.of([(p, PayloadKind.JSON, 1) for p in payloads])
    right = decoder.decode(batch)

    def broken(*_: Any) -> None:
        raise IndexError("a word beyond the buffer")

    decoder = Decoder(STREAMS["stocks"], Dictionaries().known)
    monkeypatch.setattr(KernelDecoder, "decode", broken)
    decoded = decoder.decode(batch)
    assert re.search(r"IndexError: a word beyond the buffer \(.*test_decoder.py, line", decoded.fault)
    assert decoded.fell_back == 4
    assert_same(decoded, right)


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_a_recorded_day_decodes_identically(codec: str) -> None:
    day = SHARED / "data" / "ticks" / "ibm-2013-10-07.csv.gz"
    form, pair = ENCODINGS[codec], Pair("stocks")
    pair.room = 8 << 20
    events = recorded_day("stocks", day, {"trades": ["*"], "quotes": ["*"]})
    count = 0
    while part := [form.message(m) for m in itertools.islice(events, 8000)]:
        pair.decode([form.payload(part[i : i + 20]) for i in range(0, len(part), 20)], KINDS[codec])
        count += len(part)
    assert count == 133_360
    assert pair.fell_back == 0


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize("stream", ["stocks", "crypto", "options", "news"])
def test_recorded_frames_decode_identically(stream: str) -> None:
    pair = Pair(stream)
    for path in sorted((SHARED / "data" / "alpaca" / "stream").glob(f"{stream}*.jsonl")):
        lines = path.read_bytes().splitlines()
        for batch in (lines, lines * 3, lines[::-1]):
            pair.decode(batch, PayloadKind.JSON)
        as_msgpack = [msgpack.packb(orjson.loads(line)) for line in lines]
        pair.decode(as_msgpack * 2, PayloadKind.MSGPACK)


@pytest.mark.cases("V5")
@pytest.mark.parametrize("stream", ["stocks", "crypto", "options"])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_the_same_rejects(stream: str, number: float) -> None:
    pair, form = Pair(stream), ENCODINGS["msgpack"]
    messages = traffic.messages(stream, 60)
    pair.decode([form.payload([form.message(m) for m in messages])], KINDS["msgpack"])
    floats = [key for key in ("p", "bp", "ap", "o", "vw") if any(key in m for m in messages)]
    for key in floats:
        bent = [{**m, key: number} if key in m and i % 7 == 3 else m for i, m in enumerate(messages)]
        payload = form.payload([form.message(m) for m in bent])
        rejects = pair.decode([payload, payload], KINDS["msgpack"]).rejects
        assert (
            len(rejects) == 2 * sum(m is not n for m, n in zip(messages, bent, strict=True)) or key == "o"
        )


@pytest.mark.cases("V7")
@pytest.mark.parametrize("stream", ["stocks", "crypto", "news"])
def test_damaged_messages_cost_both_decoders_the_same(stream: str) -> None:
    pair, form = Pair(stream), ENCODINGS["json"]
    good = [form.message(m) for m in traffic.messages(stream, 12)]
    pair.decode([form.payload(good)], KINDS["json"])
    for bad in (b'{"T":"t","S":"\\ud83d"}', b"nul", b"", b'{"T":"q","S":"\xff"', good[0] + b"}"):
        for at in (0, 3, 12):
            decoded = pair.decode([form.payload([*good[:at], bad, *good[at:]])] * 2, KINDS["json"])
            assert sum(decoded.counts) - len(decoded.rejects) == 24
    for before, after in ((b"\xef\xbb\xbf", b""), (b"", b"\0\0"), (b"", b"\xff"), (b" ", b"]")):
        decoded = pair.decode([before + form.payload(good) + after], KINDS["json"])
        assert sum(decoded.counts) - len(decoded.rejects) == 12
