"""Every error mdstream raises, split by whose fault it is.

    MdstreamError
    ├── ConfigError              a setting, flag, file or argument is wrong            exit 2
    ├── CredentialsError         the service refuses this key or plan; never retried   exit 3
    ├── SharedMemoryError        shared memory cannot hold what was asked of it        exit 4
    │   └── NoSpaceError         the file system behind the frames is full
    ├── StoreError               the store on disk cannot be written                   exit 1
    │   └── NoStoreError         no table where one was looked for
    ├── NoRunError               no running engine where one was looked for            exit 6
    ├── LagError                 a reader is further behind than it allowed itself
    ├── AddressInUseError        another program listens on the port                   exit 5
    ├── ServerError              the service failed or broke its protocol; retried
    │   └── BadRequestError      the service refuses this very request; not retried
    ├── NetworkError             no connection, or one that was lost; retried
    │   └── CertificateError     the server's certificate does not verify; not retried exit 3
    └── WorkerError              a pool process died or hung on a batch
        └── PoisonedBatchError   a batch killed, or hung, two workers; it is given up

Bad *data* raises none of these: a message that cannot become a row is a counted, kept reject. Until it is
one, these are raised, and always caught where the bytes are read:

    DataError
    ├── UnpackingError           bytes that are not packed as they should be
    ├── UnfitError               a value or message that its column or channel cannot take
    └── UnlearnableError         a message that kernels cannot follow; the fallback decoder reads it
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the `mdstream` command and of every process it starts."""

    OK = 0
    STREAM_FAILED = 1
    """At least one stream failed, or not all is recorded yet; the report says which, and why."""
    CONFIG = 2
    CREDENTIALS = 3
    SHARED_MEMORY = 4
    ADDRESS_IN_USE = 5
    NO_RUN = 6
    ORPHANED = 70
    """A child whose parent died and that therefore ended itself."""
    INTERRUPTED = 130
    """Stopped at once: by a second Ctrl-C, or by one before anything had begun."""


UNRECOVERABLE = frozenset({Exit.CONFIG, Exit.CREDENTIALS, Exit.SHARED_MEMORY})
"""Reasons for a stream to fail that no new attempt can mend."""


class MdstreamError(Exception):
    """Root of all errors raised by mdstream; `exit_code` is what a command ends with."""

    exit_code: Exit = Exit.STREAM_FAILED


class ConfigError(MdstreamError):
    """A setting is unknown, malformed or contradicts another one."""

    exit_code = Exit.CONFIG


class CredentialsError(MdstreamError):
    """The service refuses the key, or the plan behind it lacks this data: trying again is useless."""

    exit_code = Exit.CREDENTIALS

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class SharedMemoryError(MdstreamError):
    """Shared memory cannot hold or give what was asked of it."""

    exit_code = Exit.SHARED_MEMORY


class NoSpaceError(SharedMemoryError):
    """The file system that holds the frames has no room for `needed` more bytes."""

    def __init__(self, path: str, needed: int, free: int) -> None:
        super().__init__(
            f"no room for {_size(needed)} at {path} ({_size(free)} free): "
            "free some, enlarge it (Docker: --shm-size), or set frames.directory or "
            "frames.retention_mb"
        )
        self.path, self.needed, self.free = path, needed, free

    def __reduce__(self) -> tuple[type[NoSpaceError], tuple[str, int, int]]:
        """Workers raise it, too: it has to come across."""
        return type(self), (self.path, self.needed, self.free)


class StoreError(MdstreamError):
    """The store on disk cannot be written, or is not what it should be."""


class NoStoreError(StoreError):
    """There is no such table in the store."""


class NoRunError(MdstreamError):
    """No running engine was found to attach to."""

    exit_code = Exit.NO_RUN


class LagError(MdstreamError):
    """A reader is further behind the engine than it allowed itself to be."""


class AddressInUseError(MdstreamError):
    """Another program already listens on the address."""

    exit_code = Exit.ADDRESS_IN_USE


class ServerError(MdstreamError):
    """The service answered with a failure, or with something its protocol does not allow.

    `code` is the stream error code or HTTP status, where there is one.
    `retry_after` is the pause in seconds that the service asked for.
    """

    def __init__(self, message: str, code: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code, self.retry_after = code, retry_after


class BadRequestError(ServerError):
    """The service refuses this request; sending the same again is useless."""


class NetworkError(MdstreamError):
    """The connection could not be made, or was lost."""


class CertificateError(NetworkError):
    """The server's TLS certificate does not verify."""

    exit_code = Exit.CREDENTIALS


class WorkerError(MdstreamError):
    """A pool process died or hung while it worked on a batch."""


class PoisonedBatchError(WorkerError):
    """A batch that has killed, or hung, two workers."""


class DataError(ValueError):
    """Root of what is raised about bytes that cannot be used, and never leaves the code that reads them."""


class UnpackingError(DataError):
    """Bytes that are not what their packing says, or are too many once unpacked."""


class UnfitError(DataError):
    """A value that its column cannot take, or a message that belongs to no channel."""


class UnlearnableError(DataError):
    """A message whose layout kernels cannot follow: the fallback decoder reads it."""


def first_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error of a group that is not itself a group: task groups nest."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _size(count: int) -> str:
    """Bytes in the unit that tells them best."""
    return f"{count / 1e6:,.1f} MB" if count >= 1_000_000 else f"{count / 1e3:,.1f} kB"
