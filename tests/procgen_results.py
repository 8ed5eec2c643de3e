"""The committed results on Procgen, and the two texts that quote them: README, and the page beside the results."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from procgen_report import mean_interval

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "results/reference/rl/procgen"
SUITE = "suite-full-1m"  # what README shows
README = (ROOT / "README.md").read_text()
PAGE = (REFERENCE / "README.md").read_text()
TEXT = " ".join((README + PAGE).split())
COUNTS = "no one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()


def rows(name: str) -> list[dict[str, str]]:
    with open(REFERENCE / name, newline="") as file:
        return list(csv.DictReader(file))


def numbers(row: dict[str, str]) -> dict[str, Any]:
    """Cells as numbers where they are."""
    found: dict[str, Any] = {}
    for name, text in row.items():
        try:
            found[name] = float(text)
        except ValueError:
            found[name] = text
    return found


def with_interval(values: np.ndarray) -> str:
    middle, low, high = mean_interval(values)
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"


def published_returns(game: str) -> list[float]:
    """Of OpenAI's three runs of PPO, after nearly a million frames."""
    (frames,) = {row["frames"] for row in rows("ppo_published.csv")}
    assert frames == "999424"
    return [float(row["return"]) for row in rows("ppo_published.csv") if row["game"] == game]
