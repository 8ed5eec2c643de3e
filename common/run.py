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
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from common.errors import BadInput, is_limit
from common.files import (
    checksum,
    finite,
    load_checkpoint,
    plain,
    read_json,
    read_record,
    remove_stale_temporaries,
    save_checkpoint,
    temporary_of,
    write_json,
    write_record,
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

SEAL_FILE = ".seal.json"


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
        wait: bool = False,
    ):
        self.folder, self.results = Path(folder), results
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise BadInput(f"{self.folder} is a file, where a run has its folder: choose another --name") from None
        self._lock = FileLock(self.folder / ".lock")
        if exclusive:
            try:
                self._lock.acquire(timeout=1e9 if wait else 0)
            except Timeout:
                raise BadInput(f"{self.folder} is in use by another process") from None
        try:
            remove_stale_temporaries(self.folder)
            self.config = json.loads(json.dumps(dict(config), default=plain))
            told = finite({"arguments": arguments, "differs": dict(differs or {}), "command": command_line()})
            self.record = self._same_record({"config": self.config, **told, **environment(device)})
        except BaseException:
            self._lock.release()
            raise
        self._columns: list[str] | None = None

    def _same_record(self, new: dict[str, Any]) -> dict[str, Any]:
        """config.json, which is written where it is missing; BadInput where it is of another configuration."""
        file = self.folder / "config.json"
        with FileLock(self.folder / ".config.lock"):  # of two commands at once, the second sees the first one's file
            self._new = not file.exists()
            if self._new:
                write_record(file, new)
            record = read_record(file)
        if record.get("config") != self.config:
            other = ", ".join(differences(record.get("config"), self.config))
            raise BadInput(f"{self.folder} holds a run of another configuration ({other}): choose another --name")
        before, now = (about.get("versions") or {} for about in (record, new))
        changed = [
            f"{name} {before.get(name)}, now {now.get(name)}"
            for name in ("torch", "numpy")
            if before.get(name) != now.get(name)
        ]
        if changed and not (self.folder / "summary.json").exists() and multiprocessing.parent_process() is None:
            print(f"NOTE: this run was begun with {'; '.join(changed)}: its last digits may depend on that")
        return record

    def _check_owner(self, kept: str | None, by: Path) -> None:
        """BadInput where a result is of another configuration, as where config.json was deleted. Older files do not say."""
        if kept and kept != short_hash(self.config):
            if self._new:  # it would make strangers of the results and their own command
                (self.folder / "config.json").unlink(missing_ok=True)
            raise BadInput(f"{by} is of another configuration: choose another --name, or delete {self.folder}")

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, BadInput | BrokenPipeError) and not is_limit(error):
            with contextlib.suppress(OSError):  # it may be the disk that failed
                self.fail("".join(traceback.format_exception(error)))
        self.close()

    @property
    def summary(self) -> dict[str, Any] | None:
        """The summary of a finished run, else None; BadInput where it, or the table that it is of, is damaged.

        Its checksum and those of table and checkpoint stand in `.seal.json` beside it.
        """
        path = self.folder / "summary.json"
        if not path.exists():
            return None
        summary = read_json(path)
        seal = read_record(self.folder / SEAL_FILE) if (self.folder / SEAL_FILE).exists() else {}
        if not isinstance(summary, dict) or seal.get("summary", checksum(path)) != checksum(path):
            raise BadInput(f"{path} is damaged: delete it and run the command again")
        self._check_owner(seal.get("config"), path)
        _check_metrics(self.folder / "metrics.csv", seal.get("metrics"), path.name)
        self._check_kept_checkpoint(seal.get("checkpoint"))
        return summary

    def _check_kept_checkpoint(self, kept: str | None) -> None:
        """BadInput where the last checkpoint of a finished run is damaged; a note where somebody has deleted it."""
        path = self.folder / "checkpoint.pt"
        if kept and not path.exists():
            if multiprocessing.parent_process() is None:
                print(f"NOTE: {path} is gone; the same command trains it again once {self.folder} is deleted")
        elif kept and checksum(path) != kept:
            raise BadInput(f"{path} is damaged, though its run is done: delete {self.folder} to train it again")

    def finish(self, **summary: Any) -> None:
        """Write summary.json, the mark of a finished run; `status` is ok unless given (diverged)."""
        (self.folder / "error.txt").unlink(missing_ok=True)
        checkpoint = self.folder / "checkpoint.pt"
        with FileLock(self.folder / ".config.lock"):  # two commands that share a sweep end at about the same time
            (self.folder / SEAL_FILE).unlink(missing_ok=True)
            write_json(self.folder / "summary.json", {"status": "ok", **summary})
            seal = {"summary": checksum(self.folder / "summary.json"), "metrics": _counted(self.folder / "metrics.csv")}
            seal["checkpoint"] = checksum(checkpoint) if checkpoint.exists() else ""
            seal["config"] = short_hash(self.config)
            write_record(self.folder / SEAL_FILE, seal)

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
        line = ",".join(repr(float(value)) if isinstance(value, float) else str(value) for value in row.values())
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write((",".join(self._columns) + "\n" if new else "") + line + "\n")
        except OSError as error:
            error.filename = str(path)
            raise

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Checkpoint: tensors, state dicts and plain numbers only, so that it loads with `weights_only=True`.

        The rows that it counts on are on the disk before it.
        """
        counted = _counted(self.folder / "metrics.csv", sync=True)
        about = {"step": step, "metrics": counted, "config": short_hash(self.config)}
        save_checkpoint(self.folder / "checkpoint.pt", {**about, **state})

    def resume(self, needs: Iterable[str] = ()) -> dict[str, Any] | None:
        """The last checkpoint, on the CPU, or None. Rows that metrics.csv has beyond its step are dropped.

        BadInput for a checkpoint without the entries `needs`, and where metrics.csv lacks rows that it counts on.
        """
        path = self.folder / "checkpoint.pt"
        state = load_checkpoint(path, ("step", *needs)) if path.exists() else None
        if state:
            self._check_owner(state.pop("config", None), path)
        _cut_metrics(self.folder / "metrics.csv", state["step"] if state else -math.inf)
        if state:
            _check_metrics(self.folder / "metrics.csv", state.pop("metrics", None), "checkpoint.pt")
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
    wait: bool = False,
    **more: Any,
) -> Run:
    """The folder of a run in `results/<project>/`, named by the task, the settings that differ, a hash and the seed.

    The hash, and config.json, hold all that changes the numbers: the fields of the dataclass `settings` but those of
    NOT_IN_IDENTITY and `leave_out`, the device, `more`, and the files whose code makes the numbers, which are `roots` and
    what they import. A folder with this hash and seed is this run's, whatever else its name says; `given.name` names
    another. `given` is the command line as parsed with `presets`, which `--from-config` repeats. With `wait`, a folder that
    another process holds is waited for. `results/latest` then leads to the folder.
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
    if getattr(given, "from_config", None):
        _tell_other_code(Path(given.from_config), identity)
    whole = multiprocessing.parent_process() is None  # a worker's runs are parts of its parent's
    results = project_folder.parent if whole else None
    run = Run(folder, identity, device, dataclasses.asdict(given), exclusive, differs, results, wait)
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


