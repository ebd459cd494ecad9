"""All errors that mdstream raises, split by whose fault they are.

    MdstreamError
    ├── ConfigError              a setting, flag, file or argument is wrong            exit 2
    │   └── UnknownNameError     nothing has this name; the error says what has
    ├── CredentialsError         the service refuses this key or plan; never retried   exit 3
    ├── SharedMemoryError        shared memory cannot hold what is asked of it         exit 4
    │   ├── NoSpaceError         the file system behind the frames is full
    │   └── RunRemovedError      somebody removed the folder of a run that goes on
    ├── StoreError               the store on disk cannot be read or written           exit 1
    │   └── NoStoreError         the store has no such table
    ├── NoRunError               no running engine was found                           exit 6
    ├── LagError                 a reader is further behind than its own limit
    ├── AddressInUseError        another program listens on the port                   exit 5
    ├── ServerError              the service failed or broke its protocol; retried
    │   ├── BadRequestError      the service refuses this very request; not retried
    │   │   └── PlanError        the plan does not include the requested data         exit 3
    │   ├── UnusableAnswerError  the answer is JSON, but not what was requested; requested again
    │   └── EndlessAnswerError   an answer in pages does not end; not retried
    ├── NetworkError             no connection, or it was lost; retried
    │   ├── LateError            the server was reached, but did not answer in time
    │   └── CertificateError     the server's certificate is not valid; not retried    exit 3
    └── WorkerError              a pool process died or hung on a batch
        ├── NoWorkersError       a pool has no processes, and can start none
        └── PoisonedBatchError   a batch killed or hung two workers; it is quarantined

Bad *data* raises none of these: a message that cannot become a row is rejected, counted and kept. The
errors below are raised on the way there. The code that reads the bytes always catches them:

    DataError
    ├── DecompressionError       bytes that cannot be decompressed
    ├── UnfitError               a value that does not fit its column, or a message without a channel
    └── UnlearnableError         a message that kernels cannot follow; the fallback decoder reads it
    HalfDoneError                a commit stopped before its batch was counted; the pipeline repeats it
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum

from mdstream.text.masking import clean
from mdstream.text.nearest import find_nearest, suggest


class Exit(IntEnum):
    """Exit codes of the `mdstream` command and of every process that it starts."""

    OK = 0
    STREAM_FAILED = 1
    """A stream failed, rows are not recorded yet, or the journal lacks payloads: the report says which. Or
    a backfill is incomplete: its last line says why.
    """
    CONFIG = 2
    CREDENTIALS = 3
    SHARED_MEMORY = 4
    ADDRESS_IN_USE = 5
    NO_RUN = 6
    ORPHANED = 70
    """A child that ended itself because its parent died."""
    INTERRUPTED = 130
    """Stopped at once: by a second Ctrl-C, or by one before anything had started."""


UNRECOVERABLE = frozenset({Exit.CONFIG, Exit.CREDENTIALS, Exit.SHARED_MEMORY})
"""Exit codes of a stream that a restart cannot help."""


class MdstreamError(Exception):
    """Root of all errors that mdstream raises. A command that fails with one ends with its `exit_code`."""

    exit_code: Exit = Exit.STREAM_FAILED

    def __str__(self) -> str:
        return clean(super().__str__())


class ConfigError(MdstreamError):
    """A setting is unknown, malformed, or contradicts another one.

    `code` is the HTTP status of a server that is not the one that the settings should name.
    """

    exit_code = Exit.CONFIG

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class UnknownNameError(ConfigError, KeyError):
    """Nothing has this name: no frame, symbol, stream or dataset. `nearest` has known names like it."""

    def __init__(self, message: str, nearest: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.nearest = list(nearest)

    __str__ = Exception.__str__  # KeyError would show quotes around the sentence

    @classmethod
    def among(cls, known: Iterable[str], name: str, problem: str) -> UnknownNameError:
        """Return the error for `name`, which is not one of `known`: the problem, and what may be meant."""
        every = list(known)
        return cls(f"{problem}; {suggest(name, every)}", find_nearest(name, every))


class CredentialsError(MdstreamError):
    """The service refuses the key, or its plan does not include this data. A retry is useless, unless the
    key has worked before.
    """

    exit_code = Exit.CREDENTIALS

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class SharedMemoryError(MdstreamError):
    """Shared memory cannot hold or provide what is asked of it."""

    exit_code = Exit.SHARED_MEMORY


class NoSpaceError(SharedMemoryError):
    """The file system that holds the frames has no room for `needed` more bytes, or for another file."""

    def __init__(self, path: str, needed: int, free: int, is_out_of_inodes: bool = False) -> None:
        if is_out_of_inodes:
            super().__init__(
                f"no room for another file at {path}, all its inodes are in use: "
                "remove some files, mount it with a larger nr_inodes, or set frames.directory"
            )
        else:
            super().__init__(
                f"no room for {_size(needed)} at {path} ({_size(free)} free): "
                "free some, enlarge it (Docker: --shm-size), or set frames.directory or "
                "frames.retention_mb"
            )
        self.path, self.needed, self.free = path, needed, free
        self.is_out_of_inodes = is_out_of_inodes

    def __reduce__(self) -> tuple[type[NoSpaceError], tuple[str, int, int, bool]]:
        """Pickle it by its attributes: workers raise it too."""
        return type(self), (self.path, self.needed, self.free, self.is_out_of_inodes)


class RunRemovedError(SharedMemoryError):
    """The folder of a run, or a part of it, was removed while the run went on."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path} was removed while the run went on, and no reader can open its frames any more. If "
            "systemd did that at logout (RemoveIPC): run `loginctl enable-linger`, set RemoveIPC=no in "
            "/etc/systemd/logind.conf, or set frames.directory to a folder outside of /dev/shm"
        )
        self.path = path

    def __reduce__(self) -> tuple[type[RunRemovedError], tuple[str]]:
        """Pickle it by its attribute: workers raise it too."""
        return type(self), (self.path,)


