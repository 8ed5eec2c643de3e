"""Files that are whole or not there: text, JSON, tables and checkpoints, each written in one step.

A file is written beside its final name and moved there, so that a reader sees the old one or the new one, never half.
"""

import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from common.errors import BadInput


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
    write_text(path, json.dumps(value, indent=1, default=plain, allow_nan=False) + "\n")


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


def plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


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
