"""REST beside a replay: the state of symbols where the stretch begins, and nothing made up."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from mdstream.simulator.faults import Faults
from mdstream.simulator.rest import Refusal, RestService
from mdstream.simulator.settings import SimulatorSettings
from mdstream.simulator.source import Source
from mdstream.venues.alpaca.bodies import NEXT_PAGE_TOKEN


class PastRest(RestService):
    """Snapshots from a source; no history (that is in the store) and no news but the stream's."""

    def __init__(self, settings: SimulatorSettings, faults: Faults, source: Source) -> None:
        super().__init__(settings, faults)
        self._source = source

    def _snapshots(self, request: web.Request, stream: str) -> Any:
        if "symbol" in request.match_info:
            symbol = self._valid(stream, [request.match_info["symbol"]])[0]
            return {"symbol": symbol, **self._source.state(stream, [symbol]).get(symbol, {})}
        found = self._source.state(stream, self._symbols(request, stream))
        if stream == "stocks":
            return found
        return {"snapshots": found, **({NEXT_PAGE_TOKEN: None} if stream == "options" else {})}

    def _chain(self, request: web.Request, stream: str) -> Any:
        contracts = self._source.chain(request.match_info["underlying"])
        return {"snapshots": self._source.state(stream, contracts), NEXT_PAGE_TOKEN: None}

    def _news(self, request: web.Request, stream: str) -> Any:
        return {"news": [], NEXT_PAGE_TOKEN: None}

    def _refused(self, request: web.Request, stream: str, what: str = "") -> Any:
        raise Refusal(404, "a replay serves streams and snapshots; history is in its store")

    _assets = _contracts = _latest = _history = _refused
