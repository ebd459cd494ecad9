"""Pass 1 for REST bodies of one kind: their records, and the symbols of the records."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt

from mdstream.handoff.ticket import BodyContents
from mdstream.streams.spec import PayloadKind, StreamSpec
from mdstream.venues.alpaca.bodies import NEXT_PAGE_TOKEN, ONE_SYMBOL, SYMBOL, clean_page_token
from workers.decoding import learn_json
from workers.decoding.layouts import ChannelSlots
from workers.decoding.matching import Codec, Matched, Matcher
from workers.decoding.payloads import Payloads
from workers.decoding.requested import Requested
from workers.kernels import match_bodies, ops, values_json

_START_KEYS = 1024


class BodyMatcher(Matcher):
    """Matches REST bodies whose records go to one channel."""

    # Written by `match`: arrays that each batch reuses.
    _at: npt.NDArray[np.int64]
    """Where the kernel is (`kernels.ops`)."""
    _tokens: npt.NDArray[np.uint64]
    """The span of the page token of each payload."""
    _keys: npt.NDArray[np.uint64]
    """The spans of the symbols that are keys of bodies."""
    _key_payload: npt.NDArray[np.int32]
    """The payload of each."""
    _key_records: npt.NDArray[np.int64]
    """The records under each."""

    def __init__(self, spec: StreamSpec, slots: ChannelSlots, kind: PayloadKind) -> None:
        codec = Codec(
            match_bodies.match,
            partial(learn_json.learn_record, slots=slots),
            learn_json.end_of,
            learn_json.is_whole,
            None,
            values_json,
            by_keys=True,
        )
        super().__init__(spec, {slots.channel.name: slots}, codec)
        self._chain = spec.chain
        name = spec.member_of(kind)
        self._slots = slots
        self._names = _pack_names(name, name[:-1], ONE_SYMBOL, NEXT_PAGE_TOKEN)
        self._bare_symbols = kind is PayloadKind.SNAPSHOTS
        self._tokens = np.zeros(0, np.uint64)
        self._make_keys(_START_KEYS)

    def match(self, payloads: Payloads, verdicts: npt.NDArray[np.uint8]) -> Matched:
        """Match bodies like `Matcher.match`; `Matched.bodies` has the contents of each body."""
        requests = self._find_requests(payloads)
        while True:
            found = super().match(payloads, verdicts)
            symbols, unusual = self._symbols(payloads)
            unusual |= {p for p, request in requests.items() if request.find_others(symbols.get(p, ()))}
            if not unusual:
                break
            verdicts[list(unusual)] = ops.FELL_BACK  # the fallback decoder decides which records count
        for payload in np.flatnonzero(verdicts == ops.GOOD).tolist():
            token = clean_page_token(payloads.cut(self._tokens[payload])[1:-1].decode())
            found.bodies[payload] = BodyContents(frozenset(symbols.get(payload, ())), {}, token)
        return found

    def _find_requests(self, payloads: Payloads) -> dict[int, Requested]:
        """Return payload → the symbols that it was requested for."""
        found = np.flatnonzero(payloads.kinds == PayloadKind.REQUESTED).tolist()
        return {at + 1: Requested(payloads.view(at), self._chain) for at in found}

    def _symbols(self, payloads: Payloads) -> tuple[dict[int, list[str]], set[int]]:
        """Return payload → symbols with a record, and the payloads with a repeated symbol."""
        count = int(self._at[ops.AT_KEYS])
        seen: set[tuple[int, bytes]] = set()
        twice: set[int] = set()
        symbols: dict[int, list[str]] = {}
        for key, payload, records in zip(
            self._keys[:count],
            self._key_payload[:count].tolist(),
            self._key_records[:count].tolist(),
            strict=True,
        ):
            raw = payloads.cut(key)
            if (payload, raw) in seen:
                twice.add(payload)
            seen.add((payload, raw))
            if records:
                symbols.setdefault(payload, []).append(raw[1:-1].decode())
        return symbols, twice

    def _begin(self, payloads: int) -> npt.NDArray[np.int64]:
        at = self._at = np.zeros(ops.AT_BODIES_WIDTH, np.int64)
        at[ops.AT_BYTE] = at[ops.AT_AFTER] = -1
        at[ops.AT_CHANNEL] = self._slots.index
        at[ops.AT_SYMBOLS] = self._slots.by_key[SYMBOL]
        at[ops.AT_BARE] = self._bare_symbols
        self._tokens = np.zeros(payloads, np.uint64)
        self._pass_on()
        return at

    def _make_keys(self, room: int) -> None:
        self._keys = np.zeros(room, np.uint64)
        self._key_payload = np.zeros(room, np.int32)
        self._key_records = np.zeros(room, np.int64)

    def _grow(self) -> None:
        super()._grow()
        room = len(self._keys)
        keys, payload, records = self._keys, self._key_payload, self._key_records
        self._make_keys(room * 4)
        self._keys[:room], self._key_payload[:room], self._key_records[:room] = (keys, payload, records)
        self._pass_on()

    def _pass_on(self) -> None:
        self._more = (self._names, self._keys, self._key_payload, self._key_records, self._tokens)


def _pack_names(*names: str) -> npt.NDArray[np.uint64]:
    """Pack names as the kernel reads them: length and bytes, in words of eight."""
    words = np.zeros((len(names), ops.NAME_WIDTH), np.uint64)
    for row, name in zip(words, names, strict=True):
        row[0] = len(name)
        row[1:] = np.frombuffer(name.encode().ljust(8 * (ops.NAME_WIDTH - 1), b"\0"), np.uint64)
    return words.reshape(-1)
