"""What goes wrong in a process: a disk that is full or read-only, a signal at a certain write, a clock that is set back.

`FAULT` in the environment is JSON, all of it optional:
  watch     folders whose files count
  count     folder in which each kind of event has a file; its size is how often all processes together came to it
  fail      [kind, n, errno]: from the n-th event of this kind on, or of all kinds, the disk says this error
  signal    [number, n, who]: at the n-th event, to the parent, to the worker that comes to it, or to the group
  clock     [seconds, n]: from the n-th event on, time.time() is this much later

Kinds of events are create, write, fsync, replace and remove, in the folders that are watched.
"""

import builtins
import io
import json
import os
import signal
import time
from typing import Any

KINDS = ("create", "write", "fsync", "replace", "remove")
# Which kinds fail once one has: a full disk has no room for files and bytes, a read-only one takes nothing.
FAIL_TOGETHER = {
    "create": ("create", "write"),
    "write": ("create", "write"),
    "fsync": ("fsync",),
    "replace": ("replace",),
    "all": KINDS,
}
_fault: dict[str, Any] = {}
_open, _os_open, _mkdir, _fsync, _replace = builtins.open, os.open, os.mkdir, os.fsync, os.replace
_unlink, _symlink, _time = os.unlink, os.symlink, time.time
_descriptors: set[int] = set()


def install(text: str) -> None:
    """Put the hooks in place of the functions that write."""
    _fault.update(json.loads(text) if text else {})
    if not _fault:
        return
    builtins.open = io.open = opened  # type: ignore[assignment]
    os.open, os.mkdir, os.symlink = os_opened, made_folder, linked  # type: ignore[assignment]
    os.fsync, os.replace, os.unlink, os.remove = synced, replaced, unlinked, unlinked  # type: ignore[assignment]
    time.time = lambda: _time() + later()


def watched(path: Any) -> bool:
    if isinstance(path, int):
        return False
    full = os.path.abspath(os.fsdecode(path))
    return any(full.startswith(root) for root in _fault["watch"])


def event(kind: str, path: Any = None) -> None:
    """Count, and do what is due: OSError, which names the `path` as the system does, or a signal."""
    for name in (kind, "all"):
        file = _os_open(os.path.join(_fault["count"], name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(file, b".")
        os.close(file)
    if "fail" in _fault:
        failing, first, number = _fault["fail"]
        if kind in FAIL_TOGETHER[failing] and _how_many(failing) >= first:
            raise OSError(number, os.strerror(number), *([os.fsdecode(path)] if path else []))
    if "signal" in _fault and _how_many("all") >= _fault["signal"][1]:
        _send(*_fault["signal"])


def _send(number: int, _: int, who: str) -> None:
    """Once for all processes."""
    leader = os.getpgrp()
    if who == "worker" and os.getpid() == leader:
        return
    try:
        _mkdir(os.path.join(_fault["count"], "sent"))
    except FileExistsError:
        return
    if who == "group":
        os.killpg(leader, number)
    else:
        os.kill(leader if who == "parent" else os.getpid(), number)
    if number == signal.SIGKILL:
        time.sleep(0.05 if who == "parent" and os.getpid() != leader else 60)


def _how_many(kind: str) -> int:
    try:
        return os.stat(os.path.join(_fault["count"], kind)).st_size
    except FileNotFoundError:
        return 0


def later() -> float:
    seconds, first = _fault.get("clock", (0.0, 0))
    return seconds if _how_many("all") >= first else 0.0


# ---------------------------------------------------------------- the functions that write


class RawFile(io.FileIO):
    """A file whose writes count."""

    def write(self, data: Any) -> int:  # type: ignore[override]
        event("write")
        return super().write(data)


def opened(
    file: Any,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Any = None,
) -> Any:
    """Like `open`."""
    if not set(mode) & set("wax+") or opener or not watched(file):
        return _open(file, mode, buffering, encoding, errors, newline, closefd, opener)
    if not os.path.exists(file):
        event("create", file)
    raw = RawFile(file, mode.replace("b", "").replace("t", ""))
    _descriptors.add(raw.fileno())
    if buffering == 0:
        return raw
    buffer = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
    return buffer if "b" in mode else io.TextIOWrapper(buffer, encoding, errors, newline, buffering == 1)


def os_opened(path: Any, flags: int, *more: Any, **options: Any) -> int:
    if flags & os.O_CREAT and watched(path) and not os.path.exists(path):
        event("create", path)
    return _os_open(path, flags, *more, **options)


def made_folder(path: Any, *more: Any, **options: Any) -> None:
    if watched(path) and not os.path.exists(path):
        event("create", path)
    _mkdir(path, *more, **options)


def linked(source: Any, target: Any, *more: Any, **options: Any) -> None:
    if watched(target):
        event("create", target)
    _symlink(source, target, *more, **options)


def synced(descriptor: int) -> None:
    if descriptor in _descriptors:
        event("fsync")
    _fsync(descriptor)


def replaced(source: Any, target: Any, **options: Any) -> None:
    if watched(target):
        event("replace", target)
    _replace(source, target, **options)


def unlinked(path: Any, **options: Any) -> None:
    if watched(path) and os.path.lexists(path):
        event("remove", path)
    _unlink(path, **options)
