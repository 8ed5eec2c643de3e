"""Map independent jobs over local processes: finished ones are skipped, failed ones do not stop the others.

Each job's result is one JSON file, `<folder>/<key>.json`, written in one step. A job is claimed with a file lock that the
operating system frees when its process dies; so any number of commands may work on one folder at once, each job is
done once, and a killed command leaves nothing that stands in the way of the next.
"""

import contextlib
import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from common.errors import BadInput, is_limit, limit_sentence
from common.files import read_record, remove_stale_temporaries, write_record, write_text
from common.stopping import STOPS, end_with_parent

POLL_SECONDS = 0.5  # how often a job that another command holds is looked at again


class Answer(Enum):
    """What a worker says of a job."""

    DONE = "it has a result"
    FAILED = "it raised"
    DIED = "its process ended"
    HELD = "another command has claimed it"
    STOP = "results cannot be stored, or the user has to act: no use in going on"


@dataclass(frozen=True)
class Job:
    """`function(**arguments)` returns a dict of plain values, stored at `<folder>/<key>.json`."""

    key: str
    function: Callable[..., dict[str, Any]]
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Finished:
    """What became of a job: a `result`, or the `error` in one line with the traceback in `<key>.error.txt`."""

    job: Job
    result: dict[str, Any] | None = None
    error: str | None = None


class Pool:
    """`workers` processes, started by `spawn`, that each call `start(*start_arguments)` once and then run jobs."""

    def __init__(self, workers: int, start: Callable[..., None], start_arguments: tuple = ()):
        self._context = multiprocessing.get_context("spawn")
        self._start, self._start_arguments = start, start_arguments
        self._workers = [self._spawn() for _ in range(workers)]

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self._workers:
            worker.process.kill()
            worker.process.join()

    def map(self, jobs: Iterable[Job], folder: Path) -> Iterator[Finished]:
        """Run the jobs in their order and yield each as it ends; those with a result on the disk come first."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale_temporaries(folder)
        waiting: list[Job] = []
        for job in jobs:
            result = _stored(folder, job.key)
            if result is None:
                waiting.append(job)
            else:
                yield Finished(job, result)
        held: dict[str, float] = {}  # jobs that another command has claimed, and when to ask again
        while waiting or any(worker.job for worker in self._workers):
            for worker in self._workers:
                due = [job for job in waiting if held.get(job.key, 0.0) <= time.monotonic()]
                if worker.job is None and due:
                    waiting.remove(due[0])
                    worker.give(due[0], folder)
            for worker in self._ready(POLL_SECONDS):
                job, (answer, value) = worker.take()
                if answer is Answer.HELD:
                    held[job.key] = time.monotonic() + POLL_SECONDS
                    waiting.append(job)
                elif answer is Answer.STOP:
                    raise BadInput(value)
                elif answer is Answer.DONE:
                    yield Finished(job, result=value)
                else:
                    if answer is Answer.DIED:
                        self._workers[self._workers.index(worker)] = self._spawn()
                    yield Finished(job, error=value)

    def _spawn(self) -> "_Worker":
        ours, theirs = self._context.Pipe()
        arguments = (theirs, self._start, self._start_arguments)
        process = self._context.Process(target=_work, args=arguments, daemon=True)
        # Born deaf to Ctrl-C and the like, which would else interrupt its imports with a traceback.
        deaf = [number for number in STOPS if number != signal.SIGTERM]
        before = {number: signal.signal(number, signal.SIG_IGN) for number in deaf}
        process.start()
        for number, handler in before.items():
            signal.signal(number, handler)
        theirs.close()
        return _Worker(process, ours)

    def _ready(self, timeout: float) -> list["_Worker"]:
        busy = {worker.connection: worker for worker in self._workers if worker.job}
        return [busy[connection] for connection in wait(list(busy), timeout)]  # type: ignore[index]


class _Worker:
    def __init__(self, process: Any, connection: Connection):
        self.process, self.connection = process, connection
        self.job: Job | None = None

    def give(self, job: Job, folder: Path) -> None:
        self.job = job
        with contextlib.suppress(BrokenPipeError):  # it died while idle: take() reports it
            self.connection.send((job, folder))

    def take(self) -> tuple[Job, tuple[Answer, Any]]:
        job, self.job = self.job, None
        assert job is not None
        try:
            return job, self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            code = self.process.exitcode
            killed = f"was killed by signal {-(code or 0)} (out of memory?)"
            reason = killed if code and code < 0 else f"exited with code {code}"
            return job, (Answer.DIED, f"the worker process {reason}")


def _work(connection: Connection, start: Callable[..., None], start_arguments: tuple) -> None:
    """The life of a worker process. Ctrl-C reaches the parent alone, which then ends its workers."""
    end_with_parent()
    start(*start_arguments)
    while True:
        try:
            job, folder = connection.recv()
        except (EOFError, ConnectionResetError):
            return  # the parent is gone
        answer = _run(job, folder)
        with contextlib.suppress(BrokenPipeError):
            connection.send(answer)


def _run(job: Job, folder: Path) -> tuple[Answer, Any]:
    lock = FileLock(folder / f"{job.key}.lock")
    error_file = folder / f"{job.key}.error.txt"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return Answer.HELD, None
    except OSError as error:  # a full or read-only disk shows first here
        return Answer.STOP, limit_sentence(error)
    try:
        # Ask again under the lock: another command may have finished the job since.
        result = _stored(folder, job.key)
        if result is None:
            result = job.function(**job.arguments)
            write_record(folder / f"{job.key}.json", result)
            result = read_record(folder / f"{job.key}.json")  # as whoever finds it on the disk will see it
        error_file.unlink(missing_ok=True)
        # Safe only now: whoever still waits for the removed file finds the result as soon as it has the lock.
        with contextlib.suppress(OSError):
            Path(lock.lock_file).unlink(missing_ok=True)
        return Answer.DONE, result
    except BadInput as error:
        return Answer.STOP, str(error)
    except Exception as error:  # the boundary between one run and the sweep: recorded, listed, tried again
        if is_limit(error):
            return Answer.STOP, limit_sentence(error)
        with contextlib.suppress(OSError):
            write_text(error_file, traceback.format_exc())
        return Answer.FAILED, f"{type(error).__name__}: {error}".splitlines()[0]
    finally:
        lock.release()


def _stored(folder: Path, key: str) -> dict[str, Any] | None:
    path = folder / f"{key}.json"
    return read_record(path) if path.exists() else None
