"""The workers' code: imported with care, and compiled once for each machine."""

from __future__ import annotations

import logging
import subprocess
from types import ModuleType

from mdstream.errors import ConfigError
from mdstream.system import children

log = logging.getLogger(__name__)


def _workers() -> ModuleType:
    """Import the `workers` package. Raises `ConfigError` if another one is found."""
    with children.without_script():  # a script may have a `workers.py` beside it
        import workers

    if getattr(workers, "OWNER", None) != "mdstream":
        raise ConfigError(
            f"`import workers` finds {workers.__file__ or workers.__path__}, which is not "
            "mdstream's: rename that file or folder, or remove its folder from PYTHONPATH"
        )
    return workers


def are_kernels_compiled() -> bool:
    """Return whether the disk has compiled kernels. Raises OSError if they cannot be stored."""
    return bool(load_boot().is_compiled())


def load_boot() -> ModuleType:
    """Import what a worker runs first. Raises `ConfigError` if another package is in the way."""
    _workers()
    from workers import boot

    return boot


COMPILING = "compiling the decoders for this machine, once: a minute or more"
"""Log line of the compilation. It took 44 s of CPU time on a vCPU of 2026 (AMD EPYC), 60 to 90 s on busy
machines. Beside a run that needs all cores it takes ten times as long.
"""


def count_kernels() -> tuple[int, int]:
    """Return how many kernels are on disk, and how many there are."""
    done, total = load_boot().count_compiled()
    return int(done), int(total)


def compile_kernels(beside: bool = False) -> subprocess.Popen[str] | None:
    """Start a process that compiles the workers' kernels; return None if they are compiled already.

    With `beside`, it gets only CPU time that nobody else wants, and it ends with this process. If they
    cannot be stored on disk, this raises OSError, or the process ends with a code other than 0 and the
    reason on its standard error.
    """
    if are_kernels_compiled():
        return None
    command = children.python("-m", "workers.warm", *(["beside"] if beside else []))
    stdin = subprocess.PIPE if beside else None
    with children.protect_start():
        return subprocess.Popen(command, stdin=stdin, stderr=subprocess.PIPE, text=True)


def explain_no_kernels(why: OSError | str) -> str:
    """Return why there are no compiled decoders: an error of the disk, or the compiler's last line."""
    if isinstance(why, OSError):
        return f"no compiled decoders: they cannot be stored on disk: {why.strerror or why}"
    last = why.strip().rpartition("\n")[2]
    return f"no compiled decoders: {last}"


def warn_of_no_kernels(why: OSError | str) -> None:
    """Log that the fallback decoder is used, and why."""
    log.warning(
        "%s. The fallback decoder is used, which is much slower. If the disk is the reason, set "
        "NUMBA_CACHE_DIR to a folder of your own with 10 MB of free space",
        explain_no_kernels(why),
    )
