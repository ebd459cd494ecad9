"""`mdstream precompile`: compile the decoders before the first run."""

from __future__ import annotations

import subprocess
import time
from typing import Annotated

import typer

from mdstream.cli.output import output_console
from mdstream.engine.feed_policy import explain_exit
from mdstream.errors import MdstreamError
from mdstream.pool.worker_code import compile_kernels, count_kernels, explain_no_kernels

_LOOK_S = 0.5


def precompile(quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False) -> None:
    """Compile the decoders before the first run, for example while you build a container image.

    Otherwise the first run does it, while the slower fallback decoder decodes. A run that ends before they
    are complete keeps those that it has compiled, and the next run continues.
    """
    started = time.monotonic()
    try:
        compiling = compile_kernels()
    except OSError as error:
        raise MdstreamError(explain_no_kernels(error)) from error
    if compiling is None:
        print("the decoders are compiled already")
        return
    try:
        _wait(compiling, quiet)
    finally:
        compiling.kill()
    if compiling.returncode:
        _, output = compiling.communicate()
        raise MdstreamError(explain_no_kernels(output.strip() or explain_exit(compiling.returncode)))
    print(f"compiled {count_kernels()[1]} decoders in {time.monotonic() - started:.0f} s")


def _wait(compiling: subprocess.Popen[str], quiet: bool) -> None:
    """Wait for the compiler; show its progress on a terminal."""
    console = output_console()
    with console.status("compiling the decoders") as status:
        if quiet or not console.is_terminal:
            status.stop()
        while True:
            try:
                compiling.wait(_LOOK_S)
                return
            except subprocess.TimeoutExpired:
                done, total = count_kernels()
                status.update(f"compiling the decoders: {done} of {total} done")
