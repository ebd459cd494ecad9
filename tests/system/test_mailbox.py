"""Messages of a child arrive whole and in order; neither side waits for the other."""

from __future__ import annotations

import os
import pickle
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdstream.system.mailbox import Inbox, Outbox
from tests.forking import get_fork_context
from tests.running import until

LONG = "x" * 5_000_000
"""Far more than the pipe takes at once."""


@contextmanager
def mailbox() -> Iterator[tuple[Outbox, Inbox, Connection]]:
    """Return both sides, and the child's end of the pipe."""
    ours, theirs = Pipe()
    inbox = Inbox(ours)
    outbox = Outbox(theirs)
    yield outbox, inbox, theirs
    outbox.close()
    ours.close()
    theirs.close()


def wait_for_messages(inbox: Inbox, count: int) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []

    def take() -> bool:
        found.extend(inbox.receive())
        return len(found) >= count

    until(take, f"{count} messages")
    return found


def test_messages_of_any_length_arrive_in_order() -> None:
    messages = [("log", "x" * length) for length in (0, 1, 16_384, 230_000, 16_385, 3)] + [("event", LONG)]
    with mailbox() as (outbox, inbox, _):
        for message in messages:
            outbox.put(*message)
        assert wait_for_messages(inbox, len(messages)) == messages
        assert list(inbox.receive()) == []


@given(
    st.lists(st.binary(max_size=300), max_size=8), st.lists(st.integers(1, 900), min_size=1, max_size=30)
)
def test_messages_arrive_whole_however_their_bytes_arrive(contents: list[bytes], cuts: list[int]) -> None:
    ours, theirs = Pipe()
    inbox = Inbox(ours)
    parts = [pickle.dumps(("log", content)) for content in contents]
    data = b"".join(struct.pack("!Q", len(part)) + part for part in parts)
    found, start = [], 0
    for end in (*sorted({cut for cut in cuts if cut < len(data)}), len(data)):
        os.write(theirs.fileno(), data[start:end])
        start = end
        found += inbox.receive()
    assert found == [("log", content) for content in contents]
    for each in (ours, theirs):
        each.close()


def send_much(pipe: Connection) -> None:
    Outbox(pipe).put("event", LONG)
    time.sleep(60)


def test_an_owner_does_not_wait_for_a_child_that_is_stopped_in_the_middle_of_a_message() -> None:
    ours, theirs = Pipe()
    child = get_fork_context().Process(target=send_much, args=(theirs,))  # type: ignore[attr-defined]
    child.start()
    inbox = Inbox(ours)
    until(lambda: ours.poll(0), "the beginning of the message")
    os.kill(child.pid or 0, signal.SIGSTOP)
    begun = time.monotonic()
    for _ in range(100):
        assert list(inbox.receive()) == []
    assert time.monotonic() - begun < 30, "it waited"
    os.kill(child.pid or 0, signal.SIGCONT)
    assert wait_for_messages(inbox, 1) == [("event", LONG)]
    child.kill()
    child.join()
    theirs.close()
    with pytest.raises((EOFError, OSError)):
        until(lambda: list(inbox.receive()), "the end")
    ours.close()


def test_a_child_does_not_wait_for_an_owner_that_does_not_read() -> None:
    with mailbox() as (outbox, inbox, _):
        for number in range(200):
            outbox.put("log", f"{number} {'x' * 6000}")
        time.sleep(0.1)
        found = wait_for_messages(inbox, 200)
        assert [content.split()[0] for _, content in found] == [str(n) for n in range(200)]
