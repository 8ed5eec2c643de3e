"""The one exception that ends a script with a sentence instead of a traceback."""

import errno

# What the operating system answers when a folder cannot be written: missing rights, read-only, full, over quota.
WRITE_ERRNOS = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOTDIR}
)


class BadInput(Exception):
    """Something that the user can put right: an argument, a file, a folder. `str(error)` is one sentence."""


def is_write_error(error: BaseException) -> bool:
    """True where an OSError means that results cannot be stored (a reason to stop, not to try the next run)."""
    return isinstance(error, OSError) and error.errno in WRITE_ERRNOS


def write_error_sentence(error: OSError) -> str:
    """`cannot write results/x: No space left on device` from the exception that a failed write raised."""
    where = error.filename2 or error.filename or "the results"
    return f"cannot write {where}: {error.strerror or error}"
