"""What all frames of one stream may take of shared memory, together."""

from __future__ import annotations

from typing import Protocol


class Member(Protocol):
    """A frame, as its share sees it."""

    @property
    def bytes(self) -> int: ...

    @property
    def can_drop(self) -> bool:
        """Whether it has an old chunk that can be dropped."""
        ...

    def drop_oldest(self) -> None: ...


class Share:
    """Frames that share `limit` bytes: when they hold more, the largest one's oldest chunk is dropped.

    So a small frame finds room beside a large one, and a stream cannot crowd out the others.
    """

    _frames: list[Member]
    """Each says what it holds; frames join as they are made, and stay."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._frames = []

    def join(self, frame: Member) -> None:
        """Add `frame` to those that share."""
        self._frames.append(frame)

    def make_room(self, coming: int) -> None:
        """Drop old chunks until `coming` bytes more are within the limit, or none is left to drop."""
        while sum(frame.bytes for frame in self._frames) + coming > self.limit:
            if not self.drop():
                break

    def drop(self) -> bool:
        """Drop the oldest chunk of the largest frame that has one to spare; whether there was one."""
        frames = [frame for frame in self._frames if frame.can_drop]
        if not frames:
            return False
        max(frames, key=lambda frame: frame.bytes).drop_oldest()
        return True
