"""The streams. To add one: declare it in a file here and add it to `STREAMS`."""

from __future__ import annotations

from mdstream.streams.crypto import CRYPTO
from mdstream.streams.news import NEWS
from mdstream.streams.options import OPTIONS
from mdstream.streams.perps import PERPS
from mdstream.streams.spec import StreamSpec
from mdstream.streams.stocks import STOCKS

STREAMS: dict[str, StreamSpec] = {stream.name: stream for stream in (STOCKS, OPTIONS, CRYPTO, NEWS, PERPS)}
