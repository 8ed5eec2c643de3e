"""What ends a script with a sentence instead of a traceback."""

import errno
import os

# What the operating system answers when a folder cannot be written: missing rights, read-only, full, over quota.
WRITE_ERRNOS = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOTDIR, errno.EIO}
)
TOO_MANY_FILES = frozenset({errno.EMFILE, errno.ENFILE})


class BadInput(Exception):
    """Something that the user can put right: an argument, a file, a folder. `str(error)` is one sentence."""


def is_limit(error: BaseException) -> bool:
    """True for what the machine refuses and no code can mend: a disk, rights, open files, names, memory.

    A reason to stop, not to try the next run.
    """
    if isinstance(error, OSError):
        return error.errno in WRITE_ERRNOS | TOO_MANY_FILES | {errno.ENAMETOOLONG, errno.ENOMEM}
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _of_memory(error))


def limit_sentence(error: BaseException) -> str:
    """`cannot write results/x: No space left on device`, and the like for the other limits."""
    if not isinstance(error, OSError) or error.errno == errno.ENOMEM:
        return f"not enough memory: {str(error).splitlines()[0] if str(error) else 'an allocation failed'}"
    where = error.filename2 or error.filename
    if error.errno in TOO_MANY_FILES:
        return (
            f"too many open files{f' at {where}' if where else ''}: "
            "raise the limit with `ulimit -n 4096`, or ask for fewer workers or environments"
        )
    if error.errno == errno.ENAMETOOLONG:
        return f"the name {where} is too long for this file system: choose a shorter --name or --results-dir"
    verb = "read" if where and _unreadable(where) else "write"
    return f"cannot {verb} {where or 'the output'}: {error.strerror or error}"


def _unreadable(where: str) -> bool:
    return os.path.exists(where) and not os.access(where, os.R_OK)


def _of_memory(error: RuntimeError) -> bool:
    """PyTorch's ways to say it."""
    text = str(error)
    return any(words in text for words in ("can't allocate memory", "not enough memory", "out of memory"))
