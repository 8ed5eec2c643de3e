"""What the measurements of trained Procgen policies share: the runs they load, and the tables they add to."""

import csv
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "rl"))

from common.files import load_checkpoint, write_csv
from rl_settings.method_names import method_of_older
from rl_settings.vpg_settings import Settings
from vpg_learner.vpg_trainer import Trainer

REFERENCE = ROOT / "results" / "reference" / "rl" / "procgen"


def untrained(folder: str) -> tuple[Trainer, dict[str, Any]]:
    """A finished run's trainer as it began, on the CPU, and the checkpoint that it ended with, for `Trainer.load`."""
    state = load_checkpoint(Path(folder) / "checkpoint.pt")
    told = state["arguments"]
    if "method" not in told:  # a run from before the methods had their names
        method = method_of_older(told["algo"], told["minibatches"], told["epochs"])
        told = {**told, "method": method, "reward_gamma": told["gamma"]}
    kept: dict[str, Any] = {field.name: told[field.name] for field in fields(Settings)}
    settings = Settings(**{**kept, "hidden": tuple(kept["hidden"])})
    return Trainer(settings, torch.device("cpu")), state


def read_rows(path: Path) -> list[dict[str, Any]]:
    """A table's rows as text, in its order; none where there is no table yet."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def replaced(rows: list[dict[str, Any]], new: list[dict[str, Any]], keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """`rows` without those that have the `keys` of a new one, and the new ones behind them."""
    mine = {tuple(str(row[key]) for key in keys) for row in new}
    return [row for row in rows if tuple(str(row[key]) for key in keys) not in mine] + new


def add_row(path: Path, row: dict[str, Any]) -> None:
    """Write a row into a table in place of an older one of the same game and frames, numbers to four digits."""
    row = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in row.items()}
    rows = replaced(read_rows(path), [row], ("game", "frames"))
    rows.sort(key=lambda old: (int(old["frames"]), old["game"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_csv(path, rows)
