"""Standard output and standard error, read by a person, a program or nobody."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from rich.console import Console


class _Output(Console):
    """A console that says that its reader is gone, where rich ends the program."""

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError


def output_console() -> Console:
    """Standard output; wide enough for tables where it is no terminal."""
    return _Output(file=sys.stdout, width=None if sys.stdout.isatty() else 120)


def drop() -> None:
    """Have what is left in the buffers go nowhere, or the interpreter fails once more at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def open_standard_streams() -> None:
    """Where one was closed (`>&-`), open it to nowhere: else the next file would take its place."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115