def _tell_other_code(file: Path, identity: Mapping[str, Any]) -> None:
    """Say which files have changed since the run whose config.json is repeated."""
    before = read_json(file).get("config") or {}
    changed = changed_sources(before.get("sources"), identity["sources"])
    if changed:
        print(f"NOTE: other code than that of {file}: {', '.join(changed[:8])}{', …' * (len(changed) > 8)}")


def _lead_to(folder: Path, link: Path) -> None:
    """Make `link` a symbolic link to `folder`, in one step; nothing where the file system has none."""
    temporary = temporary_of(link)
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(os.path.relpath(folder, link.parent), target_is_directory=True)
        if link.is_symlink() or not link.exists():
            os.replace(temporary, link)
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)


def read_metrics(path: Path) -> dict[str, np.ndarray]:
    """metrics.csv as one array per column; BadInput where it cannot be read as that."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return {key: np.array([float(row[key]) for row in rows]) for key in (rows[0] if rows else {})}
    except (ValueError, TypeError, csv.Error):
        raise BadInput(f"{path} is damaged: it is no table of numbers") from None


def differences(before: Any, now: dict[str, Any]) -> list[str]:
    """In a few words, where two configurations differ: `lr was 0.1, is 0.2`, `rl/net.py has changed`."""
    before = before if isinstance(before, dict) else {}
    found = []
    for name in dict.fromkeys([*before, *now]):
        old, new = before.get(name), now.get(name)
        if old != new and name == "sources":
            found += changed_sources(old, new)
        elif old != new:
            found.append("the code has changed" if name == "loop" else f"{name} was {old}, is {new}")
    return found if len(found) <= 6 else [*found[:5], f"and {len(found) - 5} more"]


def changed_sources(before: Any, now: Any) -> list[str]:
    """`rl/net.py has changed` for each file; of an older record, which has one hash of all, only that they have."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return ["the code has changed"] if before != now else []
    return [f"{file} has changed" for file in dict.fromkeys([*before, *now]) if before.get(file) != now.get(file)]


def _counted(path: Path, sync: bool = False) -> str:
    """`13 rows, crc32 89abcdef` of a table; with `sync`, once it is on the disk; "" where there is none."""
    if not path.exists():
        return ""
    if sync:
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
    data = path.read_bytes()
    return f"{max(0, data.count(10) - 1)} rows, crc32 {zlib.crc32(data):08x}"


def _check_metrics(path: Path, counted: str | None, by: str) -> None:
    """BadInput where a table is not the one that `counted` is of. Older files count none."""
    if counted and (now := _counted(path) or "is gone") != counted:
        what = f"has {now}" if path.exists() else now
        raise BadInput(
            f"{path} is damaged: it {what}, where {by} counts {counted}; put it back, or delete the folder to begin again"
        )


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
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
        if not lines:
            path.unlink()
            return
        column = lines[0].strip().split(",").index("step")
        kept = [line for line in lines[1:] if float(line.split(",")[column]) <= step]
    except (ValueError, LookupError):  # UnicodeDecodeError is a ValueError
        raise BadInput(f"{path} is damaged: put it back, or delete the folder to begin again") from None
    text = "".join([lines[0], *kept])
    if text.encode() != path.read_bytes():
        write_text(path, text)
