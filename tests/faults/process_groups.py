"""Groups of processes: who lives, who trains, and how a command ends."""

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from faults.warm_start import Started

LONGEST = 240.0  # seconds that a command may take
GRACE = 20.0  # seconds after the end of a command in which its workers, which may still be importing, notice it


@dataclass(frozen=True)
class Ended:
    """How a command ended. `left` are the processes of its group that were alive GRACE seconds later."""

    code: int | None
    """None: it had to be killed after LONGEST seconds"""
    out: str
    err: str
    left: tuple[str, ...]
    seconds: float


def members(group: int) -> dict[int, str]:
    """Process id and command of those who live in a group."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,pgid=,stat=,args="], capture_output=True, text=True).stdout
    rows = (line.split(None, 3) for line in listed.splitlines())
    return {int(row[0]): row[3] for row in rows if len(row) == 4 and int(row[1]) == group and row[2][0] != "Z"}


def workers(group: int) -> list[int]:
    """The processes of a group that work for its leader."""
    return sorted(pid for pid, command in members(group).items() if pid != group and "tracker import" not in command)


def end(process: Started, log: Path, began: float, longest: float = LONGEST) -> Ended:
    """Wait for a command, then for the rest of its group, of which nobody outlives this."""
    try:
        code: int | None = process.wait(longest)
    except subprocess.TimeoutExpired:
        code = None
        process.kill()
        process.wait()
    seconds = time.monotonic() - began
    until = time.monotonic() + GRACE
    while (left := members(process.pid)) and time.monotonic() < until:
        time.sleep(0.05)
    if left:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    out, err = (Path(f"{log}.{name}").read_text(encoding="utf-8", errors="replace") for name in ("out", "err"))
    return Ended(code, out, err, tuple(left.values()), seconds)
