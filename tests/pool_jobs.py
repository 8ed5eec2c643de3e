"""Jobs for test_pool.py: a worker process imports them by name, so they cannot live in the test itself."""

import errno
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from filelock import FileLock

from common.cli import run_main
from common.errors import BadInput
from common.pool import Job, Pool


def start() -> None:
    pass


def start_where_no_file_can_be_locked() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    mock.patch.object(FileLock, "acquire", side_effect=full).start()


def wait_for(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.01)


def square(calls: Path, key: str, n: int, seconds: float = 0.0) -> dict[str, Any]:
    """n^2, and one file for each call, named after the job and the command that it ran for."""
    os.close(tempfile.mkstemp(prefix=f"{key} {os.getppid()} ", dir=calls)[0])
    time.sleep(seconds)
    return {"square": n * n}


def gated(calls: Path, key: str, n: int, gate: Path) -> dict[str, Any]:
    """Like square, but not before the file `gate` is there."""
    result = square(calls, key, n)
    wait_for(gate.exists)
    return result


def met(calls: Path, key: str, n: int) -> dict[str, Any]:
    """Like square, but not before two commands have called a job, so that they really work at the same time."""
    result = square(calls, key, n)
    wait_for(lambda: len({path.name.split()[1] for path in calls.iterdir()}) == 2)
    return result


def fail_while(flag: Path) -> dict[str, Any]:
    if flag.exists():
        raise ValueError("the loss is odd\nand this is a second line")
    return {"square": -1}


def die_while(flag: Path) -> dict[str, Any]:
    if flag.exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return {"square": -1}


def leave(code: int) -> dict[str, Any]:
    sys.exit(code)


def odd() -> dict[str, Any]:
    """What JSON has in another form."""
    return {1: 2, "a": (1, 2)}  # type: ignore[dict-item]


def refuse() -> dict[str, Any]:
    raise BadInput("the digits are missing: put them there")


def fill_the_disk(folder: Path) -> dict[str, Any]:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "digits.bin"))


def map_gated(folder: str, calls: str, gate: str) -> None:
    """A command of one worker whose second job waits for `gate`."""
    with Pool(1, start) as pool:
        for finished in pool.map(gated_jobs(Path(calls), Path(gate)), Path(folder)):
            print(finished.job.key, flush=True)


def gated_jobs(calls: Path, gate: Path) -> list[Job]:
    arguments = [{"calls": calls, "key": key, "n": n} for n, key in enumerate("abc")]
    arguments[1]["gate"] = gate
    return [Job(a["key"], gated if "gate" in a else square, a) for a in arguments]


def map_six(folder: str, calls: str) -> None:
    """A command of one worker with six jobs; the first waits until another command works beside it."""
    arguments = [{"calls": Path(calls), "key": f"job{n}", "n": n} for n in range(6)]
    jobs = [Job(a["key"], met if n == 0 else square, a) for n, a in enumerate(arguments)]
    with Pool(1, start) as pool:
        print(json.dumps({done.job.key: done.result or done.error for done in pool.map(jobs, Path(folder))}))


if __name__ == "__main__":
    run_main(lambda: {"map_gated": map_gated, "map_six": map_six}[sys.argv[1]](*sys.argv[2:]))
