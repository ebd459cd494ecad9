"""The declarations of streams, and the columns that identify their rows."""

from __future__ import annotations

import pytest

from mdstream.streams import STREAMS
from mdstream.streams.bar_rules import BarRules
from mdstream.streams.spec import RECV_TS, STORED_APART, SYMBOL, Channel, Column, Kind, StreamSpec

SPECS = pytest.mark.parametrize("spec", STREAMS.values(), ids=lambda spec: spec.name)
TS = Column("ts", Kind.TIME, "t", required=True)


@SPECS
def test_an_identity_names_columns_of_the_channel_or_of_the_store(spec: StreamSpec) -> None:
    for channel in spec.row_channels.values():
        assert set(channel.identity) <= {*channel.at, *STORED_APART} - {RECV_TS.name}, channel.name
        assert len(set(channel.identity)) == len(channel.identity), channel.name


def test_without_an_identity_rows_are_the_same_only_if_feed_and_all_columns_are() -> None:
    channel = Channel("statuses", (SYMBOL, TS, Column("code", Kind.TEXT, "sc"), RECV_TS))
    assert channel.identity == ("feed", "symbol", "ts", "code")


def test_trades_with_one_id_are_distinguished_by_time_exchange_price_and_size() -> None:
    assert STREAMS["stocks"].by_name["trades"].identity == (
        "symbol",
        "ts",
        "exchange",
        "id",
        "price",
        "size",
    )


def test_trades_of_options_have_no_id_and_are_compared_whole() -> None:
    channel = STREAMS["options"].by_name["trades"]
    assert set(channel.identity) == {"feed", *channel.at} - {RECV_TS.name}


@SPECS
def test_an_update_is_the_same_bar_and_another_feed_timeframe_or_adjustment_is_not(
    spec: StreamSpec,
) -> None:
    if "bars" in spec.by_name:
        assert set(spec.by_name["bars"].identity) == {*STORED_APART, "symbol", "ts"}


@SPECS
def test_what_is_revised_has_a_column_that_says_which_row_is_later(spec: StreamSpec) -> None:
    for channel in spec.channels:
        if channel.revised_by:
            assert channel.revised_by in channel.at
            assert channel.revised_by not in channel.identity


def test_a_channel_finds_its_columns_and_its_time() -> None:
    channel = STREAMS["stocks"].by_name["trades"]
    assert channel.column("price") is channel.columns[channel.at["price"]]
    assert channel.time == "ts"
    assert STREAMS["news"].by_name["articles"].time == "created_at"
    assert STREAMS["stocks"].by_name["snapshots"].time == "recv_ts"


@SPECS
def test_types_and_subscriptions_belong_to_one_channel_each(spec: StreamSpec) -> None:
    for wire_type, channel in spec.by_type.items():
        assert [c for c in spec.channels if wire_type in c.types] == [channel]
    assert len(set(spec.subscriptions)) == len(spec.subscriptions)
    assert not set(spec.subscriptions) & set(spec.added_by_server)


@pytest.mark.parametrize(
    ("conditions", "tape", "counts"),
    [
        ("", "A", (True, True)),
        ("@", "C", (True, True)),
        ("I", "C", (False, True)),
        ("B", "A", (False, True)),
        ("B", "C", (True, True)),
        ("M", "A", (False, False)),
        ("IM", "A", (False, False)),
    ],
)
def test_a_trade_follows_the_strictest_rule_of_its_conditions(
    conditions: str, tape: str, counts: tuple[bool, bool]
) -> None:
    rules = STREAMS["stocks"].bar_rules
    assert isinstance(rules, BarRules)
    assert rules.counts(conditions, tape) == counts


@pytest.mark.cases("S12")
@pytest.mark.parametrize(
    ("stream", "feeds"),
    [
        ("stocks", {"iex", "sip", "delayed_sip", "boats", "overnight", "otc"}),
        ("options", {"opra", "indicative"}),
        ("crypto", {"us", "us-1", "us-2", "eu-1", "bs-1"}),
        ("perps", {"global"}),
    ],
)
def test_every_data_feed_of_the_service_is_declared(stream: str, feeds: set[str]) -> None:
    assert feeds <= set(STREAMS[stream].feeds)
    assert all(path.startswith("/v") for path in STREAMS[stream].feeds.values())
