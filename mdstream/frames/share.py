"""What all frames of one stream may take of shared memory, together."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mdstream.frames.writer import FrameWriter


class Share:
    """Frames that share `limit` bytes: when they hold more, the largest one's oldest chunk goes.

    So a small frame finds room beside a large one, and a stream cannot crowd out the others.
    """

    # The mutable state: the frames, each of which says what it holds.

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._frames: list[FrameWriter] = []

    def join(self, frame: FrameWriter) -> None:
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
