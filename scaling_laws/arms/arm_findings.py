"""What the arms of a sweep say, as numbers: the content of arms.json."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from arms.copy_value import (
    FORMS_OF_WORTH,
    CopyCells,
    compare_worths,
    copy_cells,
    fresh_images_for,
    number_by_number,
    worth_of_copies,
)
from arms.exponents_by_arm import HABITS, Rows, compare_arms, usual_rows
from laws.seed_noise import DRAWS

COPY_ARMS = {"copies": ("fresh", "copies"), "repeats": ("fresh raw", "repeats")}
TESTS = {"clean": "test_loss", "transformed": "transformed_test_loss"}


def arm_findings(rows: Rows, arms: Rows, draws: int = DRAWS) -> dict[str, Any]:
    """`habits` (with dropout's among them) and `copies`, each where their runs are there; `rows` are the sweep's own."""
    found: dict[str, Any] = {"runs": len(arms), "diverged": sum(row["status"] != "ok" for row in arms)}
    names = {row["arm"] for row in arms}
    if names & set(HABITS):
        found["habits"] = compare_arms(usual_rows(rows, arms), arms, draws)
    if "copies" in names:
        found["copies"] = _copies(arms, draws)
    return found


def _copies(arms: Rows, draws: int) -> dict[str, Any]:
    """The comparisons of copies and repeats with fresh images, by width, strength and test set.

    One law, chosen on the copies, for all copies; raw repeats, whose loss rises in the end, number by number.
    """
    compared = []
    for kind, pair in COPY_ARMS.items():
        rows = [row for row in arms if row["arm"] in pair]
        groups = sorted({(int(row["width"]), float(row["strength"] or 1.0)) for row in rows})
        for width, strength in groups:
            own = [row for row in rows if (int(row["width"]), float(row["strength"] or 1.0)) == (width, strength)]
            for test, column in TESTS.items():
                about = {"kind": kind, "width": width, "strength": strength, "test": test}
                compared.append((about, copy_cells(own, column)))
    main = [cells for about, cells in compared if _is_main(about) and about["kind"] == "copies"]
    form, table = _choose([compare_worths(cells) for cells in main])
    found = []
    for about, cells in compared:
        worth = FORMS_OF_WORTH[form] if about["kind"] == "copies" else number_by_number(cells.passes.tolist())
        told = {**about, **worth_of_copies(cells, worth, draws)}
        found.append({**told, "points": _points(cells, told)})
    return {"form": form, "forms": table, "comparisons": found}


def _is_main(about: dict[str, Any]) -> bool:
    return about["test"] == "clean" and about["strength"] == 1.0


def _choose(rivals: Sequence[Sequence[dict[str, Any]]]) -> tuple[str, list[dict[str, Any]]]:
    """The law with the least held-out error over these comparisons; the first one where none could be held out."""
    table = []
    for i, name in enumerate(FORMS_OF_WORTH):
        told: dict[str, Any] = {"form": name}
        for key in ("rms", "held_out_rms", "held_out_bias"):
            known = [one[i][key] for one in rivals if one[i][key] is not None]
            mean = np.mean(known) if key == "held_out_bias" else np.sqrt(np.mean(np.square(known)))
            told[key] = float(mean) if known else None
        table.append(told)
    known = [told for told in table if told["held_out_rms"] is not None]
    best = min(known, key=lambda told: told["held_out_rms"]) if known else table[0]
    return best["form"], table


def _points(cells: CopyCells, told: dict[str, Any]) -> list[dict[str, float | None]]:
    """Each cell's loss, and the fresh images per image of its set that would have given it."""
    loss = np.exp(cells.log_loss)
    worth = fresh_images_for(loss, told) / cells.unique if "theta" in told else np.full(len(loss), np.nan)
    return [
        {"unique": float(u), "passes": float(k), "loss": float(one), "worth": float(w) if np.isfinite(w) else None}
        for u, k, one, w in zip(cells.unique, cells.passes, loss, worth, strict=True)
    ]
