"""Every error that quotekeel raises deliberately, as one tree.

::

    KeelError                      exit code 1 (subclasses may narrow it)
    ├── InputError                 the user's input: states what was expected, what was seen, what to do (2)
    │   ├── FrameError             one wire frame cannot be read; it goes to quarantine, the rest continues
    │   │   └── ChecksumError      the frame was read, but the venue's checksum is not that of our book
    │   ├── CaptureError           a whole recording cannot be read further (truncated, not a recording)
    │   └── SettingsError          a setting or parameter is unknown, missing or out of range
    ├── MarketDataError            the data contradicts itself                                            (3)
    │   ├── BookError              an event that the book must reject (negative depth, no room, unknown side)
    │   ├── SequenceGapError       updates are missing: the feed must resynchronise
    │   └── EmptyDataError         a stage found no data where it needs some
    ├── LakeError                  a table cannot be read or written (no space, wrong schema)             (4)
    ├── FolderError                a file of ours cannot be written (no space, read-only)                 (4)
    ├── ModelError                 a model that must not be served or trained on                          (5)
    │   ├── ManifestError          manifest missing, unreadable, of a wrong form, or expired
    │   ├── TamperedError          a file's sha256 is not the one in the manifest
    │   ├── FeatureSetError        model, data and code disagree about the feature set
    │   └── GoldenError            golden vectors do not reproduce
    ├── ServiceError               a server we need is down or refuses us, or its port is taken           (6)
    │   └── PortInUseError
    └── GateError                  a gate refused: quality, approval, test verdict                        (7)
        └── ApprovalError          no approver, the wrong person, or no reason
"""

from __future__ import annotations

import errno


class KeelError(Exception):
    """Base of all deliberate errors. ``exit_code`` is what ``keel`` exits with."""

    exit_code = 1


class InputError(KeelError):
    """The user's input is not what was expected."""

    exit_code = 2


class FrameError(InputError):
    """One wire frame cannot be read. ``reason`` is a short stable code for counting in quarantine."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ChecksumError(FrameError):
    """The venue's checksum does not match the book: something before this frame was missed. The feed resynchronises."""

    def __init__(self, message: str) -> None:
        super().__init__("checksum", message)


class CaptureError(InputError):
    """A recording cannot be read further."""


class SettingsError(InputError):
    """A setting is unknown, missing or out of range."""


class MarketDataError(KeelError):
    """The data contradicts itself."""

    exit_code = 3


class BookError(MarketDataError):
    """An event that the book must reject; the feed resynchronises."""


class SequenceGapError(MarketDataError):
    """Updates between ``expected`` and ``seen`` are missing."""

    def __init__(self, *, expected: int, seen: int, where: str) -> None:
        super().__init__(
            f"{where}: expected update {expected}, saw {seen}; the book is resynchronised from the next snapshot"
        )
        self.expected = expected
        self.seen = seen


class EmptyDataError(MarketDataError):
    """A stage found no data where it needs some."""


class LakeError(KeelError):
    """A table cannot be read or written."""

    exit_code = 4


class FolderError(KeelError):
    """A file of ours cannot be written."""

    exit_code = 4

    @classmethod
    def full(cls, where: str) -> FolderError:
        """The error for a full disk."""
        return cls(
            f"{where} cannot be written: no space left on its disk. "
            "Free some space and run the same command again; what was committed is safe."
        )

    @classmethod
    def of(cls, error: OSError) -> FolderError | None:
        """The error for a disk that is full or not writable; None for any other error."""
        where = error.filename or "a file"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return cls.full(where)
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return cls(
                f"{where} cannot be written: {(error.strerror or 'not allowed').lower()}. "
                "Make it writable for this user, or set another KEEL_HOME."
            )
        return None


class ModelError(KeelError):
    """A model that must not be served."""

    exit_code = 5


class ManifestError(ModelError):
    """The manifest is missing, unreadable, of a wrong form, or expired."""


class TamperedError(ModelError):
    """A file is not the one the manifest was written for."""


class FeatureSetError(ModelError):
    """Model, data and code disagree about the feature set."""


class GoldenError(ModelError):
    """A backend does not reproduce the golden vectors."""


class ServiceError(KeelError):
    """A server we need is down or refused."""

    exit_code = 6


class PortInUseError(ServiceError):
    """The port is taken by another process."""


class GateError(KeelError):
    """A gate refused."""

    exit_code = 7


class ApprovalError(GateError):
    """No approver, the wrong person, or no reason."""


def error_of_exit_code(code: int, message: str) -> KeelError:
    """The broadest error with this exit code: the meaning of a child process that exited with ``code``."""
    broadest = (InputError, MarketDataError, LakeError, ModelError, ServiceError, GateError)
    return next((kind for kind in broadest if kind.exit_code == code), KeelError)(message)
