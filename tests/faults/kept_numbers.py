"""All numbers that a run leaves behind, without those that are times, to be compared bit for bit."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from faults.tiny_commands import Script

TIMES = {"seconds", "minutes", "train_seconds", "total_seconds"}
TIMES |= {"tokens_per_second", "steps_per_second", "images_per_second"}
TIMES |= {"crc32", "metrics"}  # checksums, of times too


def without_times(value: Any) -> Any:
    """A value from JSON."""
    if isinstance(value, dict):
        return {name: without_times(part) for name, part in value.items() if name not in TIMES}
    return [without_times(part) for part in value] if isinstance(value, list) else value


def table(path: Path) -> list[dict[str, str]]:
    """A CSV's rows as text."""
    with open(path, newline="", encoding="utf-8") as file:
        return [{name: cell for name, cell in row.items() if name not in TIMES} for row in csv.DictReader(file)]


def weights(path: Path) -> str:
    """One hash of all of a checkpoint's tensors of the model."""
    digest = hashlib.sha256()
    for name, value in torch.load(path, map_location="cpu", weights_only=True)["model"].items():
        digest.update(name.encode() + value.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read(path: Path) -> Any:
    """What of a file is a number."""
    if path.suffix == ".csv":
        return table(path)
    return weights(path) if path.suffix == ".pt" else without_times(json.loads(path.read_text(encoding="utf-8")))


def numbers(script: Script, place: Path, name: str = "a") -> dict[str, Any]:
    """By file, of a run that has ended. What compare.py's own runs came to is in its runs/."""
    folder = place / script.folder(name)
    patterns = ("summary.json", "*.csv", "fits.json", "cells/*.json", "runs/*.json", "checkpoint.pt")
    found = {f.relative_to(folder).as_posix(): f for pattern in patterns for f in sorted(folder.glob(pattern))}
    return {key: read(file) for key, file in found.items()}


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """What is not as it is undisturbed: rows that are lost, wrong numbers, files that are missing or too many."""
    told = [f"{key} is too many" for key in found if key not in expected]
    for key, whole in expected.items():
        if key not in found:
            told.append(f"{key} is not there")
        elif found[key] != whole:
            rows = isinstance(whole, list) and len(found[key]) < len(whole)
            other = [name for name in whole if found[key].get(name) != whole[name]] if isinstance(whole, dict) else ""
            lost = f"rows lost: {key} has {len(found[key])} of {len(whole)}"
            told.append(lost if rows else f"wrong numbers: {key} {other}".strip())
    return told
