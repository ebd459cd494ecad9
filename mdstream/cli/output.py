"""Standard output and standard error, whether a person, a program or nobody reads them."""

from __future__ import annotations

import os
import shutil
import sys
from typing import NoReturn

from rich.console import Console


class _Output(Console):
    """A console that raises BrokenPipeError if its reader is gone, where rich exits."""

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError


_COLUMNS = 80
"""Width of output that goes to a file or pipe."""


def output_width() -> int:
    """Return the columns of standard output: those of the terminal, else `COLUMNS`, else 80."""
    if sys.stdout.isatty() or "COLUMNS" in os.environ:
        return shutil.get_terminal_size((_COLUMNS, 24)).columns
    return _COLUMNS


def output_console() -> Console:
    """Return a console on standard output, as wide as `output_width` says."""
    return _Output(file=sys.stdout, width=output_width())


def discard_output() -> None:
    """Discard what is left in the buffers. The interpreter would fail again as it flushes them at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def open_standard_streams() -> None:
    """Open closed standard streams (`>&-`) on /dev/null. Otherwise the next file gets their descriptor."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115
