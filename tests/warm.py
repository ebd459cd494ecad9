"""Programs of the package that start at once: forked from a process that has loaded all that they load.

    tests ── program, environment, descriptors ──► warm process ── fork ──► program, in a process of its own
          ◄── its id, and later how it ended ─────

A new Python process that loads Polars, Numba and the kernels takes a second of CPU time, and an engine
starts three of them. Here a program starts as a copy of the warm process; the fork server of an engine, as
a copy of that program. All else is as in a new process: id, session, signals, environment, descriptors,
exit. A program whose environment has other variables that count at the start is a new process, and so is
all that tests start with `anew`: imports, the path of modules, compiled kernels, the help of commands.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import multiprocessing.forkserver
import os
import pkgutil
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import resource_tracker
from types import SimpleNamespace
from typing import Any, NamedTuple

_AT_START = (
    "PYTHON",
    "NUMBA_CACHE",
    "NUMBA_BOUNDSCHECK",
    "XDG_CACHE",
    "HOME",
    "TZ",
    "LD_",
    "LC_",
    "LANG",
    "SSL_",
)
"""Beginnings of the names of variables that a process reads only while it starts and loads modules."""

_LOADED_LATER = ("deltalake", "pyarrow.compute", "pyarrow.parquet")
"""Modules of others that programs load when they use them first."""

_MOST_DESCRIPTORS = 16


class Program(NamedTuple):
    """What the warm process is asked to become."""

    module: str
    arguments: list[str]
    environment: dict[str, str]
    folder: str
    is_leader: bool
    """Whether it leads a session and a process group of its own."""
    passed: list[int]
    """The numbers of descriptors that it gets besides standard input, output and error."""


# -- in the tests


class WarmProcess(subprocess.Popen[Any]):
    """A program of the package, as `python -m MODULE` starts it; it is not this process's child."""

    def __init__(self, module: str, *arguments: str, **how: Any) -> None:
        self._module, self._arguments = module, arguments
        super().__init__([sys.executable, "-m", module, *arguments], **how)

    def _execute_child(self, args: Any, *given: Any) -> None:
        """Replace the start of `subprocess`, after it has made the pipes."""
        pass_fds, folder, environment = given[3:6]
        pipes = given[9:15]
        p2cread, _, _, c2pwrite, _, errwrite = pipes
        ends = [
            own if own != -1 else std
            for own, std in zip((p2cread, c2pwrite, errwrite), range(3), strict=True)
        ]
        wanted = Program(
            self._module,
            list(self._arguments),
            dict(os.environ if environment is None else environment),
            str(folder or os.getcwd()),
            bool(given[20]),
            list(pass_fds),
        )
        self._ending, theirs = os.pipe()
        try:
            _ask(wanted, [*ends, theirs, *pass_fds])
        finally:
            os.close(theirs)
        self.pid = self._read()
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]

    def _read(self) -> int:
        data = os.read(self._ending, 8)
        if not data:
            raise ChildProcessError("the warm process has ended")
        return int.from_bytes(data, "little")

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        return self._internal_poll()

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None and self._has_ended(0):
            self._note_end()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            if not self._has_ended(timeout):
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self._note_end()
        return self.returncode

    def _has_ended(self, timeout: float | None) -> bool:
        """Wait for its end, for `timeout` seconds at most. Descriptors may be too large for `select`."""
        ending = select.poll()
        ending.register(self._ending, select.POLLIN)
        return bool(ending.poll(None if timeout is None else timeout * 1000))

    def _note_end(self) -> None:
        self.returncode = os.waitstatus_to_exitcode(self._read())
        os.close(self._ending)


def start(
    module: str, *arguments: str, env: Mapping[str, str] | None = None, **how: Any
) -> subprocess.Popen[Any]:
    """Start a program of the package, warm if its environment allows that; `how` is as for `subprocess.Popen`."""
    if _at_start(os.environ if env is None else env) == _at_start(_first_environment):
        return WarmProcess(module, *arguments, env=env, **how)
    return subprocess.Popen([sys.executable, "-m", module, *arguments], env=env, **how)


def run(
    module: str,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    **how: Any,
) -> subprocess.CompletedProcess[str]:
    """Run a program of the package to its end; return what it has written."""
    process = start(
        module, *arguments, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how
    )
    with process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@contextlib.contextmanager
def hosts() -> Iterator[None]:
    """Let `mdstream.Engine` start its process warm inside."""

    import pytest

    from mdstream.engine import host_process

    def popen(command: list[str], **how: Any) -> subprocess.Popen[Any]:
        return start(*command[command.index("-m") + 1 :], **how)

    names = {name: getattr(subprocess, name) for name in ("PIPE", "TimeoutExpired")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host_process, "subprocess", SimpleNamespace(Popen=popen, **names))
        yield


def _at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(_AT_START) and name != "PYTHONSAFEPATH"  # set while any program starts
    }


_first_environment = dict(os.environ)

