"""The shared memory that all frames of one stream may use together."""

from __future__ import annotations

from typing import Protocol


class SharingFrame(Protocol):
    """A frame with a part in a share."""

    @property
    def bytes(self) -> int: ...

    @property
    def can_drop(self) -> bool:
        """Whether it has an old chunk that can be dropped."""
        ...

    def drop_oldest(self) -> None: ...


class Share:
    """Frames that share `limit` bytes. When they need more, the largest one drops its oldest chunk.

    So a small frame finds room beside a large one, and no stream crowds out the others.
    """

    # Written by `join` alone.
    _frames: list[SharingFrame]

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._frames = []

    def join(self, frame: SharingFrame) -> None:
        """Add a frame to the share."""
        self._frames.append(frame)

    def make_room(self, coming: int) -> None:
        """Drop old chunks until there is room for `coming` more bytes, or no chunk is left to drop."""
        while sum(frame.bytes for frame in self._frames) + coming > self.limit:
            if not self.drop():
                break

    def drop(self) -> bool:
        """Drop the oldest chunk of the largest frame that can drop one; return False if there is none."""
        frames = [frame for frame in self._frames if frame.can_drop]
        if not frames:
            return False
        max(frames, key=lambda frame: frame.bytes).drop_oldest()
        return True
