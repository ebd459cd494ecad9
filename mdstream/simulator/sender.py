"""Send one connection its messages, at the configured pace, with faults on demand."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, cast

from mdstream.simulator import traffic
from mdstream.simulator.encode import ENCODINGS, Encoding, to_json
from mdstream.simulator.faults import Faults
from mdstream.simulator.generator import Message
from mdstream.simulator.markets import Market
from mdstream.simulator.pace_of_day import count_due
from mdstream.simulator.simulator_settings import SimulatorSettings
from mdstream.simulator.source import MarketSource, RecordedPayload

_TICK_S = 0.005
_BUFFERED = 1 << 20
_MOST_PREPARED = 8
_MOST_DUE = 2_000
"""Most messages at once, so that a sender that is late leaves the others their turn."""


@dataclass(slots=True)
class Sent:
    """Counts of what one stream has sent over all its connections."""

    connections: int = 0
    payloads: int = 0
    bytes: int = 0
    messages: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        return {
            "connections": self.connections,
            "payloads": self.payloads,
            "bytes": self.bytes,
            "messages": self.messages.total(),
            "by_type": dict(sorted(self.messages.items())),
        }


@dataclass(slots=True)
class Shared:
    """State that all connections of one simulator share."""

    settings: SimulatorSettings
    faults: Faults
    sent: dict[str, Sent]
    taken: set[tuple[str, str]] = field(default_factory=set)
    """Path and key of endpoints in use: the plan allows one connection each."""
    source: MarketSource | None = None
    """The source that replaces the made-up markets."""
    sent_log: IO[bytes] | None = None
    """File for all sent messages."""
    prepared: dict[tuple[Any, ...], list[traffic.PayloadGroup]] = field(default_factory=dict)
    """Cache: stream, encoding and subscription → encoded messages."""


class ReplayPace:
    """Measures how long until a past event is due at `speed` times its pace; 0: all are due at once."""

    _first: int | None
    """The time of the first event, ns since 1970."""
    _began: float
    """The monotonic time when it was due."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._first = None
        self._began = 0.0

    def begin(self, at_ns: int) -> None:
        """Start the clock at `at_ns`."""
        self._first, self._began = at_ns, time.monotonic()

    def ahead_s(self, at_ns: int) -> float:
        """Return the seconds until the event of `at_ns` is due; the first one is due now."""
        if self._speed <= 0:
            return 0.0
        if self._first is None:
            self.begin(at_ns)
        assert self._first is not None
        return self._began + (at_ns - self._first) / 1e9 / self._speed - time.monotonic()


