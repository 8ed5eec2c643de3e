"""Commands that start in an interpreter that has read the large libraries: half of a short command's time is their import.

A server process imports them once and forks for each command, which then reads the script as `python SCRIPT` does, with
its own folder, environment, streams and group. Workers of the command are spawned as always. Only where there is fork.
"""

import contextlib
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from functools import cached_property
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "torch._dynamo", "numpy", "matplotlib.pyplot", "gymnasium", "tyro", "jinja2", "filelock", "tqdm")


class Started:
    """A command that runs: what of `subprocess.Popen` the trials use."""

    def __init__(self, server: "Server", pid: int):
        self.pid = pid
        self.returncode: int | None = None
        self._server = server

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._server.ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float = float("inf")) -> int:
        until = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.01)
        return code

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class Server:
    """The process that forks, made at the first command. It ends when the process that made it does."""

    def __init__(self):
        self._lock = threading.Lock()

    @cached_property
    def _process(self) -> subprocess.Popen:
        command = [sys.executable, __file__]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def ask(self, question: dict[str, Any]) -> Any:
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())

    def start(self, command: list[str], folder: Path, environment: dict[str, str], out: str, err: str) -> Started:
        """`command` is [interpreter, script, *arguments]; it becomes the leader of a group of its own."""
        what = {"argv": command[1:], "folder": str(folder), "environment": environment, "out": out, "err": err}
        return Started(self, self.ask({"start": what}))


def become(argv: list[str], folder: str, environment: dict[str, str], out: str, err: str) -> None:
    """In the forked process: what `python SCRIPT ARGUMENTS` is. Does not return."""
    os.setsid()
    streams = ((os.devnull, os.O_RDONLY), (out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
    for number, (path, flags) in enumerate((*streams, (err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))):
        descriptor = os.open(path, flags, 0o644)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = list(argv)
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [str(Path(argv[0]).parent), *paths, *sys.path[1:]]
    importlib.invalidate_caches()
    sys.modules.pop("sitecustomize", None)
    code = 0
    try:
        importlib.import_module("sitecustomize")
        runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        code = 1
    sys.exit(code)  # through the interpreter's own end, which joins and flushes


def main() -> None:
    for library in LIBRARIES:
        importlib.import_module(library)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what is in the background deaf to it
    # A command gets another standard input, and so nothing of the questions. An environment may be longer than a pipe is.
    questions, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    while line := questions.readline():
        question = json.loads(line)
        if "poll" in question:
            pid, status = os.waitpid(question["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif (answer := os.fork()) == 0:
            answers.close()
            questions.close()
            become(**question["start"])
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
