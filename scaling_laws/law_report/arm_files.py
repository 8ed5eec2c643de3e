"""What the arms of a sweep leave in its folder: arms.json and their figures; and what was found, on the screen."""

import csv
from pathlib import Path
from typing import Any

from arms.arm_findings import arm_findings
from common.files import finite, number_or_text, write_json
from common.live import attempt
from common.plots import save_figure, style
from law_report.arm_figures import draw_copies, draw_habits
from law_report.law_figures import exponent_text
from law_report.law_files import title_of


def write_arms(folder: Path) -> None:
    """arms.json, habits.png and copies.png of a sweep's folder, from its runs.csv and arms.csv; sentences on the screen."""
    rows, arms = (read_rows(folder / name) for name in ("runs.csv", "arms.csv"))
    found = finite(arm_findings(rows, arms))
    write_json(folder / "arms.json", found)
    print("\n" + "\n".join(arm_sentences(found)))
    title = title_of(arms[0]["dataset"])
    attempt(lambda: draw_arms(found, folder, title), "habits.png and copies.png")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a sweep's table, its numbers as numbers; where a run diverged its loss is ""."""
    with open(path, newline="", encoding="utf-8") as file:
        return [{name: number_or_text(value) for name, value in row.items()} for row in csv.DictReader(file)]


def draw_arms(found: dict[str, Any], folder: Path, title: str) -> None:
    """The figures of arms.json, as PNG and PDF."""
    with style():
        if found.get("habits"):
            save_figure(draw_habits(found["habits"], title), folder / "habits")
        if "copies" in found:
            save_figure(draw_copies(found["copies"], title), folder / "copies")


def arm_sentences(found: dict[str, Any]) -> list[str]:
    """What the arms say, a line for each habit and for each comparison of copies on clean test images."""
    lines = []
    if found["diverged"]:
        lines.append(f"{found['diverged']} of the arms' {found['runs']} runs diverged")
    for habit in found.get("habits", []):
        a = exponent_text(habit["a"]) if habit["a"] else f"none ({habit['why_not']})"
        change = f", change {exponent_text(habit['a_change'])}" if habit["arm"] and habit["a_change"] else ""
        lost = f" ({habit['left_out']} cells near chance left out)" if habit["left_out"] else ""
        lines.append(f"{habit['name']}: a = {a}{change}{lost}")
    for one in found.get("copies", {}).get("comparisons", []):
        if one["test"] == "clean":
            kind = "a second transformed copy" if one["kind"] == "copies" else "a second showing of a raw image"
            where = f"width {one['width']}" + (f", strength {one['strength']:g}" if one["strength"] != 1.0 else "")
            if "why_not" in one:
                lines.append(f"{where}: {kind}: {one['why_not']}")
                continue
            fresh = "fresh transformed images" if one["kind"] == "copies" else "fresh raw images"
            most = f"; endless ones count {exponent_text(one['most'])} times the images" if one.get("most") else ""
            lines.append(f"{where}: {kind} is worth {exponent_text(one['first_copy'])} {fresh}{most}")
    return lines