_server: subprocess.Popen[bytes] | None = None
_line: socket.socket | None = None
_asking = threading.Lock()


def pid() -> int | None:
    """Return the id of this process's warm process, if there is one."""
    return None if _server is None else _server.pid


def _ask(program: Program, descriptors: Sequence[int]) -> None:
    global _server, _line
    with _asking:
        if _line is None:
            _line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                _server = subprocess.Popen(
                    [sys.executable, "-m", "tests.warm", str(theirs.fileno())],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                )
        socket.send_fds(_line, [json.dumps(program).encode()], descriptors)


def end() -> None:
    """End the warm process, at the end of the session."""
    global _server, _line
    if _server is not None and _line is not None:
        _line.close()
        _server.wait()
        _server = _line = None


# -- in the warm process


def main() -> None:
    """Wait for programs to become. Only a process that has become one returns."""
    line = socket.socket(fileno=int(sys.argv[1]))
    _load()
    program = _serve(line)
    if program is not None:
        _copy_fork_server()
        sys.argv = [program.module, *program.arguments]
        runpy.run_module(program.module, run_name="__main__", alter_sys=True)


def _load() -> None:
    """Load what programs load. Nothing here may start threads that work (the thread pool of Polars, a loop)."""
    import mdstream
    import workers
    from mdstream.pool.pool import SINGLE_THREADED

    os.environ.update(SINGLE_THREADED)
    for package in (mdstream, workers):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    for name in _LOADED_LATER:
        importlib.import_module(name)

    gc.collect()
    gc.freeze()


def _serve(line: socket.socket) -> Program | None:
    """Fork a process for each program, and report how they end; return in the forked processes, or at the end."""
    running: dict[int, int] = {}
    wake, waker = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(waker, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.set_wakeup_fd(waker)
    while True:
        ready = select.select([line, wake], [], [])[0]
        if wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 4096)
            _report_ends(running)
        if line not in ready:
            continue
        data, descriptors, _, _ = socket.recv_fds(line, 1 << 20, _MOST_DESCRIPTORS)
        if not data:
            return None
        program = Program(*json.loads(data))
        if not (child := os.fork()):
            line.close()
            for descriptor in (wake, waker, descriptors[3], *running.values()):
                os.close(descriptor)
            _become(program, [*descriptors[:3], *descriptors[4:]])
            return program
        os.write(descriptors[3], child.to_bytes(8, "little"))
        running[child] = descriptors.pop(3)
        for descriptor in descriptors:
            os.close(descriptor)


def _report_ends(running: dict[int, int]) -> None:
    while running:
        child, status = os.waitpid(-1, os.WNOHANG)
        if not child:
            return
        report = running.pop(child)
        with contextlib.suppress(BrokenPipeError):
            os.write(report, status.to_bytes(8, "little"))
        os.close(report)


def _become(program: Program, descriptors: list[int]) -> None:
    """Make this process what a new one would be after its imports."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if program.is_leader:
        os.setsid()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # First out of the way of the numbers that they will have.
    above = max([2, *descriptors, *program.passed]) + 1
    moved = [os.dup2(descriptor, above + at) for at, descriptor in enumerate(descriptors)]
    for descriptor in descriptors:
        os.close(descriptor)
    for descriptor, wanted in zip(moved, [0, 1, 2, *program.passed], strict=True):
        os.dup2(descriptor, wanted)
        os.close(descriptor)
    os.chdir(program.folder)
    os.environ.clear()
    os.environ.update(program.environment)
    tempfile.tempdir = None
    random.seed()
    gc.set_threshold(700, 10, 10)
    time.tzset()


class _Unneeded:
    """What a copy of a program closes when it becomes its fork server: all that a new process would not have."""

    def __init__(self) -> None:
        listed = [int(name) for name in os.listdir("/proc/self/fd") if int(name) > 2]
        self._descriptors = [descriptor for descriptor in listed if _is_open(descriptor)]

    def close(self) -> None:
        import mdstream.pool.descriptor_patch  # noqa: F401
        from mdstream.system import children

        children._ONE_AT_A_TIME = threading.RLock()  # its owner is the program, which starts a process
        gc.freeze()
        for descriptor in self._descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:  # it was that of the list itself
        return False
    return True


def _copy_fork_server() -> None:
    """Let this program's fork server, when it starts, be a copy of it, unless it has threads by then."""
    from mdstream.pool import forkserver

    module: Any = multiprocessing.forkserver
    server = module._forkserver

    def ensure_running() -> None:
        del server.ensure_running
        module.ensure_running = server.ensure_running
        if threading.active_count() > 1 or not forkserver._CAN_COPY:
            server.ensure_running()
            return
        resource_tracker.ensure_running()
        reader, server._forkserver_alive_fd = (
            os.pipe()
        )  # `copy_here` closes that of the server it came from
        forkserver.copy_here(_Unneeded())  # type: ignore[arg-type]
        os.close(reader)

    server.ensure_running = module.ensure_running = ensure_running


if __name__ == "__main__":
    main()
