"""What all frames of one stream may take of shared memory, together."""

from __future__ import annotations

from typing import Protocol


class Member(Protocol):
    """What takes memory: a frame."""

    @property
    def bytes(self) -> int: ...

    @property
    def can_drop(self) -> bool:
        """Whether it has something old that can go."""
        ...

    def drop_oldest(self) -> None: ...


class Share:
    """Frames that share `limit` bytes: when they hold more, the largest one's oldest chunk goes.

    So a small frame finds room beside a large one, and a stream cannot crowd out the others.
    """

    _frames: list[Member]
    """Each says what it holds; frames join as they are made, and stay."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._frames = []

    def join(self, frame: Member) -> None:
        """Count `frame` in from now on."""
        self._frames.append(frame)

    def make_room(self, coming: int) -> None:
        """Drop what is oldest until `coming` bytes more are within the limit, or nothing is left."""
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
