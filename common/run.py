"""Run folders: `results/<project>/<name>/` with config.json, metrics.csv, summary.json and checkpoint.pt.

Every whole file is written beside its final name and moved there in one step, so that a reader sees the old file or the
new one and never half of one. `summary.json` is written last: where it stands, the run is done.
"""

import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock, Timeout

from common.errors import BadInput

ROOT = Path(__file__).resolve().parent.parent
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def repository_root() -> Path:
    """The folder of the checkout; BadInput where `common` was installed away from it (a non-editable install)."""
    if not (ROOT / "pyproject.toml").is_file():
        raise BadInput("the repository is not beside the installed package: install it with `pip install -e .`")
    return ROOT


# ---------------------------------------------------------------- atomic files


def atomic_save(path: Path, save: Callable[[IO[bytes]], Any]) -> None:
    """Call `save(file)` on a temporary file in the folder of `path`, then move it to `path`.

    The bytes are on the disk before the move (fsync), so that not even a power cut leaves a torn file. On any error
    the temporary file is removed and what stood at `path` stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            save(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a failed write does not name its file
            error.filename = str(path)
        raise


def write_text(path: Path, text: str) -> None:
    """UTF-8 text in one step."""
    atomic_save(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """JSON in one step; ValueError for nan and infinity, which JSON does not have."""
    write_text(path, json.dumps(value, indent=1, default=_plain, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """With None for what JSON does not have: infinity, and nan. Tuples become lists."""
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """All rows at once; the columns are the keys of the rows in order of appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_json(path: Path) -> Any:
    """The content of a JSON file; BadInput where it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise BadInput(f"{path} is not readable JSON: delete it and run the command again") from None


def remove_stale_temporaries(folder: Path) -> None:
    """Delete what killed processes left in `folder`: temporary files whose process no longer lives."""
    for path in folder.glob(".*.tmp"):
        pid = path.name.split(".")[-2]
        if pid.isdigit() and not _alive(int(pid)):
            path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    if os.name == "nt":  # there os.kill(pid, 0) would interrupt the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


# ---------------------------------------------------------------- names


def source_hash(*files: str | Path) -> str:
    """One hash of the text of the files that produce the numbers, so that edited code never returns an old result."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()


def short_hash(*parts: Any) -> str:
    """Eight hexadecimal digits of the JSON of `parts` (configuration values, source hashes)."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=_plain).encode()).hexdigest()[:8]


def check_name(name: str) -> str:
    """`name` if it is one plain folder name, else BadInput: a run never leaves its project's results folder."""
    if not RUN_NAME.fullmatch(name):
        raise BadInput(f"--name {name!r} must be letters, digits, '.', '_' or '-', and start with a letter or digit")
    return name


def results_folder(results_dir: str | None, project: str) -> Path:
    """`<results_dir>/<project>`; the default results folder is the repository's, a given one the working directory's."""
    return (Path(results_dir) if results_dir else repository_root() / "results") / project


def latest_run(folder: Path, *markers: str) -> Path:
    """The newest run folder below `folder` that holds the files `markers`; BadInput where there is none."""
    found = [path.parent for path in folder.glob(f"*/{markers[0]}")]
    found = [path for path in found if all((path / marker).exists() for marker in markers)]
    if not found:
        raise BadInput(f"no run with a {markers[0]} below {folder}: start one first, or name one")
    return max(found, key=lambda path: (path / markers[0]).stat().st_mtime)


def environment(device: str) -> dict[str, Any]:
    """What a reader needs to judge a result: versions, commit, processor. No host name and no user's paths."""
    versions = {"python": platform.python_version()}
    for package in ("torch", "numpy", "scipy", "gymnasium"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "device": device,
        "versions": versions,
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain")),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": available_cores(),
    }


