"""Our decoder as a subject: payloads of stocks to columns, without a pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mdstream.streams.spec import PayloadKind


class Decoding:
    """A decoder (the kernels or the fallback decoder) that learns new texts as the engine does."""

    _codes: dict[str, dict[str, int]]
    """The codes of texts, by dictionary."""

    def __init__(self, kernels: bool) -> None:
        from mdstream.streams import STREAMS
        from workers.decoding.decoder import Decoder

        self._codes = {}
        self._decoder = Decoder(STREAMS["stocks"], self._known, kernels=kernels)
        self._memory = memoryview(bytearray(16_000_000))  # the result area of a slab

    def _known(self, name: str) -> dict[str, int]:
        return self._codes.setdefault(name, {})

    def decode(self, payloads: Sequence[bytes], kind: PayloadKind) -> None:
        """Decode payloads into columns."""
        from workers.decoding.payloads import Payloads

        self.run(Payloads.of([(data, kind, 0) for data in payloads]))

    def run(self, batch: Any) -> None:
        """Decode a batch, which is a `Payloads`."""
        from mdstream.handoff.columns import ResultArea

        decoded = self._decoder.decode(batch, ResultArea(self._memory))
        assert not decoded.rejects
        for name, texts in decoded.new.items():
            for text in texts:
                self._known(name).setdefault(text, len(self._codes[name]))


def batches(payloads: Sequence[bytes], kind: PayloadKind) -> list[Any]:
    """Return the payloads in batches of about 1 MB, the size of slabs under load."""
    from workers.decoding.payloads import Payloads

    size = max(1, 1_000_000 * len(payloads) // sum(map(len, payloads)))
    return [
        Payloads.of([(p, kind, 0) for p in payloads[i : i + size]]) for i in range(0, len(payloads), size)
    ]
