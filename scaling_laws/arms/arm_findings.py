"""What the arms of a sweep say, as numbers: the content of arms.json."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from arms.copy_value import FORMS_OF_WORTH, compare_worths, copy_cells, fresh_images_for, worth_of_copies
from arms.exponents_by_arm import compare_arms
from laws.seed_noise import DRAWS

COPY_ARMS = {"copies": ("fresh", "copies"), "repeats": ("fresh raw", "repeats")}
TESTS = {"clean": "test_loss", "transformed": "transformed_test_loss"}


def arm_findings(usual: Sequence[dict[str, Any]], arms: Sequence[dict[str, Any]], draws: int = DRAWS) -> dict[str, Any]:
    """`habits` (with dropout's among them) and `copies`, each where their runs are there. `usual`: the sweep's own rows."""
    found: dict[str, Any] = {}
    names = {row["arm"] for row in arms}
    if names - {name for pair in COPY_ARMS.values() for name in pair}:
        found["habits"] = compare_arms(usual, arms, draws)
    if "copies" in names:
        found["copies"] = _copies(arms, draws)
    return found


def _copies(arms: Sequence[dict[str, Any]], draws: int) -> dict[str, Any]:
    """The comparisons of copies and repeats with fresh images, by width, strength and test set; one form for all of them."""
    compared: list[dict[str, Any]] = []
    for kind, pair in COPY_ARMS.items():
        rows = [row for row in arms if row["arm"] in pair]
        for width in sorted({int(row["width"]) for row in rows}):
            strengths = sorted({row["strength"] for row in rows if int(row["width"]) == width}, key=str)
            for strength in strengths:
                own = [row for row in rows if int(row["width"]) == width and row["strength"] == strength]
                for test, column in TESTS.items():
                    about = {"kind": kind, "width": width, "strength": strength or None, "test": test}
                    compared.append({**about, "cells": copy_cells(own, column)})
    main = [one for one in compared if one["test"] == "clean" and one["strength"] == 1.0]  # transformed copies' alone
    rivals = [compare_worths(one["cells"]) for one in main]
    form, table = _choose(rivals)
    found = []
    for one in compared:
        cells = one.pop("cells")
        told = {**one, **worth_of_copies(cells, form, draws)}
        told["points"] = _points(cells, told)
        found.append(told)
    return {"form": form, "forms": table, "comparisons": found}


def _choose(rivals: list[list[dict[str, Any]]]) -> tuple[str, list[dict[str, Any]]]:
    """The form with the least held-out error over the main comparisons; the first one where none could be held out."""
    table = []
    for i, name in enumerate(FORMS_OF_WORTH):
        errors = [one[i]["held_out_rms"] for one in rivals if one[i]["held_out_rms"] is not None]
        biases = [one[i]["held_out_bias"] for one in rivals if one[i]["held_out_bias"] is not None]
        fits = [one[i]["rms"] for one in rivals]
        told = {"form": name, "rms": float(np.sqrt(np.mean(np.square(fits))))}
        told["held_out_rms"] = float(np.sqrt(np.mean(np.square(errors)))) if errors else None
        told["held_out_bias"] = float(np.mean(biases)) if biases else None
        table.append(told)
    known = [told for told in table if told["held_out_rms"] is not None]
    best = min(known, key=lambda told: told["held_out_rms"]) if known else table[0]
    return best["form"], table


def _points(cells: Any, told: dict[str, Any]) -> list[dict[str, float | None]]:
    """Each cell's loss, and the fresh images per image of its set that would have given it."""
    loss = np.exp(cells.log_loss)
    fresh = fresh_images_for(loss, told) / cells.unique
    return [
        {"unique": float(u), "passes": float(k), "loss": float(one), "worth": float(w) if np.isfinite(w) else None}
        for u, k, one, w in zip(cells.unique, cells.passes, loss, fresh, strict=True)
    ]