class StoreError(MdstreamError):
    """The store on disk cannot be read or written, or is not in the expected state."""


class NoStoreError(StoreError):
    """The store has no such table."""


class NoRunError(MdstreamError):
    """No running engine was found to attach to."""

    exit_code = Exit.NO_RUN


class LagError(MdstreamError):
    """A reader is further behind the engine than its own limit allows."""


class AddressInUseError(MdstreamError):
    """Another program already listens on the address."""

    exit_code = Exit.ADDRESS_IN_USE


class ServerError(MdstreamError):
    """The service answered with a failure, or broke its protocol.

    `code` is the error code of the stream or the HTTP status, if there is one. `retry_after` is the pause
    in seconds that the service asks for. `final_in` is when the refusal stops to count as temporary, in
    seconds, if it does.
    """

    def __init__(
        self,
        message: str,
        code: int | None = None,
        retry_after: float | None = None,
        final_in: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.retry_after, self.final_in = code, retry_after, final_in


class BadRequestError(ServerError):
    """The service refuses this request. Sending it again is useless."""


class PlanError(BadRequestError):
    """The account's plan does not include the requested data."""

    exit_code = Exit.CREDENTIALS


class UnusableAnswerError(ServerError):
    """The answer as a whole cannot be read as what was requested."""


class EndlessAnswerError(ServerError):
    """An answer in pages repeats itself, has no end, or has a token that is too long."""


class NetworkError(MdstreamError):
    """The connection could not be made, or was lost."""


class LateError(NetworkError):
    """The server was reached, but did not answer in time."""


class CertificateError(NetworkError):
    """The server's TLS certificate is not valid."""

    exit_code = Exit.CREDENTIALS


class WorkerError(MdstreamError):
    """A pool process died or hung while it worked on a batch."""


class NoWorkersError(WorkerError):
    """A pool has no processes, and can start none: it is closed, or they die as they start."""


class PoisonedBatchError(WorkerError):
    """A batch killed or hung two workers."""


class DataError(ValueError):
    """Root of the errors about unusable bytes. They never leave the code that reads the bytes."""


class DecompressionError(DataError):
    """The bytes do not match their compression, or exceed the limit once decompressed."""


class UnfitError(DataError):
    """A value does not fit its column, or a message belongs to no channel."""


class UnlearnableError(DataError):
    """Kernels cannot follow the layout of a message, so the fallback decoder reads it."""


class HalfDoneError(Exception):
    """Rows of a payload that came alone may be in frames: commit it again, in a batch of its own."""


def first_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error of a group that is not a group itself: task groups nest."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _size(count: int) -> str:
    """Return a number of bytes in kB or MB."""
    return f"{count / 1e6:,.1f} MB" if count >= 1_000_000 else f"{count / 1e3:,.1f} kB"
