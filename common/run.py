"""Run folders: `results/<project>/<name>/` with config.json, metrics.csv, summary.json and checkpoint.pt.

`summary.json` is written last: where it stands, the run is done.
"""

import contextlib
import csv
import dataclasses
import json
import math
import multiprocessing
import os
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from common.errors import BadInput
from common.files import (
    finite,
    load_checkpoint,
    plain,
    read_json,
    remove_stale_temporaries,
    save_checkpoint,
    write_json,
    write_text,
)
from common.provenance import (
    NOT_IN_IDENTITY,
    command_line,
    differing,
    environment,
    results_folder,
    run_name,
    short_hash,
    source_hashes,
)


class Run:
    """A run folder, opened to start, resume or skip one training run or sweep.

    `config` holds every field that changes the numbers; a folder that holds another `config` is refused.
    With `exclusive` (the default) the folder is locked for the life of this process, so that a second start of the
    same command waits for nobody and trains nothing twice: it ends with one sentence. A sweep, whose processes share
    the work cell by cell, opens its folder with `exclusive=False`. `arguments`, the script's parsed command line, is
    kept for `--from-config`, with what `differs` in it from the defaults. As a context manager it keeps the traceback of
    a crash and frees the folder at the end. `results` is the folder whose page of all runs shows this one.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        device: str,
        arguments: Any = None,
        exclusive: bool = True,
        differs: Mapping[str, Any] | None = None,
        results: Path | None = None,
    ):
        self.folder, self.results = Path(folder), results
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.folder / ".lock")
        if exclusive:
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise BadInput(f"{self.folder} is in use by another process") from None
        remove_stale_temporaries(self.folder)
        self.config = json.loads(json.dumps(dict(config), default=plain))
        self._columns: list[str] | None = None
        config_file = self.folder / "config.json"
        told = {"arguments": arguments, "differs": dict(differs or {}), "command": command_line()}
        new = {"config": self.config, **told, **environment(device)}
        with FileLock(self.folder / ".config.lock"):  # of two commands at once, the second sees the first one's file
            if not config_file.exists():
                write_json(config_file, new)
            record = read_json(config_file)
        if not isinstance(record, dict) or record.get("config") != self.config:
            self._lock.release()
            raise BadInput(f"{self.folder} holds a run of another configuration: choose another --name")

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, BadInput | BrokenPipeError):
            with contextlib.suppress(OSError):  # it may be the disk that failed
                self.fail("".join(traceback.format_exception(error)))
        self.close()

    @property
    def summary(self) -> dict[str, Any] | None:
        """The summary of a finished run, else None."""
        path = self.folder / "summary.json"
        return read_json(path) if path.exists() else None

    def finish(self, **summary: Any) -> None:
        """Write summary.json, the mark of a finished run; `status` is ok unless given (diverged)."""
        (self.folder / "error.txt").unlink(missing_ok=True)
        write_json(self.folder / "summary.json", {"status": "ok", **summary})

    def fail(self, error: str) -> None:
        """Keep the traceback of a crash. No summary is written, so the same command tries again."""
        write_text(self.folder / "error.txt", error)

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

    def close(self) -> None:
        """Free the folder for another process, and show the run on the page of all that are in `results`."""
        self._lock.release()
        if self.results:
            _show_all(self.results)


def open_run(
    project: str,
    task: str,
    settings: Any,
    given: Any,
    device: str,
    roots: Iterable[Path],
    leave_out: Iterable[str] = (),
    exclusive: bool = True,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    **more: Any,
) -> Run:
    """The folder of a run in `results/<project>/`, named by the task, the settings that differ, a hash and the seed.

    The hash, and config.json, hold all that changes the numbers: the fields of the dataclass `settings` but those of
    NOT_IN_IDENTITY and `leave_out`, the device, `more`, and the files whose code makes the numbers, which are `roots` and
    what they import. A folder with this hash and seed is this run's, whatever else its name says; `given.name` names
    another. `given` is the command line as parsed with `presets`, which `--from-config` repeats. `results/latest` then
    leads to the folder.
    """
    excluded = {*NOT_IN_IDENTITY, *leave_out}
    kept = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    kept = {name: value for name, value in kept.items() if name not in excluded}
    identity = finite({**kept, **more, "device": device, "sources": source_hashes(*roots)})
    differs = differing(given, presets or {})
    project_folder = results_folder(given.results_dir, project)
    tail = short_hash(identity) + (f"-s{settings.seed}" if hasattr(settings, "seed") else "")
    there = sorted(path for path in project_folder.glob(f"*-{tail}") if path.is_dir())
    folder = project_folder / (given.name or (there[0].name if there else run_name(task, differs, tail)))
    whole = multiprocessing.parent_process() is None  # a worker's runs are parts of its parent's
    results = project_folder.parent if whole else None
    run = Run(folder, identity, device, dataclasses.asdict(given), exclusive, differs, results)
    if whole:
        _lead_to(folder, project_folder.parent / "latest")
    return run


def _show_all(results: Path) -> None:
    """Write the page of all runs again; it is worth no run, so what goes wrong is told and no more."""
    from common import gallery  # which the training of a run needs not

    try:
        gallery.refresh(results)
    except Exception as error:
        print(f"the page of all runs cannot be written: {type(error).__name__}: {error}")


def _lead_to(folder: Path, link: Path) -> None:
    """Make `link` a symbolic link to `folder`, in one step; nothing where the file system has none."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(os.path.relpath(folder, link.parent), target_is_directory=True)
        if link.is_symlink() or not link.exists():
            os.replace(temporary, link)
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)


def read_metrics(path: Path) -> dict[str, np.ndarray]:
    """metrics.csv as one array per column."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {key: np.array([float(row[key]) for row in rows]) for key in (rows[0] if rows else {})}


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