class Sender:
    """Sends one connection its subscribed messages, until it is cancelled.

    `transport` returns the connection, or raises `ConnectionResetError` if the client has closed it.
    `refuse` sends the client an error code.
    """

    _muted: bool
    """Whether a fault has silenced this connection."""
    _since_disturbed: Counter[str]
    """Payloads since the last fault of each kind."""

    def __init__(
        self,
        shared: Shared,
        market: Market,
        encoding: Encoding,
        transport: Callable[[], asyncio.Transport],
        refuse: Callable[[int], None],
    ) -> None:
        self._shared = shared
        self._settings = shared.settings
        self._market = market
        self._encoding = encoding
        self._transport = transport
        self._refuse = refuse
        self._sent = shared.sent[market.name]
        self._muted = False
        self._since_disturbed = Counter()

    async def send(self, subscribed: traffic.Subscription) -> None:
        """Send all messages of one subscription."""
        faults = asyncio.create_task(self._timed_faults())
        try:
            settings, name = self._settings, self._market.name
            if self._shared.source is not None:
                await self._past(self._shared.source, subscribed)
            elif settings.ticks and self._market.ticks is not None:
                await self._recorded_day(subscribed)
            elif settings.rate > 0:
                messages = traffic.generate_live(name, settings.seed, subscribed)
                await self._at_rate(messages)
            else:
                await self._flat_out(subscribed)
            await faults
        finally:
            faults.cancel()

    async def _past(self, source: MarketSource, subscribed: traffic.Subscription) -> None:
        """Send a range of the past at `speed` times its pace (0: at once), with one slice read ahead."""
        slices, pace = source.slices(self._market.name, subscribed), ReplayPace(self._settings.speed)
        pace.begin(source.first)
        coming = asyncio.create_task(asyncio.to_thread(next, slices, None))
        try:
            while (found := await coming) is not None:
                coming = asyncio.create_task(asyncio.to_thread(next, slices, None))
                due: list[Message | RecordedPayload] = []
                for at, message in found:
                    if (len(due) >= _MOST_DUE) or pace.ahead_s(at) > _TICK_S:
                        await self._write_past(due)
                        due = []
                        while (pause := pace.ahead_s(at)) > 0:
                            await asyncio.sleep(pause)
                    due.append(message)
                await self._write_past(due)
        finally:
            coming.cancel()

    async def _write_past(self, due: list[Message | RecordedPayload]) -> None:
        payloads = [each for each in due if isinstance(each, RecordedPayload)]
        if payloads:
            await self._write(traffic.PayloadGroup(b"".join(payloads), len(payloads)))
        else:
            await self._write_all(cast("list[Message]", due))

    async def _recorded_day(self, subscribed: traffic.Subscription) -> None:
        """Send the day's events at `speed` times their pace; 0: as fast as possible."""
        settings = self._settings
        messages = traffic.recorded_day(self._market.name, settings.ticks, subscribed)
        if settings.messages:
            messages = itertools.islice(messages, settings.messages)
        if settings.speed <= 0:
            for piece in await asyncio.to_thread(lambda: list(self._pieces(messages))):
                await self._write(piece)
            return
        pace = ReplayPace(settings.speed)
        due: list[Message] = []
        for message in messages:
            if pace.ahead_s(message["t"]) > _TICK_S:
                await self._write_all(due)
                due = []
                while (pause := pace.ahead_s(message["t"])) > 0:
                    await asyncio.sleep(pause)
            due.append(message)
        await self._write_all(due)

    async def _at_rate(self, messages: Iterator[Message]) -> None:
        settings = self._settings
        rate = settings.rate * self._market.share
        most = max(_MOST_DUE, settings.messages_per_payload)
        started, done = time.monotonic(), 0
        while not settings.messages or done < settings.messages:
            late = int(count_due(time.monotonic() - started, rate, settings.day_s)) - done
            due = min(late, most)
            if settings.messages:
                due = min(due, settings.messages - done)
            due -= due % settings.messages_per_payload if done + due != settings.messages else 0
            batch = list(itertools.islice(messages, due))
            done += len(batch)
            if due and not batch:
                return  # nothing is subscribed
            await self._write_all(batch)
            if self._transport().get_write_buffer_size() > settings.slow_client_mb << 20:
                await self._close_with(407)
                return
            await asyncio.sleep(0 if late > most else _TICK_S)

    async def _flat_out(self, subscribed: traffic.Subscription) -> None:
        settings, prepared = self._settings, self._shared.prepared
        of = (
            self._market.name,
            self._encoding,
            *((name, *symbols) for name, symbols in subscribed.items()),
        )
        pieces = prepared.pop(of, [])
        if not pieces:
            pieces = await asyncio.to_thread(
                traffic.prepare,
                traffic.generate(self._market.name, settings.seed, subscribed),
                settings.messages or traffic.MOST_PREPARED,
                self._encoding,
                settings.messages_per_payload,
                self._shared.sent_log is not None,
            )
        prepared[of] = pieces
        if len(prepared) > _MOST_PREPARED:
            del prepared[next(iter(prepared))]
        while pieces:
            for piece in pieces:
                while not settings.messages and self._is_ahead():
                    await asyncio.sleep(_TICK_S)
                await self._write(piece)
            if settings.messages:
                return

    def _is_ahead(self) -> bool:
        """Return whether a slow market has sent more than its share, compared with the others."""
        share = self._market.share
        others = (each.messages.total() for each in self._shared.sent.values() if each is not self._sent)
        most = max(others, default=0)
        return share < 1 and most > 0 and self._sent.messages.total() > share * most

    def _pieces(self, messages: Iterator[Message]) -> Iterator[traffic.PayloadGroup]:
        per_payload = self._settings.messages_per_payload
        return traffic.pieces(messages, self._encoding, per_payload, self._shared.sent_log is not None)

    async def _write_all(self, messages: list[Message]) -> None:
        for piece in self._pieces(iter(messages)):
            await self._write(piece)

    async def _write(self, piece: traffic.PayloadGroup) -> None:
        """Write a piece; without a rate, at most as fast as the client reads."""
        if self._muted:
            await asyncio.Event().wait()
        transport = self._transport()
        transport.write(piece.data)
        self._sent.payloads += piece.payloads
        self._sent.bytes += len(piece.data)
        self._sent.messages.update(piece.types)
        if self._shared.sent_log is not None:
            name = self._market.name.encode()
            for message in piece.messages:
                line = b'{"stream":"' + name + b'","message":' + to_json(message) + b"}\n"
                self._shared.sent_log.write(line)
        self._disturb(piece.payloads)
        if self._settings.rate <= 0 or self._settings.ticks or self._shared.source is not None:
            while transport.get_write_buffer_size() > _BUFFERED:
                await asyncio.sleep(0.0005)
            await asyncio.sleep(0)

    # -- faults on demand

    def _disturb(self, payloads: int) -> None:
        for kind, garbage in (("garbage", b'{"garbage" \xff\x00'), ("truncate", None)):
            fault = self._shared.faults.of(kind, self._market.name)
            if fault is None:
                continue
            every = max(1, int(fault.number))
            self._since_disturbed[kind] += payloads
            times, self._since_disturbed[kind] = divmod(self._since_disturbed[kind], every)
            for _ in range(times):
                if fault.happens():
                    whole = self._encoding.payload([self._encoding.message(_HALVED)])
                    payload = whole[: len(whole) // 2] if garbage is None else garbage
                    self._transport().write(ENCODINGS["msgpack"].wrap(payload))

    async def _timed_faults(self) -> None:
        """Drop, silence or refuse the client after the seconds that a fault names."""
        faults = [
            (fault.after_s, kind, fault)
            for kind in ("drop", "mute", "error")
            if (fault := self._shared.faults.of(kind, self._market.name)) is not None
        ]
        started = time.monotonic()
        for after_s, kind, fault in sorted(faults, key=lambda item: item[0]):
            await asyncio.sleep(max(0.0, started + after_s - time.monotonic()))
            if not fault.happens():
                continue
            if kind == "drop":
                self._transport().abort()
            elif kind == "error":
                await self._close_with(int(fault.number))
            else:
                self._muted = True
        await asyncio.Event().wait()

    async def _close_with(self, code: int) -> None:
        self._refuse(code)
        await asyncio.sleep(0.05)
        self._transport().abort()


_HALVED: Message = {"T": "q", "S": "AAPL", "bp": 1.0, "bs": 1, "ap": 1.1, "as": 1}
