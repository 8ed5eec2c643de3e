"""Files that are whole or not there, and that know when they are damaged: text, JSON, tables and checkpoints.

A file is written beside its final name and moved there, so that a reader sees the old one or the new one, never half.
What a script relies on later, records and checkpoints, carries checksums, which are verified when it is read.
"""

import csv
import dataclasses
import hashlib
import io
import json
import math
import os
import platform
import zipfile
import zlib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np

from common.errors import BadInput

SEAL = "crc32"  # the key of a record's checksum


# ---------------------------------------------------------------- writing in one step


def atomic_save(path: Path, save: Callable[[IO[bytes]], Any]) -> None:
    """Call `save(file)` on a temporary file in the folder of `path`, then move it to `path`.

    The bytes are on the disk before the move (fsync), so that not even a power cut leaves a torn file. On any error
    the temporary file is removed and what stood at `path` stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_of(path)
    try:
        with open(temporary, "wb") as file:
            save(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None  # a failed write names no file, or the temporary one
        raise


def temporary_of(path: Path) -> Path:
    """The name under which this process makes `path`; `remove_stale_temporaries` knows it."""
    return path.with_name(f".{path.name}.{this_host()}.{os.getpid()}.tmp")


@cache
def this_host() -> str:
    """Eight digits that stand for this machine in the names of temporary files: process numbers are its own."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def remove_stale_temporaries(folder: Path) -> None:
    """Delete what killed processes left in `folder`: temporary files of this machine whose process no longer lives.

    On a shared folder, those of another machine may be in use: they stay.
    """
    for path in folder.glob(".*.tmp"):
        *_, host, pid, _ = path.name.split(".")
        if host == this_host() and pid.isdigit() and not _alive(int(pid)):
            path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    if os.name == "nt":  # there os.kill(pid, 0) would interrupt the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:  # killed, and nobody has asked how it ended: on Linux it keeps its number till then
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return True


def write_text(path: Path, text: str) -> None:
    """UTF-8 text in one step."""
    atomic_save(path, lambda file: file.write(text.encode()))


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """All rows at once; the columns are the keys of the rows in order of appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def number_or_text(text: str) -> float | int | str:
    """A cell of a table, which does not say which of its texts are numbers."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


# ---------------------------------------------------------------- JSON


def write_json(path: Path, value: Any) -> None:
    """JSON in one step; ValueError for nan and infinity, which JSON does not have."""
    write_text(path, json.dumps(value, indent=1, default=plain, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file; BadInput where it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise BadInput(f"{path} is not readable JSON: delete it and run the command again") from None


def write_record(path: Path, record: dict[str, Any]) -> None:
    """A JSON object in one step, with a checksum of the rest under its last key, `crc32`."""
    record = json.loads(json.dumps(record, default=plain, allow_nan=False))
    write_json(path, {**record, SEAL: _seal(record)})


def read_record(path: Path) -> dict[str, Any]:
    """A JSON object that `write_record` wrote, without its checksum; BadInput where one bit of it is another."""
    record = read_json(path)
    if not isinstance(record, dict) or record.pop(SEAL, None) != _seal(record):
        raise BadInput(f"{path} is damaged: delete it and run the command again")
    return record


def checksum(path: Path) -> str:
    """CRC-32 of a file's bytes, as eight hexadecimal digits."""
    crc = 0
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            crc = zlib.crc32(part, crc)
    return f"{crc:08x}"


def _seal(record: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(record, sort_keys=True).encode()):08x}"


def finite(value: Any) -> Any:
    """With None for what JSON does not have: infinity, and nan. Tuples become lists."""
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


# ---------------------------------------------------------------- checkpoints


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors, state dicts and plain values to `path` in one step."""
    import torch

    memory = io.BytesIO()  # torch hides what the system says of a failed write; a plain write does not
    torch.save(state, memory)
    atomic_save(path, lambda file: file.write(memory.getbuffer()))


def load_checkpoint(path: Path, needs: Iterable[str] = ()) -> dict[str, Any]:
    """A checkpoint on the CPU. Only tensors and plain values are read, never code.

    BadInput for a damaged file, to the bit, and for one that lacks one of the entries `needs`: another version wrote it.
    """
    import pickle

    import torch

    try:
        data = io.BytesIO(Path(path).read_bytes())
    except FileNotFoundError:
        raise BadInput(f"{path} does not exist") from None
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from None
    damaged = BadInput(f"{path} is damaged or is not a checkpoint of this project: delete it to begin again")
    try:
        # PyTorch writes a checksum of every part into its archive, and does not look at them.
        with zipfile.ZipFile(data) as archive:
            if archive.testzip() is not None:
                raise damaged
        data.seek(0)
        state = torch.load(data, map_location="cpu", weights_only=True)
    # Neither reader checks all of what it reads: a damaged file ends in any of these.
    except (
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ):
        raise damaged from None
    if not isinstance(state, dict):
        raise BadInput(f"{path} is not a checkpoint of this project")
    missing = [name for name in needs if name not in state]
    if missing:
        raise BadInput(f"{path} is of another version of this project: it has no {', '.join(missing)}")
    return state
