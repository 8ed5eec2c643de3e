"""What the arms of a sweep leave in its folder: arms.json and their figures; and what was found, on the screen."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arms.arm_findings import arm_findings
from common.files import finite, write_json
from common.live import attempt
from common.plots import save_figure, style
from law_report.arm_figures import draw_copies, draw_habits
from law_report.law_figures import exponent_text
from law_report.law_files import title_of


def write_arms(usual: Sequence[dict[str, Any]], arms: Sequence[dict[str, Any]], folder: Path, dataset: str) -> None:
    """arms.json, habits.png and copies.png into `folder`; a paragraph onto the screen."""
    found = finite(arm_findings(usual, arms))
    write_json(folder / "arms.json", found)
    print("\n" + "\n".join(arm_sentences(found)))
    attempt(lambda: draw_arms(found, folder, title_of(dataset)), "habits.png and copies.png")


def draw_arms(found: dict[str, Any], folder: Path, title: str) -> None:
    """The figures of arms.json, as PNG and PDF."""
    with style():
        if "habits" in found:
            save_figure(draw_habits(found["habits"], title), folder / "habits")
        if "copies" in found:
            save_figure(draw_copies(found["copies"], title), folder / "copies")


def arm_sentences(found: dict[str, Any]) -> list[str]:
    """What the arms say, a line for each habit and for each comparison of copies on clean test images."""
    lines = []
    for habit in found.get("habits", []):
        a = exponent_text(habit["a"]) if habit["a"] else f"none ({habit['why_not']})"
        change = f", {exponent_text(habit['a_change'])} more" if habit["arm"] and habit["a_change"] else ""
        lines.append(f"{habit['name']}: a = {a}{change}")
    for one in found.get("copies", {}).get("comparisons", []):
        if one["test"] == "clean":
            strength = f", strength {one['strength']:g}" if one["strength"] not in (None, 1.0) else ""
            kind = "a second transformed copy" if one["kind"] == "copies" else "a second showing of a raw image"
            worth = exponent_text(one["first_copy"])
            most = f"; endless ones count {exponent_text(one['most'])} times the images" if one.get("most") else ""
            lines.append(f"width {one['width']}{strength}: {kind} is worth {worth} fresh images{most}")
    return lines
