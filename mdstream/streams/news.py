"""News: articles by symbol."""

from __future__ import annotations

from mdstream.streams.rest_spec import Fetch, HistorySpec
from mdstream.streams.spec import RECV_TS, Channel, Column, Kind, StreamSpec
from mdstream.venues.alpaca.limits import NEWS_PAGE

_ARTICLE = (
    Column("id", Kind.INT, "id", required=True),
    Column("created_at", Kind.TIME, "created_at", required=True),
    Column("updated_at", Kind.TIME, "updated_at"),
    Column("headline", Kind.TEXT, "headline"),
    Column("summary", Kind.TEXT, "summary"),
    Column("author", Kind.TEXT, "author"),
    Column("source", Kind.TEXT, "source"),
    Column("url", Kind.TEXT, "url"),
    Column("content", Kind.TEXT, "content"),
    Column("symbols", Kind.SYMBOLS, "symbols", dictionary="symbols"),
)

# REST records have pictures, messages of the stream do not.
_IMAGES = Column("images", Kind.JSON, "images")

NEWS = StreamSpec(
    name="news",
    channels=(
        Channel(
            "articles",
            (*_ARTICLE, RECV_TS),
            ("n",),
            ("news",),
            is_timely=True,
            revised_by="updated_at",
            identity=("id",),
        ),
        Channel("snapshots", (*_ARTICLE, _IMAGES, RECV_TS), revised_by="updated_at", identity=("id",)),
    ),
    feeds={"benzinga": "/v1beta1/news"},
    default_feed="benzinga",
    codec="json",
    codecs=("json", "msgpack"),
    symbols=("AAPL", "MSFT", "NVDA", "AMZN", "GOOGL", "META", "TSLA", "AMD", "SPY", "QQQ"),
    fetch=Fetch(
        "/v1beta1/news",
        max_symbols=50,
        member="news",
        listed=True,
        fixed={"limit": str(NEWS_PAGE), "include_content": "true"},
        since_parameter="start",
    ),
    asset_classes=("us_equity", "crypto"),
    mute_after_s={},  # hours without an article are normal
    always_open=True,
    history=(
        HistorySpec(
            "articles",
            "/v1beta1/news",
            rows="snapshots",
            limit=NEWS_PAGE,
            fixed={"include_content": "true"},
            partition="year",
            shard_days=30,
            everything=True,
            sparse=True,
        ),
    ),
)