def available_cores() -> int:
    """Cores that this process may run on (`taskset` or a batch system may allow fewer than the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _git(*arguments: str) -> str | None:
    try:
        run = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() if run.returncode == 0 else None


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


# ---------------------------------------------------------------- one run


class Run:
    """A run folder, opened to start, resume or skip one training run or sweep.

    `config` holds every field that changes the numbers; a folder that holds another `config` is refused.
    With `exclusive` (the default) the folder is locked for the life of this process, so that a second start of the
    same command waits for nobody and trains nothing twice: it ends with one sentence. A sweep, whose processes share
    the work cell by cell, opens its folder with `exclusive=False`. `arguments`, the script's parsed command line, is
    kept for `--from-config`.
    """

    def __init__(
        self, folder: Path, config: Mapping[str, Any], device: str, arguments: Any = None, exclusive: bool = True
    ):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.folder / ".lock")
        if exclusive:
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise BadInput(f"{self.folder} is in use by another process") from None
        remove_stale_temporaries(self.folder)
        self.config = json.loads(json.dumps(dict(config), default=_plain))
        self._columns: list[str] | None = None
        config_file = self.folder / "config.json"
        new = {"config": self.config, "arguments": arguments, "command": command_line(), **environment(device)}
        with FileLock(self.folder / ".config.lock"):  # of two commands at once, the second sees the first one's file
            if not config_file.exists():
                write_json(config_file, new)
            record = read_json(config_file)
        if not isinstance(record, dict) or record.get("config") != self.config:
            self._lock.release()
            raise BadInput(f"{self.folder} holds a run of another configuration: choose another --name")

    @property
    def summary(self) -> dict[str, Any] | None:
        """The summary of a finished run, else None."""
        path = self.folder / "summary.json"
        return read_json(path) if path.exists() else None

    def finish(self, **summary: Any) -> None:
        """Write summary.json, the mark of a finished run; `status` is ok unless given (diverged)."""
        (self.folder / "error.txt").unlink(missing_ok=True)
        write_json(self.folder / "summary.json", {"status": "ok", **summary})

    def fail(self, traceback: str) -> None:
        """Keep the traceback of a crash. No summary is written, so the same command tries again."""
        write_text(self.folder / "error.txt", traceback)

    def log(self, **row: float) -> None:
        """Append one row to metrics.csv; the first row fixes the columns, and `step` must be among them."""
        path = self.folder / "metrics.csv"
        if "step" not in row:
            raise ValueError("a row of metrics.csv needs a step")
        if self._columns is None:
            self._columns = _header(path) or list(row)
        if list(row) != self._columns:
            raise ValueError(f"metrics.csv has the columns {self._columns}, this row {list(row)}")
        new = not path.exists() or path.stat().st_size == 0
        with open(path, "a", encoding="utf-8") as file:
            line = ",".join(repr(float(value)) if isinstance(value, float) else str(value) for value in row.values())
            file.write((",".join(self._columns) + "\n" if new else "") + line + "\n")

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Checkpoint: tensors, state dicts and plain numbers only, so that it loads with `weights_only=True`."""
        save_checkpoint(self.folder / "checkpoint.pt", {"step": step, **state})

    def resume(self) -> dict[str, Any] | None:
        """The last checkpoint, on the CPU, or None. Rows that metrics.csv has beyond its step are dropped."""
        path = self.folder / "checkpoint.pt"
        state = load_checkpoint(path) if path.exists() else None
        _cut_metrics(self.folder / "metrics.csv", state["step"] if state else -math.inf)
        return state

    def begin_with_shorter(self, length: str) -> int:
        """Begin a new run where the longest finished one beside it ended whose config has a smaller `length`, else the same.

        That one's last step; 0 where there is none, or this run has a checkpoint. Its checkpoint and metrics are copied, and
        its config.json as began_with.json. A damaged one is passed over.
        """
        if (self.folder / "checkpoint.pt").exists():
            return 0
        found: list[tuple[int, Path]] = []
        for path in self.folder.parent.glob("*/summary.json"):
            with contextlib.suppress(BadInput, OSError, KeyError, TypeError):
                other, summary = read_json(path.with_name("config.json"))["config"], read_json(path)
                same = {**other, length: self.config[length]} == self.config
                if same and other[length] < self.config[length] and summary["status"] == "ok":
                    found.append((summary["steps"], path.parent))
        copies = {"config.json": "began_with.json", "metrics.csv": "metrics.csv", "checkpoint.pt": "checkpoint.pt"}
        for steps, shorter in sorted(found, reverse=True):
            with contextlib.suppress(BadInput, OSError):
                if load_checkpoint(shorter / "checkpoint.pt")["step"] == steps:
                    read = [(to, (shorter / name).read_bytes()) for name, to in copies.items()]
                    for to, data in read:  # the checkpoint last: without it, what is here counts as nothing
                        atomic_save(self.folder / to, lambda file, data=data: file.write(data))
                    return steps
        return 0

    def close(self) -> None:
        """Free the folder for another process."""
        self._lock.release()


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors, state dicts and plain values to `path` in one step."""
    import torch

    memory = io.BytesIO()  # torch hides what the system says of a failed write; a plain write does not
    torch.save(state, memory)
    atomic_save(path, lambda file: file.write(memory.getbuffer()))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint on the CPU. Only tensors and plain values are read, never code; BadInput for a damaged file."""
    import pickle

    import torch

    try:
        data = io.BytesIO(Path(path).read_bytes())
    except FileNotFoundError:
        raise BadInput(f"{path} does not exist") from None
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from None
    try:
        state = torch.load(data, map_location="cpu", weights_only=True)
    # PyTorch's reader does not check what it reads: a damaged file ends in any of these.
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ):
        raise BadInput(f"{path} is damaged or is not a checkpoint of this project") from None
    if not isinstance(state, dict):
        raise BadInput(f"{path} is not a checkpoint of this project")
    return state


def read_metrics(path: Path) -> dict[str, np.ndarray]:
    """metrics.csv as one array per column."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {key: np.array([float(row[key]) for row in rows]) for key in (rows[0] if rows else {})}


def command_line() -> str:
    """The command as it would be typed from the repository root: no absolute path of this machine."""
    script = Path(sys.argv[0])
    with contextlib.suppress(ValueError):
        script = script.resolve().relative_to(ROOT)
    return shlex.join(["python", script.as_posix() if not script.is_absolute() else script.name, *sys.argv[1:]])


def _header(path: Path) -> list[str] | None:
    if not path.exists():
        return None
    with open(path, encoding="utf-8") as file:
        line = file.readline().strip()
    return line.split(",") if line else None


def _cut_metrics(path: Path, step: float) -> None:
    """Keep the whole lines of metrics.csv up to `step`: a resumed run appends the later ones again."""
    if not path.exists():
        return
    lines: Iterable[str] = path.read_text(encoding="utf-8").splitlines(keepends=True)
    lines = [line for line in lines if line.endswith("\n")]
    if not lines:
        path.unlink()
        return
    column = lines[0].strip().split(",").index("step")
    kept = [line for line in lines[1:] if float(line.split(",")[column]) <= step]
    write_text(path, "".join([lines[0], *kept]))
