"""The results of a comparison as its folder keeps them, so that tables and figures can be made again from there."""

import csv
from pathlib import Path
from typing import Any, get_args

from common.errors import BadInput
from common.files import number_or_text
from rl_report.comparison_report import Results
from rl_settings.compare_settings import Arm
from rl_settings.method_names import method_of_older
from rl_settings.vpg_choices import Method

OF_AN_ARM = ("env", "algo", "method", "baseline", "minibatches", "encoder", "gamma", "horizon", "seed")


def read_results(folder: Path) -> Results:
    """Of every arm its runs, from runs.csv, curves.csv and, of Procgen, training.csv; BadInput where they are damaged."""
    try:
        results: Results = {}
        found: dict[tuple[Arm, int], dict[str, Any]] = {}
        for row in read_rows(folder / "runs.csv"):
            key = arm_and_seed(row)
            found[key] = {"seed": key[1], "summary": rest_of(row), "curve": []}
            results.setdefault(key[0], []).append(found[key])
        for name, table in (("curve", "curves.csv"), ("training", "training.csv")):
            if name == "curve" or (folder / table).exists():
                for row in read_rows(folder / table):
                    found[arm_and_seed(row)].setdefault(name, []).append(rest_of(row))
    except (KeyError, ValueError, TypeError) as error:
        raise BadInput(f"the tables of {folder} do not fit together: {error}") from None
    if not results:
        raise BadInput(f"{folder / 'runs.csv'} has no rows")
    return results


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table; BadInput where there is none."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise BadInput(f"{path} is not there: the figures are drawn from it") from None


def arm_and_seed(row: dict[str, str]) -> tuple[Arm, int]:
    """What a row is of. Older tables call a method by its older name, and have no columns for what all their rows share."""
    parts = int(row.get("minibatches") or 0)
    method = row["method"] if "method" in row else method_of_older(row["algo"], parts)
    if method not in get_args(Method):
        raise ValueError(f"{method} is no method")
    named: dict[str, Any] = {"method": method, "baseline": row["baseline"], "encoder": row.get("encoder", "")}
    more = {"gamma": float(row.get("gamma") or 0), "horizon": int(row.get("horizon") or 0)}
    return Arm(row["env"], minibatches=1 if method == "strict" else parts, **named, **more), int(row["seed"])


def rest_of(row: dict[str, str]) -> dict[str, Any]:
    """What a row says of it: numbers as numbers, what is empty not at all."""
    return {name: number_or_text(value) for name, value in row.items() if name not in OF_AN_ARM and value != ""}
